// One job: its status and details, its progress over time, its result, the command and the link to copy.

import { jobUuid, RequestError } from "../client.js";
import { duration, secondsLeft } from "../element.js";
import { copyOnClick, element, localTime, ProgressBar, setText, showState, STATE_LABELS } from "./dom.js";

/** @typedef {import("../client.js").JobStatusClient} JobStatusClient */
/** @typedef {import("../client.js").JobDetails} JobDetails */

const MAX_POINTS = 2_000;
const SVG = "http://www.w3.org/2000/svg";

/** @type {Record<string, string>} */
const UNKNOWN_CAUSES = {
  lease_expired: "Its worker has stopped reporting, and has probably died. Another attempt may follow.",
  unreadable: "Its record is malformed; the service's log says how.",
};

export class JobView {
  #abort = new AbortController();
  #hasStopped = false;
  #unsubscribe = () => {};
  /** @type {JobDetails | null} */
  #job = null;
  #receivedAt = 0;
  #hasAskedForResult = false;
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #ticking;
  #client;
  #id;
  #report;

  #name = element("h2", { dir: "auto" });
  #state = element("span", {});
  #bar = new ProgressBar();
  #reason = element("p", { class: "reason" });
  #facts = element("dl", {});
  /** @type {Map<string, HTMLElement>} */
  #values = new Map();
  #chart = new Chart();
  #result = element("section", { "aria-label": "Result" });
  #elsewhere = element("section", { "aria-label": "Command and link" });
  #announcement = element("p", { class: "hidden", role: "status" });

  /**
   * @param {JobStatusClient} client
   * @param {string} id
   * @param {(error: unknown) => void} report
   */
  constructor(client, id, report) {
    this.#client = client;
    this.#id = id;
    this.#report = report;
    this.root = element(
      "article",
      { class: "job" },
      element("p", {}, element("a", { href: "#/" }, "All jobs")),
      element("div", { class: "title" }, this.#name, this.#state),
      element("div", { class: "big" }, this.#bar.element),
      this.#reason,
      this.#announcement,
      this.#facts,
      this.#chart.root,
      this.#result,
      this.#elsewhere,
    );
  }

  start() {
    this.#report(undefined);
    this.#ticking = setInterval(() => this.#showTimes(), 1_000);
    void this.#watch();
  }

  stop() {
    this.#hasStopped = true;
    this.#unsubscribe();
    this.#abort.abort();
    clearInterval(this.#ticking);
  }

  async #watch() {
    let uuid;
    try {
      uuid = await jobUuid(this.#id);
    } catch (error) {
      this.#report(error);
      return;
    }
    if (this.#hasStopped) return;
    this.#unsubscribe = this.#client.subscribe(uuid, ({ status, error, isConnected, problem }) => {
      this.#report(error ?? (isConnected ? null : problem));
      if (status && status !== this.#job) this.#show(status);
    });
  }

  /** @param {JobDetails} job */
  #show(job) {
    const before = this.#job;
    this.#job = job;
    this.#receivedAt = performance.now();
    document.title = `${job.name || "Job"}: ${job.state}`;
    setText(this.#name, job.name || job.id);
    if (before?.state !== job.state) setText(this.#announcement, `State: ${STATE_LABELS[job.state] ?? job.state}`);
    showState(this.#state, job.state);
    this.#bar.show(job);
    this.#fact("Id", job.id);
    const hasRecord = job.unknown_cause !== "no_record";
    this.#fact("Enqueued", hasRecord ? localTime(job.created_at) : "");
    this.#fact("Started", localTime(job.started_at));
    this.#fact("Last change", hasRecord ? localTime(job.updated_at) : "");
    this.#fact("Finished", localTime(job.finished_at));
    this.#fact("Attempt", job.attempt === null ? "" : String(job.attempt));
    this.#fact("Worker", job.worker ?? "");
    this.#fact("Status kept until", localTime(job.expires_at));
    this.#bar.element.hidden = !hasRecord;
    setText(this.#reason, hasRecord ? job.reason : this.#explanation());
    if (hasRecord) this.#fact("Why unknown", UNKNOWN_CAUSES[job.unknown_cause ?? ""] ?? "");
    this.#showTimes();
    if (job.has_progress) this.#chart.add(Date.parse(job.updated_at), job.progress);
    if (!before) this.#showElsewhere(job.id);
    if (job.has_result && !this.#hasAskedForResult) void this.#showResult();
  }

  #showTimes() {
    const job = this.#job;
    if (!job) return;
    const left = secondsLeft(job, this.#receivedAt);
    this.#fact("Left", left === null ? "" : `about ${duration(left)}`);
    const end = job.finished_at ? Date.parse(job.finished_at) : Date.now();
    this.#fact("Duration", job.started_at ? duration((end - Date.parse(job.started_at)) / 1_000) : "");
  }

  /**
   * @param {string} label
   * @param {string} value empty to leave the fact out
   */
  #fact(label, value) {
    let place = this.#values.get(label);
    if (!place) {
      if (!value) return;
      place = element("dd", { dir: "auto" });
      this.#values.set(label, place);
      this.#facts.append(element("dt", {}, label), place);
    }
    setText(place, value || "–");
  }

  /** Say why there is no record, with the id as it was given. */
  #explanation() {
    return `There is no record of a job with the id ${this.#id}: it never existed, or is no longer kept. It appears here when it is enqueued.`;
  }

  /** @param {string} uuid */
  #showElsewhere(uuid) {
    // The UUID, which the service has sent: an id in the address may be anything, also for a shell.
    this.#elsewhere.append(
      element("h2", {}, "Command and link"),
      copyable(`curl -H "Authorization: Bearer $KEY" '${this.#client.url}/api/jobs/${uuid}'`, "Copy"),
      copyable(`${location.origin}${location.pathname}#/jobs/${uuid}`, "Copy link"),
    );
  }

  async #showResult() {
    this.#hasAskedForResult = true;
    let text;
    try {
      text = JSON.stringify(await this.#client.result(this.#id, { signal: this.#abort.signal }), null, 2);
    } catch (error) {
      if (!(error instanceof RequestError)) return;
      text = error.message;
    }
    this.#result.replaceChildren(element("h2", {}, "Result"), copyable(text, "Copy"));
  }
}

/**
 * @param {string} text
 * @param {string} label
 */
function copyable(text, label) {
  const button = element("button", { type: "button" }, label);
  copyOnClick(button, () => text);
  return element("div", { class: "copy" }, element("pre", { tabindex: "0" }, text), button);
}

/** The progress over the time for which the job is watched. */
class Chart {
  /** @type {[number, number][]} */
  #points = [];
  #line = document.createElementNS(SVG, "polyline");
  #svg = document.createElementNS(SVG, "svg");
  root = element("section", { "aria-label": "Progress while it is watched" });

  constructor() {
    this.root.hidden = true;
    this.#svg.setAttribute("class", "chart");
    this.#svg.setAttribute("viewBox", "0 0 100 100");
    this.#svg.setAttribute("preserveAspectRatio", "none");
    this.#svg.setAttribute("role", "img");
    for (const y of [25, 50, 75]) {
      const line = document.createElementNS(SVG, "line");
      for (const [name, value] of Object.entries({ x1: 0, x2: 100, y1: y, y2: y })) line.setAttribute(name, String(value));
      this.#svg.append(line);
    }
    this.#svg.append(this.#line);
    this.root.append(element("h2", {}, "Progress while it is watched"), this.#svg);
  }

  /**
   * @param {number} at ms since the epoch
   * @param {number} progress
   */
  add(at, progress) {
    const last = this.#points.at(-1);
    if (last && at < last[0]) return;
    if (last && progress < last[1]) this.#points = []; // another attempt
    else if (last && at === last[0]) this.#points.pop();
    this.#points.push([at, progress]);
    // Leave out every second point rather than the old ones.
    if (this.#points.length > MAX_POINTS) this.#points = this.#points.filter((_, i) => i % 2 === 0);
    if (this.#points.length < 2) return;
    this.root.hidden = false;
    const [first] = this.#points[0];
    const span = Math.max(1, at - first);
    const points = this.#points.map(([x, y]) => `${(100 * (x - first)) / span},${100 - y}`);
    this.#line.setAttribute("points", points.join(" "));
    this.#svg.setAttribute("aria-label", `from ${this.#points[0][1]} to ${progress} percent in ${duration(span / 1_000)}`);
  }
}
