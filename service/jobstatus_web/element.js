// <job-status>: an element that shows the progress of a job, live.
//
//   <script type="module" src="https://jobs.example/assets/element.js"></script>
//   <job-status job="ID" token="TOKEN"></job-status>
//
// Attributes: `job` (any id of the job), `token` (a job token), `url` (the address of the
// service; by default where this module came from, if that was the service), `label` (the name that is
// shown and announced; by default the job's name). Instead of `token` and `url`, the whole page may share one
// client: `configure({ url, credentials })`.
//
// Events, which bubble: `jobchange` for the first status and after each change, `jobdone` once when the job has finished; `detail` is
// the `JobDetails`. CSS: the custom properties `--job-status-*` below, and the parts `name`, `state`, `bar`,
// `fill`, `reason`, `time`. The attribute `state` is the job's state, or `unknown` where the
// status is not available.

import { isFinal, JobStatusClient, jobUuid } from "./client.js";

/** @typedef {import("./client.js").JobDetails} JobDetails */
/** @typedef {import("./client.js").Snapshot} Snapshot */
/** @typedef {import("./client.js").State} State */

/** @type {Record<State, string>} */
const STATE_NAMES = {
  pending: "pending",
  in_progress: "in progress",
  retrying: "retrying",
  succeeded: "succeeded",
  aborted: "aborted",
  failed: "failed",
  unknown: "unknown",
};

const STYLE = `
  :host { display: block; font: inherit; color: inherit; }
  :host([hidden]) { display: none; }
  .line { display: flex; gap: 0.75em; align-items: baseline; min-width: 0; }
  .text { flex: 1; min-width: 0; overflow: hidden; text-overflow: ellipsis; white-space: nowrap;
    unicode-bidi: isolate; }
  [part="name"] { font-weight: 600; flex: 0 1 auto; }
  [hidden] { display: none; }
  [part="time"], [part="state"] { flex: none; font-variant-numeric: tabular-nums; }
  [part="bar"] { height: var(--job-status-height, 0.5em); border-radius: var(--job-status-radius, 0.25em);
    background: var(--job-status-track, rgb(127 127 127 / 0.25)); overflow: hidden; margin: 0.35em 0; }
  [part="fill"] { height: 100%; width: 0; border-radius: inherit; transform-origin: left;
    background: var(--job-status-color, #2563eb); transition: width 0.15s linear; }
  [part="reason"] { opacity: 0.8; font-size: 0.875em; min-height: 1.2em; }
  :host([state="succeeded"]) [part="fill"] { background: var(--job-status-success, #15803d); }
  :host([state="failed"]) [part="fill"] { background: var(--job-status-failure, #b91c1c); }
  :host([state="aborted"]) [part="fill"], :host([state="unknown"]) [part="fill"] {
    background: var(--job-status-inactive, #6b7280); }
  .indeterminate [part="fill"] { width: 30% !important; animation: slide 1.2s ease-in-out infinite alternate; }
  @keyframes slide { from { margin-left: 0; } to { margin-left: 70%; } }
  .announcement { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  @media (prefers-reduced-motion: reduce) {
    [part="fill"] { transition: none; }
    .indeterminate [part="fill"] { animation: none; width: 100% !important; opacity: 0.4; }
  }
  @media (forced-colors: active) {
    [part="bar"] { border: 1px solid CanvasText; }
    [part="fill"] { background: Highlight !important; forced-color-adjust: none; }
  }
`;

/** @type {CSSStyleSheet | undefined} one for all elements; a strict Content-Security-Policy allows it */
let styleSheet;

/** @type {Map<string, JobStatusClient>} by address and token */
const clients = new Map();

/** @type {Set<string>} the addresses whose failure the console explains, once */
const explained = new Set();

/** @type {JobStatusClient | null} */
let configured = null;

/**
 * Set the client of all elements that have neither `token` nor `url`.
 * @param {JobStatusClient | ConstructorParameters<typeof JobStatusClient>[0]} client a client, or its options
 */
export function configure(client) {
  configured = client instanceof JobStatusClient ? client : new JobStatusClient({ url: defaultUrl(), ...client });
  if (typeof document === "undefined") return configured;
  for (const element of document.querySelectorAll("job-status")) {
    if (element instanceof JobStatusElement) element.restart();
  }
  return configured;
}

/** Return the address of the service if this module came from it, else that of the page. */
function defaultUrl() {
  const [service] = /^https?:.*(?=\/assets\/)/.exec(import.meta.url) ?? ["/"];
  return service;
}

/**
 * Format a duration for people, such as `2 min 5 s`.
 * @param {number} seconds
 */
export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  const units = [[86_400, "d"], [3_600, "h"], [60, "min"], [1, "s"]];
  for (const [i, [size, unit]] of /** @type {[number, string][]} */ (units).entries()) {
    if (whole < size) continue;
    const rest = i < 3 ? Math.floor((whole % size) / /** @type {number} */ (units[i + 1][0])) : 0;
    const text = `${Math.floor(whole / size)} ${unit}`;
    return rest && whole < 10 * size ? `${text} ${rest} ${units[i + 1][1]}` : text;
  }
  return "0 s";
}

/**
 * Return the estimated seconds until a job succeeds; null if there is no estimate.
 * @param {JobDetails} status
 * @param {number} receivedAt when the status arrived, by `performance.now()`: the clocks of the service and of
 *   this computer may differ
 */
export function secondsLeft(status, receivedAt) {
  if (status.eta_seconds === null || isFinal(status)) return null;
  return Math.max(0, status.eta_seconds - (performance.now() - receivedAt) / 1_000);
}

const Base = /** @type {typeof HTMLElement} */ (globalThis.HTMLElement ?? class {});

export class JobStatusElement extends Base {
  static observedAttributes = ["job", "token", "url", "label"];

  /** @type {JobDetails | null} */
  #status = null;
  #receivedAt = 0;
  /** Why there is nothing to show; empty if there is. */
  #problem = "";
  /** @type {() => void} */
  #unsubscribe = () => {};
  #generation = 0;
  /** @type {Record<string, HTMLElement> | null} */
  #parts = null;
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #ticking;

  /** The last known status; null until there is one. */
  get status() {
    return this.#status;
  }

  connectedCallback() {
    this.#build();
    this.restart();
  }

  disconnectedCallback() {
    this.#generation += 1;
    this.#unsubscribe();
    clearInterval(this.#ticking);
  }

  /**
   * @param {string} name
   * @param {string | null} before
   * @param {string | null} value
   */
  attributeChangedCallback(name, before, value) {
    if (!this.isConnected || before === value) return;
    if (name === "label") this.#show();
    else this.restart();
  }

  /** Watch the job that the attributes name. */
  async restart() {
    this.#unsubscribe();
    this.#unsubscribe = () => {};
    clearInterval(this.#ticking);
    const generation = (this.#generation += 1);
    // Attributes that are set one after the other are one change.
    await null;
    const id = this.getAttribute("job");
    if (generation !== this.#generation) return;
    if (!id) {
      this.#status = null;
      this.#show();
      return;
    }
    try {
      const uuid = await jobUuid(id);
      if (generation !== this.#generation) return;
      if (this.#status?.id !== uuid) this.#status = null;
      this.#problem = "";
      this.#show();
      this.#ticking = setInterval(() => this.#showTime(), 1_000);
      // A listener of the page may remove the element, or change its job, before `subscribe` returns.
      const end = this.#client().subscribe(uuid, (snapshot) => {
        if (generation === this.#generation) this.#update(snapshot);
      });
      if (generation === this.#generation) this.#unsubscribe = end;
      else end();
    } catch (error) {
      if (generation === this.#generation) this.#fail(error instanceof Error ? error.message : String(error));
    }
  }

  #client() {
    const token = this.getAttribute("token");
    const url = this.getAttribute("url") ?? (token === null && configured ? configured.url : defaultUrl());
    if (token === null && configured && configured.url === url) return configured;
    const key = `${url} ${token ?? ""}`;
    let client = clients.get(key);
    if (!client) {
      client = new JobStatusClient({ url, credentials: token ?? undefined });
      clients.set(key, client);
    }
    return client;
  }

  /** @param {Snapshot} snapshot */
  #update({ status, error, isConnected, problem }) {
    this.toggleAttribute("disconnected", !isConnected);
    if (error) {
      this.#fail(error.message);
      return;
    }
    const before = this.#status;
    const isSame = before !== null && JSON.stringify(before) === JSON.stringify(status);
    if (!isSame) this.#receivedAt = performance.now();
    this.#status = status;
    this.#problem = "";
    if (!status && problem) this.#explainNoConnection(problem);
    this.#show();
    if (!status || isSame) return;
    const options = { detail: status, bubbles: true, composed: true };
    this.dispatchEvent(new CustomEvent("jobchange", options));
    if (!isFinal(status)) return;
    clearInterval(this.#ticking);
    this.dispatchEvent(new CustomEvent("jobdone", options));
  }

  /** @param {Error} problem */
  #explainNoConnection(problem) {
    const { url } = this.#client();
    const isOffline = problem instanceof TypeError; // what `fetch` throws without a connection
    this.#problem = isOffline ? `No connection to ${new URL(url, location.href).host} yet.` : problem.message;
    if (!isOffline || explained.has(url)) return;
    explained.add(url);
    console.warn(
      `<job-status>: ${url} can't be reached (${problem.message}). Is the service running? ` +
        `If it is: does its JOBSTATUS_CORS_ORIGINS contain ${location.origin}?`,
    );
  }

  /** @param {string} message */
  #fail(message) {
    clearInterval(this.#ticking);
    this.#problem = message;
    this.#show();
  }

  #build() {
    if (this.#parts) return;
    if (!styleSheet) {
      styleSheet = new CSSStyleSheet();
      styleSheet.replaceSync(STYLE);
    }
    const root = this.attachShadow({ mode: "open" });
    root.adoptedStyleSheets = [styleSheet];
    /** @type {Record<string, HTMLElement>} */
    const parts = {};
    for (const part of ["name", "state", "time", "bar", "fill", "reason"]) {
      parts[part] = document.createElement("div");
      parts[part].setAttribute("part", part);
    }
    const line = document.createElement("div");
    line.className = "line";
    line.append(parts.name, parts.state, parts.time);
    parts.name.classList.add("text");
    parts.reason.classList.add("text");
    parts.name.dir = parts.reason.dir = "auto";
    parts.bar.append(parts.fill);
    parts.bar.setAttribute("role", "progressbar");
    parts.bar.setAttribute("aria-valuemin", "0");
    parts.bar.setAttribute("aria-valuemax", "100");
    parts.announcement = document.createElement("div");
    parts.announcement.className = "announcement";
    parts.announcement.setAttribute("role", "status");
    root.append(line, parts.bar, parts.reason, parts.announcement);
    this.#parts = parts;
  }

  #show() {
    const parts = this.#parts;
    if (!parts) return;
    const status = this.#status;
    const state = this.#problem ? "unknown" : status?.state ?? "";
    const stateName = this.#problem ? "not available" : status ? STATE_NAMES[status.state] ?? status.state : "…";
    const name = this.getAttribute("label") ?? status?.name ?? "";
    if (this.getAttribute("state") !== state) {
      this.setAttribute("state", state);
      // Screen readers announce states, not every percent.
      if (status) setText(parts.announcement, `${name} ${stateName}`.trim());
    }
    const isRunning = !this.#problem && status !== null && !isFinal(status) && status.state !== "unknown";
    const hasProgress = status !== null && (status.has_progress || isFinal(status));
    const progress = status && (status.has_progress ? status.progress : status.state === "succeeded" ? 100 : 0);
    setText(parts.name, name);
    setText(parts.state, status?.has_progress && isRunning ? `${Math.floor(status.progress)} %` : stateName);
    setText(parts.reason, this.#problem || (status?.reason ?? ""));
    parts.reason.title = parts.reason.textContent ?? "";
    parts.name.hidden = !name;
    parts.bar.setAttribute("aria-label", name || "job");
    parts.bar.setAttribute("aria-valuetext", hasProgress ? `${Math.floor(progress ?? 0)} %, ${stateName}` : stateName);
    if (hasProgress) parts.bar.setAttribute("aria-valuenow", String(progress));
    else parts.bar.removeAttribute("aria-valuenow");
    parts.bar.classList.toggle("indeterminate", isRunning && status.state !== "pending" && !hasProgress);
    parts.fill.style.width = `${progress ?? 0}%`;
    this.#showTime();
  }

  #showTime() {
    if (!this.#parts) return;
    const left = this.#problem || !this.#status ? null : secondsLeft(this.#status, this.#receivedAt);
    setText(this.#parts.time, left === null ? "" : `${duration(left)} left`);
  }
}

/**
 * @param {HTMLElement} element
 * @param {string} text
 */
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

if (globalThis.customElements && !customElements.get("job-status")) {
  customElements.define("job-status", JobStatusElement);
}
