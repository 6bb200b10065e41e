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
 * @property {boolean} isConnected whether changes arrive; false from a lost connection, or while the page is
 *   hidden, until the next answer
 * @property {Error | null} problem the last failure while `isConnected` is false; the client tries again
 */

/**
 * An API key or a job token; or a function that returns one. The function is called again after a 401, and after a
 * 403 for named jobs. If it declares a parameter (not a rest parameter, nor one with a default), it is called with the
 * UUIDs that the token must name, at most 100, and again for others. If it throws, it is called again later.
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

/** The base of the errors below. Beside them, `fetch` throws a TypeError where there is no connection. */
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

  /** Whether the same request may succeed later. */
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

const MAX_JOBS_OF_A_REQUEST = 100;
const MAX_STREAMS_OF_A_PAGE = 2; // a browser opens six connections to a server, for all its tabs

const FIRST_EVENT_MS = 5_000; // a stream that says nothing for so long is held back by a proxy
const SILENCE_MS = 35_000; // the service sends a comment every 15 s, so the connection is dead
const ANSWER_MS = 15_000; // a poll without an answer for so long is lost
const SHORT_STREAM_MS = 5_000; // a stream that ends sooner is a failure
const LONG_POLL_SECONDS = 25;
const POLL_SECONDS = 2; // where a response has no Retry-After
const NO_STREAM_AFTER_BUFFERING_MS = 300_000;
const MAX_NO_STREAM_MS = 60_000;
const MIN_INTERVAL_MS = 200; // between two requests of a channel, whatever the service answers
const MAX_ASKED_WAIT_MS = 300_000;
const FIRST_RETRY_MS = 500;
const SHORT_RETRY_MS = 1_000;
const MAX_RETRY_MS = 30_000;
const RETRY_SHARE = 1 / 30; // the next try follows within this share of the time since the first failure
const STALE_MS = 5_000; // replicas of the service may differ for at most 2 s
const GATHER_MS = 250; // jobs that are added within so long share a request
const MAX_UNANSWERED_MS = 2_000; // for which added jobs wait until the present request is answered
const HIDDEN_MS = 2_000; // after which the requests of a hidden page end
const TICK_MS = 2_000;
const ASLEEP_MS = 10_000; // two ticks so far apart mean that the computer has slept
const MAX_TIMER_MS = 2 ** 31 - 1;
const MAX_CREDENTIALS = 10;
const MAX_REMEMBERED = 100;
const MAX_REMEMBERED_LENGTH = 16_384;

const NAMESPACE = "5a0cdcd99d3e4c678f0b6d8f3b6f1f27";
const UUID = /^[0-9a-f]{8}(-?)[0-9a-f]{4}\1[0-9a-f]{4}\1[0-9a-f]{4}\1[0-9a-f]{12}$/i;

/**
 * Return the UUID of a job: a UUID itself, or that of any other id, as the workers compute it.
 * @param {string} id
 * @returns {Promise<string>}
 */
export async function jobUuid(id) {
  if (id === "") throw new JobStatusError("A job id must not be empty.");
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

/** The reason with which the client itself aborts a request: it is no longer needed, or another one follows. */
const ENDED_ON_PURPOSE = new JobStatusError("The request was ended by the client.");

export class JobStatusClient {
  /** @type {Map<string, Job>} the watched jobs by UUID */
  #jobs = new Map();
  /** @type {Set<Channel>} */
  #channels = new Set();
  /** @type {{ value: string, ids: Set<string> | null }[]} the newest first; null ids: good for all jobs */
  #credentials = [];
  /** @type {Promise<void> | null} the present call of the function that returns credentials */
  #asking = null;
  #closing = new AbortController();
  /** @type {Map<string, { etag: string, text: string }>} the last answers by path */
  #answers = new Map();

  /**
   * @param {object} [options]
   * @param {string | URL} [options.url] the address of the service; by default that of the page
   * @param {Credentials} [options.credentials] what to send in `Authorization`
   * @param {number} [options.timeout] milliseconds for which a single request is repeated while the service is unavailable
   * @param {boolean} [options.background] whether to go on while the page is hidden
   * @param {number} [options.maxStreams] how many streams all clients of the page may have open to the service before
   *   this one polls instead; by default 2 in a browser
   * @param {typeof globalThis.fetch} [options.fetch]
   * @param {() => number} [options.random] from 0 up to 1
   */
  constructor(options = {}) {
    const isBrowser = typeof document !== "undefined";
    if (!isBrowser && !options.url) throw new JobStatusError("Outside a browser the client needs a url.");
    const url = new URL(options.url ?? "/", isBrowser ? document.baseURI : undefined);
    this.url = url.href.replace(/\/$/, "");
    this.maxStreams = options.maxStreams ?? (isBrowser ? MAX_STREAMS_OF_A_PAGE : Infinity);
    this.background = options.background ?? false;
    this.timeout = options.timeout ?? 10_000;
    this.fetch = options.fetch ?? globalThis.fetch.bind(globalThis);
    this.random = options.random ?? Math.random;
    this.credentials = options.credentials;
    /** @internal */
    this.fallback = new Fallback(this.random);
    /** @internal when the service allows the next request, by `performance.now()` */
    this.notBefore = -Infinity;
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
   * Return the result of a finished job.
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
    const names = typeof ids === "string" ? [ids] : [...ids];
    if (names.length === 0) return /** @type {any} */ ([]);
    const clock = new Deadline(signal);
    /** @type {Map<number, number>} */
    const unknownSince = new Map();
    try {
      clock.start("timeout", timeout, "The jobs have not finished in time.");
      for await (const snapshots of this.#snapshots(names, clock.signal)) {
        statuses = snapshots.map((snapshot) => snapshot.status);
        const finished = statuses.filter((status) => status && isFinal(status)).length;
        if (until === "any-done" ? finished > 0 : finished === names.length) break;
        for (const [i, { status, isConnected }] of snapshots.entries()) {
          const timer = `unknown ${names[i]}`;
          const now = performance.now();
          if (status?.state !== "unknown") unknownSince.delete(i);
          else if (!unknownSince.has(i)) unknownSince.set(i, now);
          const since = unknownSince.get(i);
          if (since === undefined || !isConnected) clock.stop(timer);
          else clock.start(timer, unknown - (now - since), `The job ${names[i]} has been unknown for too long.`);
        }
      }
      return /** @type {any} */ (typeof ids === "string" ? statuses[0] : statuses);
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
   * Call a function with what is known of a job, at once if anything is, and after each change. A job that has
   * finished is not asked for again while anybody subscribes to it.
   * @param {string} uuid the UUID of the job, see `jobUuid`
   * @param {(snapshot: Snapshot) => void} listener
   * @returns {() => void} ends the subscription
   */
  subscribe(uuid, listener) {
    this.#closing.signal.throwIfAborted();
    const job = this.#jobs.get(uuid) ?? new Job(uuid);
    if (!job.channel || job.snapshot.error) {
      job.snapshot = NOTHING_KNOWN;
      this.#jobs.set(uuid, job);
      (job.channel ?? this.#channelWithRoom()).add(job);
    }
    const end = job.subscribe(listener);
    return () => {
      end();
      // Wait for the next turn: a framework may subscribe again at once, or an element may be moved.
      if (!job.isWatched) setTimeout(() => this.#forget(job));
    };
  }

  /** @param {Job} job */
  #forget(job) {
    if (job.isWatched || this.#jobs.get(job.uuid) !== job) return;
    this.#jobs.delete(job.uuid);
    job.channel?.remove(job);
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
   * Iterate over the events of a list: `list` with its newest 50 jobs, first, after each lost connection, and with
   * each poll where there is no stream; `status` with a job that is new or has changed; `counts`; and `lost` when the connection
   * is lost. It needs an API key.
   * @param {{ states?: State[], name?: string } & RequestOptions} [options]
   * @returns {AsyncGenerator<{ type: "list", jobs: JobDetails[] } | { type: "status", job: JobDetails }
   *   | { type: "counts", counts: JobCounts } | { type: "lost", error: Error }, void, void>}
   */
  async *follow(options = {}) {
    const signal = this.#joined(options.signal);
    const path = `/api/jobs/events?${listQuery(options)}`;
    let request = new AbortController();
    const abort = () => {
      request.abort(ENDED_ON_PURPOSE);
      pacer.wake();
    };
    const pacer = new Pacer(this, abort);
    signal.addEventListener("abort", abort);
    pacer.listen();
    try {
      for (;;) {
        await pacer.whileHidden(() => !signal.aborted);
        signal.throwIfAborted();
        request = new AbortController();
        pacer.begin();
        let slot = false;
        try {
          await this.credentialFor([], request.signal);
          slot = this.fallback.kind === null && this.takeStream();
          if (slot) {
            for await (const event of this.events(path, [], request.signal, pacer)) {
              if (event.type === "list") yield { type: "list", jobs: event.data.jobs };
              if (event.type === "status") yield { type: "status", job: event.data };
              if (event.type === "counts") yield { type: "counts", counts: event.data };
            }
          } else {
            const [{ jobs }, counts] = await inTime(request.signal, ANSWER_MS, async (timely) => [
              await this.list({ ...options, signal: timely }),
              await this.counts({ signal: timely }),
            ]);
            yield { type: "list", jobs };
            yield { type: "counts", counts };
            pacer.succeeded(this.fallback.pollMs(0));
          }
        } catch (error) {
          signal.throwIfAborted();
          if (!request.signal.aborted) {
            if (isRefusal(error)) throw error;
            this.fallback.learn(error, slot);
            pacer.failed(error);
            yield { type: "lost", error: asError(error) };
          }
        } finally {
          if (slot) this.giveStreamBack();
        }
        await pacer.beforeNext(request.signal, () => !signal.aborted);
      }
    } finally {
      pacer.stopListening();
      signal.removeEventListener("abort", abort);
      request.abort(ENDED_ON_PURPOSE);
    }
  }

  /** End all subscriptions, waits, loops and requests, for good. */
  close() {
    this.#closing.abort(new JobStatusError("The client was closed."));
    for (const job of this.#jobs.values()) job.channel?.remove(job);
    this.#jobs.clear();
  }

  /** @param {AbortSignal} [signal] */
  #joined(signal) {
    return signal ? AbortSignal.any([signal, this.#closing.signal]) : this.#closing.signal;
  }

  /**
   * @param {string[]} ids
   * @param {AbortSignal} [signal]
   * @returns {AsyncGenerator<Snapshot[], void, void>} what is known of all jobs, after each change
   */
  async *#snapshots(ids, signal) {
    const joined = this.#joined(signal);
    joined.throwIfAborted();
    const uuids = await Promise.all(ids.map(jobUuid));
    joined.throwIfAborted();
    let wake = () => {};
    let hasChanged = true;
    const changed = () => {
      hasChanged = true;
      wake();
    };
    joined.addEventListener("abort", changed);
    const ends = [...new Set(uuids)].map((uuid) => this.subscribe(uuid, changed));
    try {
      while (true) {
        if (!hasChanged) await new Promise((resolve) => (wake = () => resolve(undefined)));
        hasChanged = false;
        joined.throwIfAborted();
        const snapshots = uuids.map((uuid) => this.snapshot(uuid));
        const error = snapshots.find((snapshot) => snapshot.error)?.error;
        if (error) throw error;
        yield snapshots;
      }
    } finally {
      joined.removeEventListener("abort", changed);
      for (const end of ends) end();
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
    const uuids = await Promise.all(ids.map(jobUuid));
    const joined = this.#joined(signal);
    const backoff = new Backoff(this.random);
    const giveUpAt = performance.now() + this.timeout;
    for (;;) {
      try {
        const known = this.#answers.get(path);
        const headers = known ? { "If-None-Match": known.etag } : undefined;
        const ms = Math.max(100, Math.min(ANSWER_MS, giveUpAt - performance.now()));
        return await inTime(joined, ms, async (timely) => {
          const response = await this.request(path, uuids, { signal: timely, headers });
          if (known && response.status === 304) return JSON.parse(known.text);
          const text = await response.text();
          const body = JSON.parse(text);
          this.#remember(path, response.headers.get("ETag"), text);
          return body;
        });
      } catch (error) {
        joined.throwIfAborted();
        const ms = backoff.next(error);
        if ((error instanceof RequestError && !error.isTransient) || performance.now() + ms > giveUpAt) throw error;
        await sleep(ms, joined);
        joined.throwIfAborted();
      }
    }
  }

  /**
   * @param {string} path
   * @param {string | null} etag
   * @param {string} text
   */
  #remember(path, etag, text) {
    this.#answers.delete(path);
    if (etag && text.length <= MAX_REMEMBERED_LENGTH) this.#answers.set(path, { etag, text });
    if (this.#answers.size > MAX_REMEMBERED) for (const oldest of this.#answers.keys()) return void this.#answers.delete(oldest);
  }

  /**
   * Take one of the streams that the page may open; it must be given back.
   * @internal
   * @returns {boolean} whether there was one
   */
  takeStream() {
    const { origin } = new URL(this.url);
    const open = openStreams.get(origin) ?? 0;
    if (open >= this.maxStreams) return false;
    openStreams.set(origin, open + 1);
    return true;
  }

  /** @internal */
  giveStreamBack() {
    const { origin } = new URL(this.url);
    openStreams.set(origin, (openStreams.get(origin) ?? 1) - 1);
  }

  /**
   * Send a GET request.
   * @internal
   * @param {string} path
   * @param {string[]} uuids the jobs that the credential must be good for
   * @param {{ signal?: AbortSignal, headers?: Record<string, string>, mayRefresh?: boolean }} [options]
   * @returns {Promise<Response>} with the status 200, 204 or 304
   * @throws {RequestError} any other status
   */
  async request(path, uuids, { signal, headers = {}, mayRefresh = true } = {}) {
    const joined = this.#joined(signal);
    for (let hasRefreshed = !mayRefresh; ; hasRefreshed = true) {
      const credential = await this.credentialFor(uuids, joined);
      const authorization = credential ? { Authorization: `Bearer ${credential}` } : undefined;
      const response = await this.fetch(this.url + path, {
        headers: { ...headers, ...authorization },
        signal: joined,
        cache: "no-store",
        credentials: "omit",
        referrerPolicy: "no-referrer",
      });
      if (response.ok || response.status === 304) return response;
      const error = await errorOf(response);
      const mayHelp = error.status === 401 || (error.status === 403 && uuids.length > 0);
      if (!mayHelp || hasRefreshed || typeof this.credentials !== "function") throw error;
      this.#credentials = this.#credentials.filter(({ value }) => value !== credential);
    }
  }

  /**
   * Iterate over the events of a stream. The credential must be there: asking for it may take longer than a stream may
   * take to begin.
   * @internal
   * @param {string} path
   * @param {string[]} uuids
   * @param {AbortSignal} signal
   * @param {Pacer} pacer told when the service asks to wait, and how the stream has ended
   * @returns {AsyncGenerator<{ type: string, data: any }, void, void>}
   * @throws {BufferedStreamError} the stream has not begun in time
   */
  async *events(path, uuids, signal, pacer) {
    const silence = new Deadline(signal);
    const began = performance.now();
    let hasBegun = false;
    const hasWorked = () => hasBegun && performance.now() - began > SHORT_STREAM_MS;
    try {
      silence.start("silence", FIRST_EVENT_MS, "The stream has not begun.");
      const headers = { Accept: "text/event-stream" };
      const response = await this.request(path, uuids, { signal: silence.signal, headers });
      const onBytes = () => {
        if (!hasBegun) return; // the headers and half an event are no proof of a working stream
        silence.stop("silence");
        silence.start("silence", SILENCE_MS, "The stream is silent.");
      };
      if (response.body && response.status === 200) {
        for await (const event of parseEvents(response.body, onBytes)) {
          if (!hasBegun) {
            hasBegun = true;
            onBytes();
          }
          if (event.type === "retry") {
            pacer.succeeded(this.fallback.onRetry(Number(event.data)));
            return;
          }
          this.fallback.onStream();
          silence.stop("silence"); // a slow loop is not a silent service
          yield { type: event.type, data: JSON.parse(event.data) };
          onBytes();
        }
      }
      if (hasWorked()) pacer.succeeded();
      else pacer.failed();
    } catch (error) {
      if (hasWorked()) pacer.succeeded();
      if (silence.expired && !hasBegun) throw new BufferedStreamError(silence.expired.message);
      throw silence.expired ?? error;
    } finally {
      silence.close();
    }
  }

  /**
   * @internal
   * @param {string[]} uuids
   * @param {AbortSignal} signal
   */
  async credentialFor(uuids, signal) {
    const { credentials } = this;
    if (typeof credentials !== "function") return credentials;
    const isGood = (/** @type {{ ids: Set<string> | null }} */ { ids }) => !ids || uuids.every((id) => ids.has(id));
    for (;;) {
      signal.throwIfAborted();
      const found = this.#credentials.find(isGood);
      if (found) return found.value;
      if (!this.#asking) {
        // The token is for all jobs that are watched, so that the next one is asked for less often.
        const ids = [...new Set([...uuids, ...this.#jobs.keys()])].slice(0, MAX_JOBS_OF_A_REQUEST);
        const asking = (async () => {
          const value = await credentials(ids);
          const known = { value, ids: credentials.length > 0 ? new Set(ids) : null };
          this.#credentials = [known, ...this.#credentials].slice(0, MAX_CREDENTIALS);
        })().finally(() => {
          if (this.#asking === asking) this.#asking = null;
        });
        this.#asking = asking;
      }
      await withSignal(this.#asking, signal, () => (this.#asking = null));
    }
  }
}

/**
 * What is known of a job before the first answer.
 * @type {Snapshot}
 */
export const NOTHING_KNOWN = Object.freeze({ status: null, error: null, isConnected: true, problem: null });

/** A proxy holds a stream back. */
class BufferedStreamError extends JobStatusError {}

/**
 * What to do instead of opening a stream, and until when.
 */
class Fallback {
  /** @type {"long poll" | "poll"} */
  #kind = "poll";
  #until = -Infinity;
  #refusals = 0;
  #isShort = false;
  #random;

  /** @param {() => number} random */
  constructor(random) {
    this.#random = random;
  }

  /** What to do instead now; null to stream. */
  get kind() {
    return performance.now() < this.#until ? this.#kind : null;
  }

  /**
   * @param {unknown} error the failure of a stream or a poll
   * @param {boolean} wasStream
   */
  learn(error, wasStream) {
    if (error instanceof BufferedStreamError) {
      this.#kind = "long poll";
      this.#until = performance.now() + NO_STREAM_AFTER_BUFFERING_MS;
    } else if (!wasStream) {
      this.#refusals = 0;
      if (this.#kind === "poll") this.#until = -Infinity; // so it is not because of streams
    } else if (error instanceof RequestError) {
      this.#pause(Math.min(1_000 * 2 ** this.#refusals, MAX_NO_STREAM_MS));
      this.#refusals = Math.min(this.#refusals + 1, 6);
    }
  }

  /**
   * The service ends a stream, and asks to open the next one later: polls go on meanwhile.
   * @param {number} ms
   * @returns {number} milliseconds until the first poll
   */
  onRetry(ms) {
    this.#pause(Math.min(ms, MAX_NO_STREAM_MS));
    this.#isShort = true;
    return Math.min(ms, SHORT_RETRY_MS) * this.#random();
  }

  /** A stream works. */
  onStream() {
    this.#refusals = 0;
  }

  /**
   * Return the milliseconds until the next poll.
   * @param {number} seconds what the service asks for; 0 if it doesn't
   */
  pollMs(seconds) {
    const ms = 1_000 * (seconds || POLL_SECONDS) * (1 + this.#random() / 4);
    if (this.kind !== "poll") return ms;
    return Math.min(ms, this.#until - performance.now(), this.#isShort ? SHORT_RETRY_MS : Infinity);
  }

  /** @param {number} ms */
  #pause(ms) {
    if (this.kind === "long poll") return;
    this.#kind = "poll";
    this.#isShort = false;
    this.#until = Math.max(this.#until, performance.now() + ms);
  }
}

/**
 * The time before the next try, after failures. It grows with the outage, but is at most a thirtieth of it: what
 * has happened during an outage of 30 s is noticed within a second after it. It begins again when, after several
 * answers, a connection is lost, or the other way: something has changed.
 */
class Backoff {
  #failures = 0;
  #failingSince = 0;
  #exponent = 0;
  #alike = 0; // how many of the last failures were of the same kind
  #wasAnswered = false;
  #random;

  /** @param {() => number} random */
  constructor(random) {
    this.#random = random;
  }

  reset() {
    this.#failures = 0;
  }

  /**
   * Count a failure.
   * @param {unknown} [error]
   * @returns {number} after how many milliseconds to try again
   */
  next(error) {
    const now = performance.now();
    const isAnswered = error instanceof RequestError;
    if (isAnswered !== this.#wasAnswered) {
      if (this.#alike > 1) this.#exponent = 0;
      this.#alike = 0;
    }
    if (this.#failures === 0) {
      this.#failingSince = now;
      this.#exponent = this.#alike = 0;
    }
    const grown = Math.max(SHORT_RETRY_MS, RETRY_SHARE * (now - this.#failingSince));
    const ceiling = Math.min(FIRST_RETRY_MS * 2 ** this.#exponent, grown, MAX_RETRY_MS);
    this.#failures += 1;
    this.#exponent += 1;
    this.#alike += 1;
    this.#wasAnswered = isAnswered;
    const random = this.#random();
    const asked = isAnswered ? 1_000 * error.retryAfter : 0;
    return Math.max(ceiling * (0.5 + random / 2), asked * (1 + random / 4));
  }
}

/** A job that is watched. */
class Job {
  snapshot = NOTHING_KNOWN;
  /** @type {Channel | null} */
  channel = null;
  /** @type {Set<{ listener: (snapshot: Snapshot) => void }>} */
  #subscriptions = new Set();
  #acceptedAt = -Infinity;
  /** @type {JobDetails | null} the last status that was not `unknown` */
  #known = null;

  /** @param {string} uuid */
  constructor(uuid) {
    this.uuid = uuid;
  }

  get isWatched() {
    return this.#subscriptions.size > 0;
  }

  /** Whether there is nothing to ask for: it has finished, or can't be watched. */
  get isSettled() {
    const { status, error } = this.snapshot;
    return error !== null || (status !== null && isFinal(status));
  }

  /**
   * @param {(snapshot: Snapshot) => void} listener
   * @returns {() => void}
   */
  subscribe(listener) {
    const subscription = { listener };
    this.#subscriptions.add(subscription);
    if (this.snapshot.status || this.snapshot.error) this.#call(subscription);
    return () => this.#subscriptions.delete(subscription);
  }

  /**
   * @param {JobDetails} status
   * @returns {boolean} false if it is older than the last one, and was ignored
   */
  accept(status) {
    const { status: last, isConnected } = this.snapshot;
    if (this.#known && isOlder(status, this.#known) && performance.now() - this.#acceptedAt < STALE_MS) {
      this.#set({ ...this.snapshot, isConnected: true, problem: null });
      return false;
    }
    this.#acceptedAt = performance.now();
    if (status.state !== "unknown") this.#known = status;
    const isSame = last !== null && JSON.stringify(last) === JSON.stringify(status);
    if (isSame && isConnected) return true;
    this.#set({ status: isSame ? last : status, error: null, isConnected: true, problem: null });
    return true;
  }

  /**
   * @param {boolean} isConnected
   * @param {Error | null} [problem]
   */
  setConnected(isConnected, problem = null) {
    if (this.snapshot.isConnected === isConnected && this.snapshot.problem === problem) return;
    this.#set({ ...this.snapshot, isConnected, problem });
  }

  /** @param {Error} error */
  fail(error) {
    this.#set({ ...this.snapshot, error });
  }

  /** @param {Snapshot} snapshot */
  #set(snapshot) {
    this.snapshot = snapshot;
    for (const subscription of [...this.#subscriptions]) this.#call(subscription);
  }

  /** @param {{ listener: (snapshot: Snapshot) => void }} subscription */
  #call(subscription) {
    if (!this.#subscriptions.has(subscription)) return; // ended by another listener
    try {
      subscription.listener(this.snapshot);
    } catch (error) {
      (globalThis.reportError ?? console.error)(error);
    }
  }
}

/**
 * Return whether a status is older than the last one, as that of a replica of the service whose cache
 * is not current. A new run of the job is newer than the end of the last run.
 * @param {JobDetails} status
 * @param {JobDetails} last
 */
function isOlder(status, last) {
  if (status.state === "unknown") {
    return status.unknown_cause === "no_record" || (isFinal(last) && status.created_at <= last.created_at);
  }
  if (status.created_at > last.created_at) return false;
  const isReopened = isFinal(last) && status.state !== last.state;
  return isReopened || status.updated_at < last.updated_at;
}

/**
 * Up to 100 jobs that are watched with one request at a time: a stream; a long poll where a proxy holds streams
 * back; a plain poll where the service refuses both, or the page has enough streams already.
 */
class Channel {
  /** @type {Map<string, Job>} */
  #jobs = new Map();
  /** @type {Set<string>} the jobs of the present request */
  #requested = new Set();
  #request = new AbortController();
  #isAnswered = false;
  #isStreaming = false;
  #isRunning = false;
  #beganAt = -Infinity;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #gathering;
  #etag = "";
  #client;
  #onEmpty;
  #pacer;

  /**
   * @param {JobStatusClient} client
   * @param {() => void} onEmpty
   */
  constructor(client, onEmpty) {
    this.#client = client;
    this.#onEmpty = onEmpty;
    this.#pacer = new Pacer(client, () => this.#interrupt());
  }

  get hasRoom() {
    return this.#unsettled().length < MAX_JOBS_OF_A_REQUEST;
  }

  /** @param {Job} job */
  add(job) {
    job.channel = this;
    this.#jobs.set(job.uuid, job);
    this.#gather(this.#beganAt + GATHER_MS - performance.now());
  }

  /** @param {Job} job */
  remove(job) {
    this.#jobs.delete(job.uuid);
    this.#requested.delete(job.uuid); // so that it is asked for again if it is watched again
    this.#etag = "";
    job.channel = null;
    if (this.#unsettled().length > 0) return;
    clearTimeout(this.#gathering);
    this.#gathering = undefined;
    this.#request.abort(ENDED_ON_PURPOSE);
    this.#pacer.wake();
    if (!this.#isRunning) this.#onEmpty();
  }

  /**
   * Send the next request with all jobs that there are after some time. The present request is not ended before it
   * is answered, so that jobs are seen even if others are added all the time.
   * @param {number} ms
   */
  #gather(ms) {
    if (this.#gathering !== undefined) return;
    this.#gathering = setTimeout(() => {
      this.#gathering = undefined;
      const jobs = this.#unsettled();
      if (this.#isRunning && jobs.every((job) => this.#requested.has(job.uuid))) return;
      const unansweredMs = performance.now() - this.#beganAt;
      if (this.#isRunning && !this.#isAnswered && unansweredMs < MAX_UNANSWERED_MS) this.#gather(50);
      else if (this.#isRunning) this.#request.abort(ENDED_ON_PURPOSE);
      else if (jobs.length > 0) void this.#run();
    }, Math.max(0, ms));
  }

  #interrupt() {
    for (const job of this.#unsettled()) job.setConnected(false);
    this.#request.abort(ENDED_ON_PURPOSE);
  }

  #unsettled() {
    return [...this.#jobs.values()].filter((job) => !job.isSettled);
  }

  async #run() {
    this.#isRunning = true;
    this.#pacer.listen();
    for (;;) {
      await this.#pacer.whileHidden(() => this.#unsettled().length > 0);
      const jobs = this.#unsettled().slice(0, MAX_JOBS_OF_A_REQUEST);
      if (jobs.length === 0) break;
      this.#begin(jobs);
      try {
        await this.#exchange(jobs);
      } catch (error) {
        if (!this.#request.signal.aborted) await this.#onError(error, jobs);
      }
      const isNeeded = () => this.#unsettled().length > 0;
      if (isNeeded()) await this.#pacer.beforeNext(this.#request.signal, isNeeded);
    }
    this.#pacer.stopListening();
    this.#pacer.reset();
    this.#isRunning = false;
    if (this.#jobs.size === 0) this.#onEmpty();
  }

  /** @param {Job[]} jobs */
  #begin(jobs) {
    this.#request = new AbortController();
    this.#beganAt = performance.now();
    this.#isAnswered = false;
    const uuids = jobs.map((job) => job.uuid);
    if (uuids.length !== this.#requested.size || !uuids.every((uuid) => this.#requested.has(uuid))) this.#etag = "";
    this.#requested = new Set(uuids);
    this.#pacer.begin();
  }

  /** @param {Job[]} jobs */
  async #exchange(jobs) {
    const uuids = jobs.map((job) => job.uuid);
    await this.#client.credentialFor(uuids, this.#request.signal);
    const { kind } = this.#client.fallback;
    this.#isStreaming = kind === null && this.#client.takeStream();
    if (!this.#isStreaming) {
      await this.#poll(jobs, uuids, kind === "long poll" && this.#etag ? LONG_POLL_SECONDS : 0);
      return;
    }
    try {
      await this.#stream(uuids);
    } finally {
      this.#client.giveStreamBack();
    }
  }

  /** @param {string[]} uuids */
  async #stream(uuids) {
    const path = `/api/jobs/events?${idQuery(uuids)}&details=1`;
    for await (const { type, data } of this.#client.events(path, uuids, this.#request.signal, this.#pacer)) {
      this.#isAnswered = true;
      if (type === "status") this.#accept(data);
      if (this.#unsettled().length === 0) return;
    }
  }

  /**
   * @param {Job[]} jobs
   * @param {string[]} uuids
   * @param {number} wait seconds; 0 for a plain poll
   */
  async #poll(jobs, uuids, wait) {
    const path = `/api/jobs?${idQuery(uuids)}&details=1${wait ? `&wait=${wait}` : ""}`;
    const headers = this.#etag ? { "If-None-Match": this.#etag } : undefined;
    const { response, body } = await inTime(this.#request.signal, 1_000 * wait + ANSWER_MS, async (signal) => {
      const response = await this.#client.request(path, uuids, { signal, headers });
      return { response, body: response.status === 304 ? null : await response.json() };
    });
    // A wait that has waited may be followed by the next one at once.
    const hasWaited = wait > 0 && performance.now() - this.#beganAt > 1_000;
    this.#pacer.succeeded(hasWaited ? 0 : this.#client.fallback.pollMs(retryAfterOf(response)));
    this.#isAnswered = true;
    if (body === null) {
      for (const job of jobs) job.setConnected(true);
      return;
    }
    this.#etag = response.headers.get("ETag") ?? "";
    body.jobs.forEach(this.#accept, this);
  }

  /** @param {JobDetails} status */
  #accept(status) {
    const job = this.#jobs.get(status.id);
    if (!job || job.accept(status)) return;
    // It came from a replica that was not up to date. A stream does not repeat it: so ask again later.
    this.#requested.delete(job.uuid);
    this.#gather(STALE_MS);
  }

  /**
   * @param {unknown} error
   * @param {Job[]} jobs
   */
  async #onError(error, jobs) {
    this.#pacer.failed(error);
    if (!isRefusal(error)) {
      this.#client.fallback.learn(error, this.#isStreaming);
      if (error instanceof BufferedStreamError) return; // a long poll follows
      for (const job of jobs) job.setConnected(false, asError(error));
    } else if (error.status === 403 && jobs.length > 1) await this.#findForbidden(jobs);
    else for (const job of jobs) job.fail(error);
  }

  /**
   * Find the jobs that the credential is not good for.
   * @param {Job[]} jobs
   */
  async #findForbidden(jobs) {
    for (const { uuid } of jobs) {
      try {
        const status = await inTime(this.#request.signal, ANSWER_MS, async (signal) => {
          const options = { signal, mayRefresh: false };
          const response = await this.#client.request(`/api/jobs/${uuid}/details`, [uuid], options);
          return response.json();
        });
        this.#accept(status);
      } catch (error) {
        if (this.#request.signal.aborted) return;
        if (isRefusal(error)) this.#jobs.get(uuid)?.fail(error);
        else {
          this.#pacer.failed(error);
          return;
        }
      }
    }
  }
}

/**
 * Decides when the next request of a channel or a followed list is sent: when the page is shown; after the time that
 * the service asks for; later after each failure.
 */
class Pacer {
  isHidden = false;
  #backoff;
  #beganAt = -Infinity;
  /** Milliseconds to wait before the next request, unless something wakes. */
  #waitMs = 0;
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
    this.#backoff = new Backoff(client.random);
  }

  /** Begin to listen whether the page is shown, and the computer online and awake. */
  listen() {
    if (typeof document === "undefined") return;
    document.addEventListener("visibilitychange", this.#onVisibility);
    globalThis.addEventListener("online", this.#onOnline);
    this.#checkVisibility();
    let last = Date.now();
    this.#ticking = setInterval(() => {
      const now = Date.now();
      // After a sleep the connection may be dead. (The timers of a hidden page are late without a sleep.)
      if (now - last > ASLEEP_MS && document.visibilityState === "visible") this.#interrupt();
      last = now;
    }, TICK_MS);
  }

  stopListening() {
    if (typeof document === "undefined") return;
    clearTimeout(this.#hiding);
    clearInterval(this.#ticking);
    document.removeEventListener("visibilitychange", this.#onVisibility);
    globalThis.removeEventListener("online", this.#onOnline);
  }

  /** Forget failures. */
  reset() {
    this.#backoff.reset();
    this.#waitMs = 0;
  }

  /** Note that a request begins. */
  begin() {
    this.#beganAt = performance.now();
    this.#waitMs = 0;
  }

  /** End the present wait, except what the service has asked for. */
  wake() {
    this.#wake();
  }

  /** @param {number} [ms] milliseconds after which the next request is useful */
  succeeded(ms = 0) {
    this.#backoff.reset();
    this.#waitMs = Math.min(ms, MAX_ASKED_WAIT_MS);
  }

  /** @param {unknown} [error] */
  failed(error) {
    const ms = this.#backoff.next(error);
    this.#waitMs = Math.max(this.#waitMs, ms);
    if (error instanceof RequestError && error.retryAfter > 0) {
      this.#client.notBefore = Math.max(this.#client.notBefore, performance.now() + ms);
    }
  }

  /**
   * Wait until the next request may be sent.
   * @param {AbortSignal} signal of the last request: if it was ended on purpose, the next one may follow at once
   * @param {() => boolean} isNeeded whether there is to be a next request
   */
  async beforeNext(signal, isNeeded) {
    if (!signal.aborted) await this.#sleep(this.#waitMs, signal);
    const earliest = signal.aborted ? -Infinity : this.#beganAt + MIN_INTERVAL_MS;
    for (;;) {
      // What the service has asked for can't be cut short by `wake`.
      const ms = Math.max(earliest, this.#client.notBefore) - performance.now();
      if (ms <= 0 || !isNeeded()) return;
      await this.#sleep(ms);
    }
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
    if (ms <= 0) return;
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
    this.#abort.abort(ENDED_ON_PURPOSE);
  }
}

/**
 * Wait, or until the signal is aborted.
 * @param {number} ms
 * @param {AbortSignal} signal
 */
async function sleep(ms, signal) {
  const deadline = new Deadline(signal);
  deadline.start("sleep", ms, "The time is up.");
  if (!signal.aborted) await new Promise((resolve) => deadline.signal.addEventListener("abort", resolve));
  deadline.close();
}

/**
 * Exchange something with the service, and end it if that takes too long.
 * @template T
 * @param {AbortSignal} signal
 * @param {number} ms
 * @param {(signal: AbortSignal) => Promise<T>} exchange
 * @returns {Promise<T>}
 */
async function inTime(signal, ms, exchange) {
  const deadline = new Deadline(signal);
  deadline.start("answer", ms, "The service does not answer.");
  try {
    return await exchange(deadline.signal);
  } catch (error) {
    throw deadline.expired ?? error;
  } finally {
    deadline.close();
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
        const [, field, content] = /^([^:]*):? ?(.*)$/s.exec(line) ?? [];
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

/**
 * Wait for a promise, or until the signal is aborted.
 * @template T
 * @param {Promise<T>} promise
 * @param {AbortSignal} signal
 * @param {() => void} onAbort
 * @returns {Promise<T>}
 */
async function withSignal(promise, signal, onAbort) {
  promise.catch(() => {}); // where nobody waits for it any more
  /** @type {() => void} */
  let abort = () => {};
  const aborted = new Promise((_, reject) => {
    abort = () => {
      onAbort();
      reject(signal.reason);
    };
    signal.addEventListener("abort", abort);
    if (signal.aborted) abort();
  });
  try {
    return /** @type {T} */ (await Promise.race([promise, aborted]));
  } finally {
    signal.removeEventListener("abort", abort);
  }
}

/**
 * Return whether an error is the service's last word. Anything else may come from a proxy, and pass.
 * @param {unknown} error
 * @returns {error is RequestError}
 */
function isRefusal(error) {
  return error instanceof RequestError && [400, 401, 403, 422].includes(error.status);
}

/** @param {unknown} error */
function asError(error) {
  return error instanceof Error ? error : new Error(String(error));
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
  // The clocks need not agree: a page of another origin may not see `Date`, but the service sends seconds.
  const now = Date.parse(response.headers.get("Date") ?? "") || Date.now();
  const seconds = /^\d+$/.test(text) ? Number(text) : (Date.parse(text) - now) / 1_000;
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
