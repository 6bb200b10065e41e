// The log-in: an API key or job token that is kept in the tab's session storage. It is never sent in a URL or stored in
// a cookie. A link /#key=KEY logs in, and the key is removed from the address. Behind a proxy that adds a credential by
// itself, nobody needs to log in.

import { JobStatusClient } from "../client.js";
import { byId, decoded } from "./dom.js";

const STORED = "jobstatus.key";

/** Take the key out of a link such as /#key=KEY, and out of the address and the history. */
function takeKeyFromAddress() {
  const [, key, rest = ""] = /^#key=([^&]+)(?:&(.*))?$/.exec(location.hash) ?? [];
  if (key === undefined) return;
  history.replaceState(null, "", `${location.pathname}${location.search}#${rest || "/"}`);
  sessionStorage.setItem(STORED, decoded(key));
}

export class Session {
  #form = byId("log-in-form", HTMLFormElement);
  #dialog = byId("log-in", HTMLDialogElement);
  #field = byId("key", HTMLInputElement);
  #logOut = byId("log-out", HTMLButtonElement);

  /** @param {() => void} onChange called after a log-in or log-out */
  constructor(onChange) {
    takeKeyFromAddress();
    this.onChange = onChange;
    this.client = this.#newClient();
    this.#form.addEventListener("submit", () => this.#use(this.#field.value.trim()));
    this.#dialog.addEventListener("cancel", (event) => event.preventDefault());
    this.#logOut.addEventListener("click", () => this.#use(null));
    // A link with a key, opened in this tab while the page is shown.
    addEventListener("hashchange", () => {
      const before = sessionStorage.getItem(STORED);
      takeKeyFromAddress();
      const key = sessionStorage.getItem(STORED);
      if (key !== before) this.#use(key);
    });
  }

  get hasKey() {
    return sessionStorage.getItem(STORED) !== null;
  }

  /** @param {string} reason why a key is needed, in one sentence */
  ask(reason) {
    byId("log-in-reason", HTMLElement).textContent = reason;
    this.#field.value = "";
    if (!this.#dialog.open) this.#dialog.showModal();
  }

  /** @param {string | null} key */
  #use(key) {
    this.#field.value = "";
    if (this.#dialog.open) this.#dialog.close();
    if (key) sessionStorage.setItem(STORED, key);
    else sessionStorage.removeItem(STORED);
    this.client.close();
    this.client = this.#newClient();
    this.onChange();
  }

  #newClient() {
    const key = sessionStorage.getItem(STORED);
    this.#logOut.hidden = key === null;
    return new JobStatusClient({ url: new URL(".", document.baseURI), credentials: key ?? undefined });
  }
}
