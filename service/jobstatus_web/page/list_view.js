// The list of jobs: live, newest first, with filters by state and name.

import { duration, secondsLeft } from "../element.js";
import { isFinal, RequestError } from "../client.js";
import { element, localTime, ProgressBar, setText, showState, STATE_LABELS, STATES } from "./dom.js";

/** @typedef {import("../client.js").JobStatusClient} JobStatusClient */
/** @typedef {import("../client.js").JobDetails} JobDetails */
/** @typedef {import("../client.js").State} State */

const PAGE_SIZE = 200;
const LIVE_JOBS = 50; // of the page that the service follows
const AFTER_FAILURE_MS = 5_000;
const MAX_ROWS = 5_000;
const COLUMNS = ["State", "Job", "Progress", "Reason"];
const NUMBER_COLUMNS = ["Age", "Left", "Attempt"];

export class ListView {
  /** @type {Map<string, Row>} */
  #rows = new Map();
  /** @type {Set<Row>} */
  #changed = new Set();
  #isFlushing = false;
  #abort = new AbortController();
  /** @type {string | null | undefined} where the next page begins; undefined before the first page */
  #cursor;
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #ticking;
  #isLoading = false;
  #client;
  #report;
  #states;
  #name;
  #focused;

  #filters = element("div", { class: "filters", role: "group", "aria-label": "Filters" });
  /** @type {Map<State, HTMLElement>} */
  #counts = new Map();
  #body = element("div", { class: "rows", role: "rowgroup" });
  #table = element("div", { role: "table", "aria-label": "Jobs" });
  #empty = element("div", { class: "empty" });
  #more = element("button", { class: "more", type: "button" }, "Show more");
  #observer = new IntersectionObserver((entries) => {
    if (entries.some((entry) => entry.isIntersecting)) void this.#loadMore();
  });

  /**
   * @param {JobStatusClient} client
   * @param {URLSearchParams} query the filters
   * @param {(error: unknown) => void} report
   * @param {string} focused the address of the job whose row is to have the focus
   */
  constructor(client, query, report, focused) {
    this.#client = client;
    this.#focused = focused;
    this.#report = report;
    this.#states = /** @type {State[]} */ (query.getAll("state")).filter((state) => STATES.includes(state));
    this.#name = query.get("name") ?? "";
    this.#makeFilters();
    const head = element("div", { class: "row head", role: "row" });
    head.append(...COLUMNS.map((title) => element("div", { class: "cell", role: "columnheader" }, title)));
    head.append(...NUMBER_COLUMNS.map((title) => element("div", { class: "cell number", role: "columnheader" }, title)));
    this.#table.append(element("div", { role: "rowgroup" }, head), this.#body);
    this.#table.hidden = this.#empty.hidden = this.#more.hidden = true;
    this.#more.addEventListener("click", () => void this.#loadMore());
    this.root = element("div", {}, this.#filters, this.#table, this.#empty, this.#more);
  }

  start() {
    this.#report(undefined);
    this.#ticking = setInterval(() => {
      const now = Date.now();
      for (const row of [...this.#rows.values()]) {
        if (row.job?.expires_at && Date.parse(row.job.expires_at) < now) this.#remove(row);
        else row.showTimes();
      }
    }, 1_000);
    this.#observer.observe(this.#more);
    void this.#follow();
  }

  stop() {
    this.#abort.abort();
    this.#observer.disconnect();
    clearInterval(this.#ticking);
  }

  /**
   * @param {string} key
   * @returns {boolean} whether the key means anything here
   */
  onKey(key) {
    if (key !== "j" && key !== "k") return false;
    const links = [...this.#body.querySelectorAll("a")];
    const current = links.findIndex((link) => link === document.activeElement);
    const next = key === "j" ? current + 1 : Math.max(0, current - 1);
    links[Math.min(next, links.length - 1)]?.focus();
    return true;
  }

  async #follow() {
    const options = { states: this.#states, name: this.#name, signal: this.#abort.signal };
    try {
      for await (const event of this.#client.follow(options)) {
        this.#report(event.type === "lost" ? event.error : null);
        if (event.type === "counts") this.#showCounts(event.counts);
        if (event.type === "status") this.#put(event.job);
        if (event.type === "list") this.#showPage(event.jobs);
      }
    } catch (error) {
      if (!this.#abort.signal.aborted) this.#report(error);
    }
  }

  /** @param {JobDetails[]} jobs the newest ones */
  #showPage(jobs) {
    const isWhole = jobs.length < LIVE_JOBS;
    const oldest = isWhole ? "" : sortKey(jobs[jobs.length - 1]);
    const listed = new Set(jobs.map((job) => job.id));
    for (const row of [...this.#rows.values()]) {
      // It was deleted while the connection was lost.
      if (row.job && sortKey(row.job) >= oldest && !listed.has(row.job.id)) this.#remove(row);
    }
    for (const job of jobs) this.#put(job);
    this.#more.hidden = isWhole && this.#cursor === undefined;
    this.#showWhetherEmpty();
  }

  #showWhetherEmpty() {
    const isEmpty = this.#rows.size === 0;
    if (isEmpty && this.#empty.hidden) this.#showEmpty();
    this.#empty.hidden = !isEmpty;
    this.#table.hidden = isEmpty;
  }

  /** @param {Row} row */
  #remove(row) {
    row.root.remove();
    this.#changed.delete(row);
    if (row.job) this.#rows.delete(row.job.id);
  }

  async #loadMore() {
    if (this.#isLoading || this.#cursor === null) return;
    this.#isLoading = true;
    try {
      const { jobs, next } = await this.#client.list({
        states: this.#states,
        name: this.#name,
        limit: PAGE_SIZE,
        cursor: this.#cursor,
        signal: this.#abort.signal,
      });
      for (const job of jobs) this.#put(job);
      this.#cursor = next;
      this.#more.hidden = next === null || this.#rows.size >= MAX_ROWS;
    } catch (error) {
      if (this.#abort.signal.aborted) return;
      this.#report(error);
      if (error instanceof RequestError && !error.isTransient) this.#more.hidden = true;
      await new Promise((resolve) => setTimeout(resolve, AFTER_FAILURE_MS));
    }
    this.#isLoading = false;
    if (this.#abort.signal.aborted) return;
    // Ask again whether the button is in view.
    this.#observer.unobserve(this.#more);
    this.#observer.observe(this.#more);
  }

  /** @param {JobDetails} job */
  #put(job) {
    let row = this.#rows.get(job.id);
    if (this.#states.length > 0 && !this.#states.includes(job.state)) {
      if (row) this.#remove(row);
      this.#showWhetherEmpty();
      return;
    }
    if (!row) {
      row = new Row();
      this.#rows.set(job.id, row);
    }
    row.job = job;
    row.receivedAt = performance.now();
    this.#showWhetherEmpty();
    this.#changed.add(row);
    if (this.#isFlushing) return;
    this.#isFlushing = true;
    requestAnimationFrame(() => this.#flush());
  }

  /** Show all changes since the last frame. */
  #flush() {
    this.#isFlushing = false;
    let mustSort = false;
    for (const row of this.#changed) mustSort = row.show() || mustSort;
    this.#changed.clear();
    if (!mustSort) return;
    const rows = [...this.#rows.values()].sort((a, b) => (a.key < b.key ? 1 : a.key > b.key ? -1 : 0));
    for (const row of rows.splice(MAX_ROWS)) this.#remove(row);
    /** @type {Element | null} */
    let place = this.#body.firstElementChild;
    for (const row of rows) {
      if (row.root === place) place = place.nextElementSibling;
      else this.#body.insertBefore(row.root, place);
    }
    if (this.#focused) this.#focus();
  }

  /** Focus the row of the job that was shown before, once, unless something else has the focus by now. */
  #focus() {
    const link = this.#body.querySelector(`a[href="${this.#focused.replaceAll('"', '')}"]`);
    if (!(link instanceof HTMLElement)) return;
    this.#focused = "";
    const current = document.activeElement;
    if (current === document.body || current?.id === "view") link.focus();
  }

  #makeFilters() {
    for (const state of STATES) {
      const isOn = this.#states.includes(state);
      const count = element("span", { class: "count" });
      const label = element("span", {});
      showState(label, state);
      const button = element("button", { type: "button", "aria-pressed": String(isOn) }, label, count);
      button.addEventListener("click", () => {
        this.#go(isOn ? this.#states.filter((each) => each !== state) : [...this.#states, state], this.#name);
      });
      if (state === "unknown") button.title = "Jobs whose worker has stopped reporting; they are not counted";
      else this.#counts.set(state, count);
      this.#filters.append(button);
    }
    const field = element("input", { type: "search", placeholder: "Exact name, then Enter", "aria-label": "Name of the jobs", autocomplete: "off" });
    field.value = this.#name;
    field.addEventListener("change", () => this.#go(this.#states, field.value.trim()));
    this.#filters.append(field);
  }

  /**
   * @param {State[]} states
   * @param {string} name
   */
  #go(states, name) {
    const query = new URLSearchParams(states.map((state) => ["state", state]));
    if (name) query.set("name", name);
    location.hash = `#/${query.size ? `?${query}` : ""}`;
  }

  /** @param {Record<string, number>} counts */
  #showCounts(counts) {
    for (const [state, place] of this.#counts) setText(place, counts[state].toLocaleString());
  }

  #showEmpty() {
    if (this.#states.length > 0 || this.#name) {
      const link = element("a", { href: "#/" }, "Show all jobs");
      const wanted = this.#states.map((state) => STATE_LABELS[state]).join(" or ");
      const named = this.#name ? ` with the name ${this.#name}` : "";
      const which = wanted ? ` that is ${wanted}` : "";
      this.#empty.replaceChildren(element("p", {}, `There is no job${which}${named}.`), link);
      return;
    }
    this.#empty.replaceChildren(
      element("p", {}, "There is no job yet, or none whose status is still kept."),
      element("p", {}, "Jobs appear here as soon as they are enqueued. Start a worker with"),
      element("code", {}, "jobstatus-worker app.WorkerSettings"),
      element("p", {}, "with the same Redis and the same JOBSTATUS_KEY_PREFIX as this service."),
    );
  }
}

/**
 * Return a text by which jobs are sorted as the service does.
 * @param {JobDetails} job
 */
function sortKey(job) {
  return `${(isFinal(job) && job.finished_at) || job.created_at} ${job.id}`;
}

/** The row of a job. */
class Row {
  /** @type {JobDetails | undefined} */
  job;
  receivedAt = 0;
  key = "";
  #state = element("div", { role: "cell" });
  #link = element("a", { dir: "auto" });
  #bar = new ProgressBar();
  #reason = element("div", { class: "cell reason dim", role: "cell", dir: "auto" });
  #since = element("div", { class: "cell number", role: "cell" });
  #left = element("div", { class: "cell number", role: "cell" });
  #attempt = element("div", { class: "cell number attempt", role: "cell" });
  root = element(
    "div",
    { class: "row", role: "row" },
    this.#state,
    element("div", { class: "cell job-name", role: "cell" }, this.#link),
    element("div", { class: "cell progress-cell", role: "cell" }, this.#bar.element),
    this.#reason,
    this.#since,
    this.#left,
    this.#attempt,
  );

  /** Show the job; return whether its place in the list may have changed. */
  show() {
    const { job } = this;
    if (!job) return false;
    showState(this.#state, job.state, "cell");
    setText(this.#link, job.name || job.id);
    this.#link.title = job.id;
    this.#link.href = `#/jobs/${job.id}`;
    this.#bar.show(job);
    setText(this.#reason, job.reason);
    this.#reason.title = job.reason;
    setText(this.#attempt, job.attempt === null ? "" : String(job.attempt));
    const end = isFinal(job) && job.finished_at;
    this.#since.title = end ? `finished ${localTime(end)}` : `enqueued ${localTime(job.created_at)}`;
    this.showTimes();
    const key = sortKey(job);
    const mustMove = key !== this.key;
    this.key = key;
    return mustMove;
  }

  showTimes() {
    const { job } = this;
    if (!job) return;
    const now = Date.now();
    const since = isFinal(job) && job.finished_at ? job.finished_at : job.created_at;
    setText(this.#since, duration((now - Date.parse(since)) / 1_000));
    const left = secondsLeft(job, this.receivedAt);
    setText(this.#left, left === null ? "" : duration(left));
  }
}
