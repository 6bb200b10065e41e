// The JavaScript client of jobstatus, for browsers and for Node 20 and later. It has no dependencies.
//
//   const client = new JobStatusClient({ url: "https://jobs.example", credentials: token });
//   for await (const status of client.watch(id)) console.log(status.state, status.progress);
//
// All jobs that are watched through one client share one stream of events (for each 100 jobs). Where a
// proxy buffers streams, the client sends long polls instead, and where there are too many connections,
// plain polls. It stops while the page is hidden, and goes on when the page is shown again.

/** @typedef {"pending" | "in_progress" | "retrying" | "succeeded" | "aborted" | "failed" | "unknown"} State */

/**
 * The status of a job. Times are in RFC 3339; without a record they are 1970-01-01.
 * @typedef {object} JobStatus
 * @property {string} id the UUID of the job
 * @property {string} created_at when this run of the job was enqueued
 * @property {string} updated_at when state, progress or reason last changed
 * @property {string} name the kind of job
 * @property {string} reason what the job is doing, or why it has its state; plain text, may be empty
 * @property {boolean} has_progress whether the job has ever reported progress
 * @property {number} progress 0 to 100 percent
 * @property {State} state
 */

/**
 * What only `JobDetails` has; null where it does not apply.
 * @typedef {object} DetailsOnly
 * @property {string | null} started_at when the current or last attempt began
 * @property {string | null} finished_at
 * @property {number | null} attempt 1, 2, ...
 * @property {string | null} worker the host name of the process that runs the job, or has run it
 * @property {number | null} eta_seconds estimated seconds from `updated_at` until the job succeeds
 * @property {string | null} expires_at when the status of a finished job is deleted
 * @property {boolean} has_result
 * @property {"no_record" | "lease_expired" | "unreadable" | null} unknown_cause
 */

/** @typedef {JobStatus & DetailsOnly} JobDetails */

/** @typedef {{ jobs: JobDetails[], next: string | null }} JobList a page of a list, newest job first */

/** @typedef {Record<Exclude<State, "unknown">, number>} JobCounts */

/**
 * What is known of a job that is watched.
 * @typedef {object} Snapshot
 * @property {JobDetails | null} status null until the first answer
 * @property {Error | null} error why the job can't be watched; null while it can
 * @property {boolean} isConnected whether changes arrive; false from a lost connection until the next answer
 */

/**
 * An API key or a job token; or a function that returns one. The function is called again after a 401,
 * and, if it has a parameter, for ids that it has not been called with: the token must name them.
 * @typedef {string | ((ids: string[]) => string | Promise<string>)} Credentials
 */

/** @typedef {{ signal?: AbortSignal }} RequestOptions */

/** The final states. */
export const FINAL_STATES = Object.freeze(/** @type {State[]} */ (["succeeded", "aborted", "failed"]));

/**
 * Return whether a job has finished.
 * @param {JobStatus} status
 */
export function isFinal(status) {
  return FINAL_STATES.includes(status.state);
}

/** The base of all errors that the client throws on purpose. */
export class JobStatusError extends Error {
  name = "JobStatusError";
}

/** The service has rejected a request. */
export class RequestError extends JobStatusError {
  name = "RequestError";

  /**
   * @param {number} status the HTTP status
   * @param {string} message why, as the service says it
   * @param {number} retryAfter seconds after which the request may be sent again
   */
  constructor(status, message, retryAfter = 0) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }

  /** Whether the same request may be answered later. */
  get isTransient() {
    return this.status === 429 || this.status >= 500 || this.status === 408;
  }
}

/** `wait` has reached its timeout, or a job has been `unknown` for too long. */
export class WaitError extends JobStatusError {
  name = "WaitError";

  /**
   * @param {string} message
   * @param {(JobDetails | null)[]} statuses what is known of the jobs
   */
  constructor(message, statuses) {
    super(message);
    this.statuses = statuses;
  }
}

const MAX_JOBS_OF_A_STREAM = 100;
const MAX_STREAMS_OF_A_PAGE = 2; // a browser opens six connections to a server, for all its tabs
const FIRST_EVENT_MS = 5_000; // a stream that is silent for so long is buffered by a proxy
const SILENCE_MS = 35_000; // the service sends a comment every 15 s
const RETRY_STREAM_MS = 300_000;
const REFUSED_MS = 60_000;
const BUSY_MS = 10_000;
const LONG_POLL_SECONDS = 25;
const POLL_SECONDS = 2;
const MAX_BACKOFF_MS = 30_000;
const STALE_MS = 5_000; // replicas of the service may differ for at most 2 s
const HIDDEN_MS = 2_000;
const REOPEN_MS = 250;
const SOON_MS = 5_000;
const ASLEEP_MS = 10_000;
const TICK_MS = 2_000;
const MAX_TIMER_MS = 2 ** 31 - 1;

const NAMESPACE = "5a0cdcd99d3e4c678f0b6d8f3b6f1f27";
const UUID = /^[0-9a-f]{8}(-?)[0-9a-f]{4}\1[0-9a-f]{4}\1[0-9a-f]{4}\1[0-9a-f]{12}$/i;

/**
 * Return the UUID of a job: a UUID itself, or that of any other id, as the workers compute it.
 * @param {string} id
 * @returns {Promise<string>}
 */
export async function jobUuid(id) {
  if (UUID.test(id)) return hyphenated(id.replaceAll("-", "").toLowerCase());
  if (!globalThis.crypto?.subtle) {
    throw new JobStatusError("Ids that are not UUIDs need a secure context: https, or localhost.");
  }
  const namespace = NAMESPACE.match(/../g)?.map((hex) => parseInt(hex, 16)) ?? [];
  const name = new TextEncoder().encode(id);
  const hash = await crypto.subtle.digest("SHA-1", new Uint8Array([...namespace, ...name]));
  const bytes = new Uint8Array(hash).slice(0, 16); // version 5, RFC 9562, 5.5
  bytes[6] = (bytes[6] & 0x0f) | 0x50;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  return hyphenated([...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join(""));
}

/** @param {string} hex */
function hyphenated(hex) {
  return [0, 8, 12, 16, 20].map((from, i) => hex.slice(from, [8, 12, 16, 20, 32][i])).join("-");
}

/** @type {Map<string, number>} open streams by the origin of the service, of all clients of the page */
const openStreams = new Map();

export class JobStatusClient {
  /** @type {Map<string, Job>} the watched jobs by UUID */
  #jobs = new Map();
  /** @type {Set<Channel>} */
  #channels = new Set();
  /** @type {{ value: string, ids: Set<string> | null } | null} null ids: for all jobs */
  #credential = null;
  /** @type {Promise<void>} the last call of the function that returns credentials */
  #asking = Promise.resolve();

  /**
   * @param {object} [options]
   * @param {string | URL} [options.url] the address of the service; by default that of the page
   * @param {Credentials} [options.credentials] what to send in `Authorization`
   * @param {boolean} [options.background] whether to go on while the page is hidden
   * @param {number} [options.maxStreams] streams that are open at once; by default 2 in a browser
   * @param {typeof globalThis.fetch} [options.fetch]
   * @param {() => number} [options.random] from 0 up to 1
   */
  constructor(options = {}) {
    const isBrowser = typeof document !== "undefined";
    const url = new URL(options.url ?? "/", isBrowser ? document.baseURI : undefined);
    this.url = url.href.replace(/\/$/, "");
    this.maxStreams = options.maxStreams ?? (isBrowser ? MAX_STREAMS_OF_A_PAGE : Infinity);
    this.background = options.background ?? false;
    this.fetch = options.fetch ?? globalThis.fetch.bind(globalThis);
    this.random = options.random ?? Math.random;
    this.credentials = options.credentials;
  }

  /**
   * Return the status of a job.
   * @param {string} id any id of the job
   * @param {RequestOptions} [options]
   * @returns {Promise<JobStatus>}
   */
  async get(id, options) {
    return this.#json(`/api/jobs/${await jobUuid(id)}`, [id], options);
  }

  /**
   * Return the status of a job with its times, attempt, worker and estimated end.
   * @param {string} id
   * @param {RequestOptions} [options]
   * @returns {Promise<JobDetails>}
   */
  async details(id, options) {
    return this.#json(`/api/jobs/${await jobUuid(id)}/details`, [id], options);
  }

  /**
   * Return what a finished job has made.
   * @param {string} id
   * @param {RequestOptions} [options]
   * @returns {Promise<any>}
   * @throws {RequestError} with the status 404 if there is no result, 410 if it was dropped
   */
  async result(id, options) {
    return this.#json(`/api/jobs/${await jobUuid(id)}/result`, [id], options);
  }

  /**
   * Return a page of the list of jobs. It needs an API key.
   * @param {{ states?: State[], name?: string, limit?: number, cursor?: string | null } & RequestOptions} [options]
   * @returns {Promise<JobList>}
   */
  async list(options = {}) {
    return this.#json(`/api/jobs?${listQuery(options)}`, [], options);
  }

  /**
   * Return the number of jobs in each state. It needs an API key.
   * @param {RequestOptions} [options]
   * @returns {Promise<JobCounts>}
   */
  async counts(options) {
    return this.#json("/api/jobs/counts", [], options);
  }

  /**
   * Wait until a job has finished, or several have. Every final state ends the wait, `failed` and
   * `aborted` included. Aborting the signal ends the wait, not the job.
   * @template {string | string[]} T
   * @param {T} ids
   * @param {object} [options]
   * @param {"done" | "any-done"} [options.until] whether all of several jobs must finish, or any
   * @param {number} [options.timeout] milliseconds
   * @param {number} [options.unknown] milliseconds for which a job may be `unknown`; by default two minutes
   * @param {AbortSignal} [options.signal]
   * @returns {Promise<T extends string ? JobDetails : JobDetails[]>}
   * @throws {WaitError} the time is up
   * @throws {RequestError} the credentials are not accepted
   */
  async wait(ids, { until = "done", timeout = Infinity, unknown = 120_000, signal } = {}) {
    /** @type {(JobDetails | null)[]} */
    let statuses = [];
    const clock = new Deadline(signal);
    const names = typeof ids === "string" ? [ids] : [...ids];
    try {
      clock.start("timeout", timeout, "The jobs have not finished in time.");
      for await (const snapshots of this.#snapshots(names, clock.signal)) {
        statuses = snapshots.map((snapshot) => snapshot.status);
        const finished = statuses.filter((status) => status && isFinal(status)).length;
        if (until === "any-done" ? finished > 0 : finished === names.length) {
          return /** @type {any} */ (typeof ids === "string" ? statuses[0] : statuses);
        }
        if (statuses.some((status) => status?.state === "unknown")) {
          clock.start("unknown", unknown, "A job has been unknown for too long.");
        } else clock.stop("unknown");
      }
      throw new JobStatusError("unreachable: the snapshots never end");
    } catch (error) {
      if (clock.expired && error === clock.expired) throw new WaitError(clock.expired.message, statuses);
      throw error;
    } finally {
      clock.close();
    }
  }

  /**
   * Iterate over the statuses of jobs: first the current one of each, then each change, until all have
   * finished. A slow loop skips statuses: the next one of a job is always the newest.
   * @param {string | string[]} ids
   * @param {RequestOptions} [options]
   * @returns {AsyncGenerator<JobDetails, void, void>}
   * @throws {RequestError} the credentials are not accepted
   */
  async *watch(ids, { signal } = {}) {
    /** @type {Map<string, JobDetails>} */
    const seen = new Map();
    for await (const snapshots of this.#snapshots(typeof ids === "string" ? [ids] : [...ids], signal)) {
      for (const { status } of snapshots) {
        if (status && seen.get(status.id) !== status) {
          seen.set(status.id, status);
          yield status;
        }
      }
      if (snapshots.every(({ status }) => status && isFinal(status))) return;
    }
  }

  /**
   * Call a function with what is known of a job, at once if anything is, and after each change.
   * @param {string} uuid the UUID of the job, see `jobUuid`
   * @param {(snapshot: Snapshot) => void} listener
   * @returns {() => void} ends the subscription
   */
  subscribe(uuid, listener) {
    let job = this.#jobs.get(uuid);
    if (!job) {
      job = new Job(uuid);
      this.#jobs.set(uuid, job);
      this.#channelWithRoom().add(job);
    }
    const subscription = { listener };
    const { subscriptions } = job;
    subscriptions.add(subscription);
    if (job.snapshot.status || job.snapshot.error) listener(job.snapshot);
    return () => {
      subscriptions.delete(subscription);
      if (subscriptions.size === 0 && this.#jobs.get(uuid) === job) {
        this.#jobs.delete(uuid);
        job.channel?.remove(job);
      }
    };
  }

  /**
   * Return what is known of a job that is watched.
   * @param {string} uuid
   * @returns {Snapshot}
   */
  snapshot(uuid) {
    return this.#jobs.get(uuid)?.snapshot ?? NOTHING_KNOWN;
  }

  /**
   * Iterate over the events of a list: `list` with its newest 50 jobs, first and after each lost
   * connection; `status` with a job that is new or has changed; `counts`; and `lost` when the connection
   * is lost. It needs an API key.
   * @param {{ states?: State[], name?: string } & RequestOptions} [options]
   * @returns {AsyncGenerator<{ type: "list", jobs: JobDetails[] } | { type: "status", job: JobDetails }
   *   | { type: "counts", counts: JobCounts } | { type: "lost", error: Error }, void, void>}
   */
  async *follow(options = {}) {
    const { signal } = options;
    const path = `/api/jobs/events?${listQuery(options)}`;
    let request = new AbortController();
    const abort = () => request.abort(signal?.aborted ? signal.reason : REOPEN);
    const pause = new Pause(this, abort);
    signal?.addEventListener("abort", abort);
    pause.start();
    let noStreamUntil = -Infinity;
    try {
      for (;;) {
        await pause.whileHidden(() => !signal?.aborted);
        signal?.throwIfAborted();
        request = new AbortController();
        try {
          if (performance.now() < noStreamUntil) {
            yield { type: "list", jobs: (await this.list(options)).jobs };
            yield { type: "counts", counts: await this.counts(options) };
            pause.succeeded(1_000 * POLL_SECONDS);
            await pause.beforeRetry(request.signal);
            continue;
          }
          for await (const event of this.events(path, [], request.signal, pause)) {
            if (event.type === "list") yield { type: "list", jobs: event.data.jobs };
            if (event.type === "status") yield { type: "status", job: event.data };
            if (event.type === "counts") yield { type: "counts", counts: event.data };
          }
        } catch (error) {
          signal?.throwIfAborted();
          if (error === REOPEN) continue;
          if (error instanceof RequestError && !error.isTransient) throw error;
          if (error instanceof SilentStreamError) noStreamUntil = performance.now() + RETRY_STREAM_MS;
          pause.failed(error);
          yield { type: "lost", error: error instanceof Error ? error : new Error(String(error)) };
        }
        await pause.beforeRetry(request.signal);
      }
    } finally {
      pause.stop();
      signal?.removeEventListener("abort", abort);
      request.abort(REOPEN);
    }
  }

  /** End all subscriptions, waits and loops. */
  close() {
    for (const job of this.#jobs.values()) {
      job.fail(new JobStatusError("The client was closed."));
      job.channel?.remove(job);
    }
    this.#jobs.clear();
  }

  /**
   * @param {string[]} ids
   * @param {AbortSignal} [signal]
   * @returns {AsyncGenerator<Snapshot[], void, void>} what is known of all jobs, after each change
   */
  async *#snapshots(ids, signal) {
    signal?.throwIfAborted();
    const uuids = await Promise.all(ids.map(jobUuid));
    let wake = () => {};
    let hasChanged = true;
    const changed = () => {
      hasChanged = true;
      wake();
    };
    signal?.addEventListener("abort", changed);
    const unsubscribe = [...new Set(uuids)].map((uuid) => this.subscribe(uuid, changed));
    try {
      while (true) {
        signal?.throwIfAborted();
        if (!hasChanged) await new Promise((resolve) => (wake = () => resolve(undefined)));
        hasChanged = false;
        signal?.throwIfAborted();
        const snapshots = uuids.map((uuid) => this.snapshot(uuid));
        const error = snapshots.find((snapshot) => snapshot.error)?.error;
        if (error) throw error;
        yield snapshots;
      }
    } finally {
      signal?.removeEventListener("abort", changed);
      for (const end of unsubscribe) end();
    }
  }

  #channelWithRoom() {
    for (const channel of this.#channels) if (channel.hasRoom) return channel;
    const channel = new Channel(this, () => this.#channels.delete(channel));
    this.#channels.add(channel);
    return channel;
  }

  /**
   * @param {string} path
   * @param {string[]} ids
   * @param {RequestOptions} [options]
   */
  async #json(path, ids, { signal } = {}) {
    const response = await this.request(path, await Promise.all(ids.map(jobUuid)), { signal });
    return response.json();
  }

  /**
   * Send a GET request.
   * @param {string} path
   * @param {string[]} uuids the jobs that the credential must be good for
   * @param {{ signal?: AbortSignal, headers?: Record<string, string> }} [options]
   * @returns {Promise<Response>} with the status 200, 204 or 304
   * @throws {RequestError} any other status
   */
  async request(path, uuids, { signal, headers = {} } = {}) {
    for (let hasRefreshed = false; ; hasRefreshed = true) {
      const credential = await this.#credentialFor(uuids);
      const authorization = credential ? { Authorization: `Bearer ${credential}` } : undefined;
      const response = await this.fetch(this.url + path, {
        headers: { ...headers, ...authorization },
        signal,
        cache: "no-store",
        credentials: "omit",
        referrerPolicy: "no-referrer",
      });
      if (response.ok || response.status === 304) return response;
      const error = await errorOf(response);
      const isRefused = response.status === 401 || (response.status === 403 && uuids.length > 0);
      if (!isRefused || hasRefreshed || typeof this.credentials !== "function") throw error;
      if (this.#credential?.value === credential) this.#credential = null; // else it was refreshed meanwhile
    }
  }

  /**
   * Iterate over the events of a stream.
   * @param {string} path
   * @param {string[]} uuids
   * @param {AbortSignal} signal
   * @param {Pause} pause told when the service asks to wait, and how the stream has ended
   * @returns {AsyncGenerator<{ type: string, data: any }, void, void>}
   * @throws {SilentStreamError} nothing has arrived for too long
   */
  async *events(path, uuids, signal, pause) {
    await this.#credentialFor(uuids);
    const silence = new Deadline(signal);
    const began = performance.now();
    let hasBegun = false;
    try {
      silence.start("silence", FIRST_EVENT_MS, "The stream has not begun.");
      const headers = { Accept: "text/event-stream" };
      const response = await this.request(path, uuids, { signal: silence.signal, headers });
      if (!response.body || response.status === 204) return;
      const onBytes = () => {
        if (!hasBegun) return; // the headers and half an event are no proof of a working stream
        silence.stop("silence");
        silence.start("silence", SILENCE_MS, "The stream is silent.");
      };
      for await (const event of parseEvents(response.body, onBytes)) {
        if (!hasBegun) {
          hasBegun = true;
          onBytes();
        }
        if (event.type === "retry") pause.retry(Number(event.data));
        else yield { type: event.type, data: JSON.parse(event.data) };
      }
      // It has ended before its jobs have. If that happens soon after its begin, it is a failure.
      if (hasBegun && performance.now() - began > SOON_MS) pause.succeeded();
      else pause.failed();
    } catch (error) {
      if (hasBegun && performance.now() - began > SOON_MS) pause.succeeded();
      if (silence.expired) throw new SilentStreamError(silence.expired.message);
      throw error;
    } finally {
      silence.close();
    }
  }

  /** @param {string[]} uuids */
  async #credentialFor(uuids) {
    const { credentials } = this;
    if (typeof credentials !== "function") return credentials;
    const covers = () => this.#credential && (!this.#credential.ids || uuids.every((id) => this.#credential?.ids?.has(id)));
    if (!covers()) {
      this.#asking = this.#asking.catch(() => {}).then(async () => {
        if (covers()) return; // another request has asked meanwhile
        const ids = [...new Set([...uuids, ...this.#jobs.keys()])];
        const value = await credentials(ids.slice(0, MAX_JOBS_OF_A_STREAM));
        this.#credential = { value, ids: credentials.length ? new Set(ids.slice(0, MAX_JOBS_OF_A_STREAM)) : null };
      });
      await this.#asking;
    }
    return this.#credential?.value;
  }
}

/** @type {Snapshot} */
const NOTHING_KNOWN = Object.freeze({ status: null, error: null, isConnected: true });

/** A stream that a proxy buffers, or whose connection is dead. */
class SilentStreamError extends JobStatusError {}

/** A job that is watched. */
class Job {
  /** @type {Snapshot} */
  snapshot = NOTHING_KNOWN;
  /** @type {Set<{ listener: (snapshot: Snapshot) => void }>} */
  subscriptions = new Set();
  /** @type {Channel | null} */
  channel = null;
  #acceptedAt = -Infinity;

  /** @param {string} uuid */
  constructor(uuid) {
    this.uuid = uuid;
  }

  get isDone() {
    const { status, error } = this.snapshot;
    return error !== null || (status !== null && isFinal(status));
  }

  /** @param {JobDetails} status */
  accept(status) {
    const { status: last, isConnected } = this.snapshot;
    if (last && isOlder(status, last) && performance.now() - this.#acceptedAt < STALE_MS) return;
    this.#acceptedAt = performance.now();
    if (last && isConnected && JSON.stringify(last) === JSON.stringify(status)) return;
    this.#set({ status, error: null, isConnected: true });
  }

  /** @param {boolean} isConnected */
  setConnected(isConnected) {
    if (this.snapshot.isConnected !== isConnected) this.#set({ ...this.snapshot, isConnected });
  }

  /** @param {Error} error */
  fail(error) {
    this.#set({ ...this.snapshot, error });
  }

  /** @param {Snapshot} snapshot */
  #set(snapshot) {
    this.snapshot = snapshot;
    for (const { listener } of [...this.subscriptions]) {
      try {
        listener(snapshot);
      } catch (error) {
        (globalThis.reportError ?? console.error)(error);
      }
    }
  }
}

/**
 * Return whether a status is older than the last one, as that of a replica of the service whose cache
 * is not current. A new run of the job is newer than the end of the last run.
 * @param {JobStatus} status
 * @param {JobStatus} last
 */
function isOlder(status, last) {
  if (isFinal(last)) return status.state !== last.state && !(status.created_at > last.created_at);
  if (status.state === "unknown" || last.state === "unknown") return false;
  return status.created_at <= last.created_at && status.updated_at < last.updated_at;
}

/**
 * Up to 100 jobs that are watched with one request at a time: a stream; a long poll where a proxy buffers
 * streams; a plain poll where the service refuses both, or the page has enough streams already.
 */
class Channel {
  /** @type {Map<string, Job>} */
  #jobs = new Map();
  #request = new AbortController();
  #isRunning = false;
  #openedAt = -Infinity;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #opening;
  /** @type {"long poll" | "poll"} what to do instead of streaming */
  #instead = "poll";
  #insteadUntil = -Infinity;
  #etag = "";
  #client;
  #onEmpty;
  #pause;

  /**
   * @param {JobStatusClient} client
   * @param {() => void} onEmpty
   */
  constructor(client, onEmpty) {
    this.#client = client;
    this.#onEmpty = onEmpty;
    this.#pause = new Pause(client, () => this.#request.abort(REOPEN));
  }

  get hasRoom() {
    return this.#unfinished().length < MAX_JOBS_OF_A_STREAM;
  }

  /** @param {Job} job */
  add(job) {
    job.channel = this;
    this.#jobs.set(job.uuid, job);
    if (this.#opening !== undefined) return;
    // Jobs that come one by one share the next request.
    const wait = Math.max(0, this.#openedAt + REOPEN_MS - performance.now());
    this.#opening = setTimeout(() => {
      this.#opening = undefined;
      this.#openedAt = performance.now();
      this.#etag = "";
      this.#request.abort(REOPEN);
      if (!this.#isRunning) void this.#run();
    }, wait);
  }

  /** @param {Job} job */
  remove(job) {
    this.#jobs.delete(job.uuid);
    if (this.#unfinished().length === 0) this.close();
  }

  close() {
    clearTimeout(this.#opening);
    this.#opening = undefined;
    this.#request.abort(REOPEN);
    this.#pause.wake();
    if (this.#jobs.size === 0 && !this.#isRunning) this.#onEmpty();
  }

  #unfinished() {
    return [...this.#jobs.values()].filter((job) => !job.isDone);
  }

  async #run() {
    this.#isRunning = true;
    this.#pause.start();
    for (;;) {
      await this.#pause.whileHidden(() => this.#unfinished().length > 0);
      const jobs = this.#unfinished();
      if (jobs.length === 0) break;
      this.#request = new AbortController();
      try {
        await this.#exchange(jobs);
      } catch (error) {
        if (error !== REOPEN) await this.#onError(error, jobs);
      }
      if (this.#unfinished().length > 0) await this.#pause.beforeRetry(this.#request.signal);
    }
    this.#pause.stop();
    this.#isRunning = false;
    if (this.#jobs.size === 0) this.#onEmpty();
  }

  /** @param {Job[]} jobs */
  async #exchange(jobs) {
    if (performance.now() < this.#insteadUntil) {
      await this.#poll(jobs, this.#instead === "long poll" ? LONG_POLL_SECONDS : 0);
      return;
    }
    const { url, maxStreams } = this.#client;
    const open = openStreams.get(url) ?? 0;
    if (open >= maxStreams) {
      await this.#poll(jobs, 0);
      return;
    }
    openStreams.set(url, open + 1);
    try {
      await this.#stream(jobs);
    } finally {
      openStreams.set(url, (openStreams.get(url) ?? 1) - 1);
    }
  }

  /** @param {Job[]} jobs */
  async #stream(jobs) {
    const uuids = jobs.map((job) => job.uuid);
    const path = `/api/jobs/events?${idQuery(uuids)}&details=1`;
    for await (const { type, data } of this.#client.events(path, uuids, this.#request.signal, this.#pause)) {
      if (type === "status") this.#accept(data);
    }
  }

  /**
   * @param {Job[]} jobs
   * @param {number} wait seconds; 0 for a plain poll
   */
  async #poll(jobs, wait) {
    const uuids = jobs.map((job) => job.uuid);
    const path = `/api/jobs?${idQuery(uuids)}&details=1`;
    const { signal } = this.#request;
    const headers = this.#etag ? { "If-None-Match": this.#etag } : undefined;
    const response = await this.#client.request(wait && this.#etag ? `${path}&wait=${wait}` : path, uuids, {
      signal,
      headers,
    });
    const seconds = wait ? 0 : retryAfterOf(response) || POLL_SECONDS;
    this.#pause.succeeded(1_000 * seconds * (1 + this.#client.random() / 4));
    if (response.status === 304) {
      for (const job of jobs) job.setConnected(true);
      return;
    }
    const { jobs: statuses } = await response.json();
    this.#etag = response.headers.get("ETag") ?? "";
    statuses.forEach(this.#accept, this);
  }

  /** @param {JobDetails} status */
  #accept(status) {
    const job = this.#jobs.get(status.id);
    if (!job) return;
    job.accept(status);
    if (job.isDone) this.#etag = ""; // the next request has other jobs
  }

  /**
   * @param {unknown} error
   * @param {Job[]} jobs
   */
  async #onError(error, jobs) {
    this.#etag = "";
    if (error instanceof RequestError && !error.isTransient) {
      if (error.status === 403 && jobs.length > 1) await this.#findForbidden(jobs);
      else for (const job of jobs) job.fail(error);
      return;
    }
    if (error instanceof SilentStreamError) this.#doInstead("long poll", RETRY_STREAM_MS);
    else if (error instanceof RequestError) this.#doInstead("poll", error.status === 429 ? REFUSED_MS : BUSY_MS);
    this.#pause.failed(error);
    for (const job of jobs) job.setConnected(false);
  }

  /**
   * @param {"long poll" | "poll"} what
   * @param {number} ms
   */
  #doInstead(what, ms) {
    this.#instead = what;
    this.#insteadUntil = performance.now() + ms;
  }

  /**
   * Find the jobs that the credential is not good for.
   * @param {Job[]} jobs
   */
  async #findForbidden(jobs) {
    for (const job of jobs) {
      try {
        this.#accept(await this.#client.details(job.uuid, { signal: this.#request.signal }));
      } catch (error) {
        if (!(error instanceof RequestError) || error.isTransient) return;
        job.fail(error);
      }
    }
  }
}

/** Why a channel's request is aborted: the next one follows. */
const REOPEN = new JobStatusError("The request is sent again.");

/** When to send the next request: when the page is shown, after the time that was asked for, and later after failures. */
class Pause {
  isHidden = false;
  #failures = 0;
  #ms = 0;
  #wake = () => {};
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #hiding;
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #ticking;
  #client;
  #interrupt;
  #onVisibility = () => this.#checkVisibility();
  #onOnline = () => this.wake();

  /**
   * @param {JobStatusClient} client
   * @param {() => void} interrupt ends the present request: the page is hidden, or the computer has slept
   */
  constructor(client, interrupt) {
    this.#client = client;
    this.#interrupt = interrupt;
  }

  start() {
    if (typeof document === "undefined") return;
    document.addEventListener("visibilitychange", this.#onVisibility);
    globalThis.addEventListener("online", this.#onOnline);
    this.#checkVisibility();
    let last = Date.now();
    this.#ticking = setInterval(() => {
      const now = Date.now();
      if (now - last > ASLEEP_MS && !this.isHidden) this.#interrupt(); // its connection may be dead
      last = now;
    }, TICK_MS);
  }

  stop() {
    if (typeof document === "undefined") return;
    clearTimeout(this.#hiding);
    clearInterval(this.#ticking);
    document.removeEventListener("visibilitychange", this.#onVisibility);
    globalThis.removeEventListener("online", this.#onOnline);
  }

  /** End the present wait. */
  wake() {
    this.#wake();
  }

  /** @param {number} ms milliseconds to wait at least before the next request */
  retry(ms) {
    this.#ms = Math.max(this.#ms, ms);
  }

  /** @param {number} [ms] milliseconds to wait before the next request */
  succeeded(ms = 0) {
    this.#failures = 0;
    this.retry(ms);
  }

  /** @param {unknown} [error] */
  failed(error) {
    const ceiling = Math.min(MAX_BACKOFF_MS, 500 * 2 ** this.#failures);
    this.#failures += 1;
    const asked = error instanceof RequestError ? 1_000 * error.retryAfter : 0;
    const random = this.#client.random();
    this.retry(asked ? asked * (1 + random / 4) : ceiling * (0.5 + random / 2));
  }

  /** @param {AbortSignal} signal */
  async beforeRetry(signal) {
    const ms = this.#ms;
    this.#ms = 0;
    if (!signal.aborted) await this.#sleep(ms, signal);
  }

  /** @param {() => boolean} isNeeded whether there is anything to wait for */
  async whileHidden(isNeeded) {
    while (this.isHidden && isNeeded()) await this.#sleep(Infinity);
  }

  #checkVisibility() {
    clearTimeout(this.#hiding);
    if (document.visibilityState === "visible" || this.#client.background) {
      this.isHidden = false;
      this.wake();
    } else {
      this.#hiding = setTimeout(() => {
        this.isHidden = true;
        this.#interrupt();
      }, HIDDEN_MS);
    }
  }

  /**
   * @param {number} ms
   * @param {AbortSignal} [signal]
   */
  async #sleep(ms, signal) {
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let timer;
    const wake = await new Promise((resolve) => {
      const end = () => resolve(end);
      this.#wake = end;
      signal?.addEventListener("abort", end);
      if (ms < Infinity) timer = setTimeout(end, ms);
    });
    clearTimeout(timer);
    signal?.removeEventListener("abort", wake);
  }
}

/** A signal that is aborted by the first of several timers to expire, or by another signal. */
class Deadline {
  /** @type {JobStatusError | null} the reason of the abort by a timer */
  expired = null;
  #abort = new AbortController();
  /** @type {Map<string, ReturnType<typeof setTimeout>>} */
  #timers = new Map();
  #other;
  #onAbort = () => this.#abort.abort(this.#other?.reason);

  /** @param {AbortSignal} [other] */
  constructor(other) {
    this.#other = other;
    if (other?.aborted) this.#onAbort();
    other?.addEventListener("abort", this.#onAbort);
  }

  get signal() {
    return this.#abort.signal;
  }

  /**
   * Start a timer, unless it is running.
   * @param {string} name
   * @param {number} ms
   * @param {string} message
   */
  start(name, ms, message) {
    if (ms === Infinity || this.#timers.has(name)) return;
    const expire = () => {
      this.expired = new JobStatusError(message);
      this.#abort.abort(this.expired);
    };
    this.#timers.set(name, setTimeout(expire, Math.min(ms, MAX_TIMER_MS)));
  }

  /** @param {string} name */
  stop(name) {
    clearTimeout(this.#timers.get(name));
    this.#timers.delete(name);
  }

  /** Stop all timers, and end what uses the signal. */
  close() {
    for (const name of [...this.#timers.keys()]) this.stop(name);
    this.#other?.removeEventListener("abort", this.#onAbort);
    this.#abort.abort(REOPEN);
  }
}

/**
 * Parse server-sent events (https://html.spec.whatwg.org/#parsing-an-event-stream). An event that the end
 * of the stream cuts off is left out.
 * @param {ReadableStream<Uint8Array>} body
 * @param {() => void} [onBytes] called when anything has arrived
 * @returns {AsyncGenerator<{ type: string, data: string }, void, void>} a field `retry` is an event, too
 */
export async function* parseEvents(body, onBytes = () => {}) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let text = "";
  let type = "";
  /** @type {string[]} */
  let data = [];
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      onBytes();
      text += decoder.decode(value, { stream: true });
      const lines = text.split(/\r\n|\n|\r(?!$)/);
      text = lines.pop() ?? "";
      for (const line of lines) {
        const [, field, content] = /^([^:]*):? ?(.*)$/.exec(line) ?? [];
        if (field === "event") type = content;
        else if (field === "data") data.push(content);
        else if (field === "retry" && /^\d+$/.test(content)) yield { type: "retry", data: content };
        else if (line === "") {
          if (data.length > 0) yield { type: type || "message", data: data.join("\n") };
          type = "";
          data = [];
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** @param {Response} response */
async function errorOf(response) {
  let message = `The service has answered with status ${response.status}.`;
  try {
    const { detail } = await response.json();
    if (typeof detail === "string") message = detail;
    else if (Array.isArray(detail) && detail.length > 0) message = detail.map(({ msg }) => msg).join(" ");
  } catch {
    // not from the service, but from a proxy
  }
  return new RequestError(response.status, message, retryAfterOf(response));
}

/**
 * Return the seconds of the header `Retry-After`, which may also be a date (RFC 9110, 10.2.3).
 * @param {Response} response
 */
function retryAfterOf(response) {
  const text = response.headers.get("Retry-After") ?? "";
  const seconds = /^\d+$/.test(text) ? Number(text) : (Date.parse(text) - Date.now()) / 1_000;
  return seconds > 0 ? Math.min(seconds, 300) : 0;
}

/** @param {{ states?: State[], name?: string, limit?: number, cursor?: string | null }} options */
function listQuery({ states = [], name, limit, cursor }) {
  const query = new URLSearchParams(states.map((state) => ["state", state]));
  if (name) query.set("name", name);
  if (limit) query.set("limit", String(limit));
  if (cursor) query.set("cursor", cursor);
  return query;
}

/** @param {string[]} uuids */
function idQuery(uuids) {
  return uuids.map((uuid) => `id=${uuid}`).join("&");
}
