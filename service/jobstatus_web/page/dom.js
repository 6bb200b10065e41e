// What the views share: making elements, and showing states, times and progress. Text becomes text nodes only:
// names and reasons of jobs may contain anything.

/** @typedef {import("../client.js").JobDetails} JobDetails */
/** @typedef {import("../client.js").State} State */

/** @type {State[]} */
export const STATES = ["pending", "in_progress", "retrying", "succeeded", "failed", "aborted", "unknown"];

/** @type {Record<State, string>} */
export const STATE_LABELS = {
  pending: "pending",
  in_progress: "in progress",
  retrying: "retrying",
  succeeded: "succeeded",
  failed: "failed",
  aborted: "aborted",
  unknown: "unknown",
};

/**
 * Make an element.
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, string>} [attributes]
 * @param {(Node | string)[]} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/**
 * Return an element of the document.
 * @template {HTMLElement} T
 * @param {string} id
 * @param {new () => T} kind
 * @returns {T}
 */
export function byId(id, kind) {
  const found = document.getElementById(id);
  if (!(found instanceof kind)) throw new Error(`there is no ${kind.name} with the id ${id}`);
  return found;
}

/**
 * Decode a part of an address; one that is malformed stays as it is.
 * @param {string} text
 */
export function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/**
 * @param {Element} element
 * @param {string} text
 */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * Show a state by its name and its colour.
 * @param {Element} element
 * @param {State} state
 * @param {string} [className]
 */
export function showState(element, state, className = "") {
  const wanted = `${className} state ${STATES.includes(state) ? state : "unknown"}`.trim();
  if (element.className !== wanted) element.className = wanted;
  setText(element, STATE_LABELS[state] ?? state);
}

/** A progress bar with its percentage. */
export class ProgressBar {
  #fill = element("div", { class: "fill" });
  #track = element("div", { class: "track", role: "progressbar", "aria-valuemin": "0", "aria-valuemax": "100" }, this.#fill);
  #text = element("span", { class: "number" });
  element = element("div", { class: "progress" }, this.#track, this.#text);
  #shown = "";

  /** @param {JobDetails} job */
  show(job) {
    const shown = `${job.state} ${job.has_progress} ${job.progress} ${job.name}`;
    if (shown === this.#shown) return;
    this.#shown = shown;
    const percent = job.has_progress ? job.progress : job.state === "succeeded" ? 100 : 0;
    this.#track.setAttribute("aria-label", `progress of ${job.name || "the job"}`);
    if (job.has_progress) this.#track.setAttribute("aria-valuenow", String(job.progress));
    else this.#track.removeAttribute("aria-valuenow");
    this.#fill.style.transform = `scaleX(${percent / 100})`;
    this.#track.className = `track ${job.state}`;
    setText(this.#text, job.has_progress ? `${Math.floor(job.progress)} %` : "");
  }
}

/**
 * Return a time in the person's own time zone.
 * @param {string | null} time
 */
export function localTime(time) {
  return time === null ? "" : new Date(time).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
}

/**
 * Copy a text, and say so on the button.
 * @param {HTMLButtonElement} button
 * @param {() => string} text
 */
export function copyOnClick(button, text) {
  const label = button.textContent ?? "";
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text());
      button.textContent = "Copied";
    } catch {
      button.textContent = "Not allowed";
    }
    setTimeout(() => (button.textContent = label), 1_500);
  });
}
