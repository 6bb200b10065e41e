// A server whose answers a test scripts: each request takes the next answer of its path.

import { createServer } from "node:http";

/**
 * @typedef {{ status?: number, headers?: Record<string, string>, body?: string, cut?: boolean,
 *   hold?: boolean, chunks?: string[], gap?: number, delay?: number }} Answer
 * @typedef {{ path: string, headers: import("node:http").IncomingHttpHeaders }} Seen
 */

export const JOB = "67c73c6b-ecba-4a4c-bb18-3f37aa64c2f8";
export const OTHER_JOB = "11111111-e6a1-4c2b-9d0e-000000000001";

/**
 * Return the details of a job.
 * @param {Partial<import("../../service/jobstatus_web/client.js").JobDetails>} changes
 */
export function job(changes = {}) {
  return {
    id: JOB,
    created_at: "2026-11-28T00:00:00.000Z",
    updated_at: "2026-11-28T00:00:01.000Z",
    name: "render",
    reason: "",
    has_progress: true,
    progress: 10,
    state: "in_progress",
    started_at: null,
    finished_at: null,
    attempt: 1,
    worker: null,
    eta_seconds: null,
    expires_at: null,
    has_result: false,
    unknown_cause: null,
    .../** @type {any} */ (changes),
  };
}

/** @param {object} status */
export function statusEvent(status) {
  return `event: status\nid: "x"\ndata: ${JSON.stringify(status)}\n\n`;
}

/** @param {object[]} jobs @param {Record<string, string>} [headers] @returns {Answer} */
export function bulk(jobs, headers = {}) {
  return { headers: { "Content-Type": "application/json", ...headers }, body: JSON.stringify({ jobs }) };
}

/** @param {(string | object)[]} events @param {Answer} [more] @returns {Answer} */
export function stream(events, more = {}) {
  const chunks = events.map((event) => (typeof event === "string" ? event : statusEvent(event)));
  return { headers: { "Content-Type": "text/event-stream" }, chunks, ...more };
}

export class ScriptedServer {
  /** @type {Seen[]} */
  seen = [];
  /** @type {(seen: Seen, number: number) => Answer} */
  answer = () => ({ status: 500 });
  openStreams = 0;
  maxOpenStreams = 0;
  /** @type {Set<import("node:http").ServerResponse>} */
  #held = new Set();
  #server = createServer((request, response) => void this.#respond(request, response));

  get url() {
    const address = /** @type {import("node:net").AddressInfo} */ (this.#server.address());
    return `http://127.0.0.1:${address.port}`;
  }

  async start() {
    await new Promise((resolve) => this.#server.listen(0, "127.0.0.1", () => resolve(undefined)));
    return this;
  }

  async stop() {
    for (const response of this.#held) response.destroy();
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(() => resolve(undefined)));
  }

  /** Send a text on all streams that are held open. @param {string} text */
  push(text) {
    for (const response of this.#held) response.write(text);
  }

  /** Cut all connections that are held open. */
  cut() {
    for (const response of this.#held) response.destroy();
  }

  /**
   * @param {import("node:http").IncomingMessage} request
   * @param {import("node:http").ServerResponse} response
   */
  async #respond(request, response) {
    const seen = { path: request.url ?? "", headers: request.headers };
    this.seen.push(seen);
    const answer = this.answer(seen, this.seen.length);
    if (answer.cut && !answer.chunks) {
      request.socket.destroy();
      return;
    }
    this.#held.add(response);
    response.on("close", () => this.#held.delete(response));
    if (answer.hold && !answer.chunks) return;
    if (answer.delay) await new Promise((resolve) => setTimeout(resolve, answer.delay));
    response.writeHead(answer.status ?? 200, answer.headers);
    if (!answer.chunks) {
      response.end(answer.body ?? "");
      return;
    }
    this.openStreams += 1;
    this.maxOpenStreams = Math.max(this.maxOpenStreams, this.openStreams);
    response.on("close", () => (this.openStreams -= 1));
    response.flushHeaders();
    for (const chunk of answer.chunks) {
      response.write(chunk);
      await new Promise((resolve) => setTimeout(resolve, answer.gap ?? 5));
    }
    if (answer.cut) request.socket.destroy();
    else if (!answer.hold) response.end();
  }
}
