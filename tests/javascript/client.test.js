import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";

import { isFinal, JobStatusClient, jobUuid, parseEvents, RequestError, WaitError } from "../../service/jobstatus_web/client.js";
import { bulk, job, JOB, OTHER_JOB, ScriptedServer, statusEvent, stream } from "./scripted_server.js";

/** @type {ScriptedServer} */
let server;
/** @type {JobStatusClient[]} */
let clients;

beforeEach(async () => {
  server = await new ScriptedServer().start();
  clients = [];
});
afterEach(async () => {
  for (const each of clients) each.close();
  await server.stop();
});

/** @param {ConstructorParameters<typeof JobStatusClient>[0]} [options] */
function client(options = {}) {
  const made = new JobStatusClient({ url: server.url, credentials: "secret", random: () => 0, ...options });
  clients.push(made);
  return made;
}

/** @param {AsyncIterable<any>} statuses */
async function all(statuses) {
  const found = [];
  for await (const status of statuses) found.push(`${status.state} ${status.progress}`);
  return found;
}

const DONE = job({ state: "succeeded", progress: 100, updated_at: "2026-11-28T00:00:09.000Z", finished_at: "2026-11-28T00:00:09.000Z" });
const at = (/** @type {number} */ second, changes = {}) => job({ updated_at: `2026-11-28T00:00:0${second}.000Z`, ...changes });

describe("ids", () => {
  test("are computed as the workers do", async () => {
    // python -c 'from jobstatus import job_uuid; print(job_uuid("nightly-report"))'
    assert.equal(await jobUuid("nightly-report"), "42cfc5b2-ca2c-599d-a63b-0c992dc0ad89");
    assert.equal(await jobUuid("tenant7:resize:2026-11"), "71f07004-7084-54e5-8f75-5d1e45c22f1a");
    assert.equal(await jobUuid(JOB.toUpperCase()), JOB);
    assert.equal(await jobUuid(JOB.replaceAll("-", "")), JOB);
  });
  test("with some hyphens only are no UUIDs", async () => {
    assert.notEqual(await jobUuid(JOB.replace("-", "")), JOB);
  });
});

describe("server-sent events", () => {
  const text = `retry: 1000\n\n:\n\n${statusEvent(job())}event: counts\r\ndata: {"a":\r\ndata: 1}\r\n\r\ndata: é\n\n`;
  const expected = [
    ["retry", "1000"],
    ["status", JSON.stringify(job())],
    ["counts", '{"a":\n1}'],
    ["message", "é"],
  ];
  /** @param {Uint8Array[]} chunks */
  const parsed = async (chunks) => {
    const events = [];
    for await (const { type, data } of parseEvents(ReadableStream.from(chunks))) events.push([type, data]);
    return events;
  };
  const bytes = new TextEncoder().encode(text);

  test("are the same wherever the stream is divided", async () => {
    for (let i = 0; i <= bytes.length; i++) {
      assert.deepEqual(await parsed([bytes.slice(0, i), bytes.slice(i)]), expected);
    }
    assert.deepEqual(await parsed([...bytes].map((byte) => Uint8Array.of(byte))), expected);
  });
  test("that are cut off are left out", async () => {
    for (let i = 0; i < bytes.length; i++) {
      const events = await parsed([bytes.slice(0, i)]);
      assert.deepEqual(events, expected.slice(0, events.length));
    }
  });
});

describe("requests", () => {
  test("have the credential in a header, and nothing in the URL", async () => {
    server.answer = () => ({ body: JSON.stringify(job()) });
    assert.equal((await client().get(JOB)).progress, 10);
    assert.deepEqual([server.seen[0].path, server.seen[0].headers.authorization], [`/api/jobs/${JOB}`, "Bearer secret"]);
  });
  test("that are rejected are errors with the service's words", async () => {
    server.answer = () => ({ status: 403, body: '{"detail":"The job token does not name the job."}' });
    await assert.rejects(client().result(JOB), (error) => error instanceof RequestError && error.status === 403 && error.message.includes("does not name"));
    server.answer = () => ({ status: 502, body: "<html>" });
    await assert.rejects(client({ timeout: 0 }).get(JOB), (error) => error instanceof RequestError && error.isTransient);
  });
  test("are repeated while the service is unavailable, for some time", async () => {
    server.answer = (_, number) => (number < 3 ? { status: 503, headers: { "Retry-After": "0" } } : { body: JSON.stringify(job()) });
    assert.equal((await client().get(JOB)).progress, 10);
    assert.equal(server.seen.length, 3);
    server.answer = () => ({ status: 503, headers: { "Retry-After": "60" } });
    await assert.rejects(client().get(JOB), (error) => error instanceof RequestError && error.retryAfter === 60);
  });
  test("have the ETag of the last answer", async () => {
    server.answer = ({ headers }) => (headers["if-none-match"] === '"1"' ? { status: 304 } : { body: JSON.stringify(job()), headers: { ETag: '"1"' } });
    const asking = client();
    assert.deepEqual(await asking.get(JOB), await asking.get(JOB));
    assert.equal(server.seen[1].headers["if-none-match"], '"1"');
  });
  test("are sent with a new credential after a 401, once", async () => {
    let called = 0;
    server.answer = ({ headers }) => (headers.authorization === "Bearer 2" ? { body: JSON.stringify(job()) } : { status: 401, body: '{"detail":"The job token has expired."}' });
    const asking = client({ credentials: () => String(++called) });
    assert.equal((await asking.get(JOB)).state, "in_progress");
    assert.equal((await asking.get(JOB)).state, "in_progress");
    assert.equal(called, 2);
    await assert.rejects(client({ credentials: () => "wrong" }).get(JOB), RequestError);
    assert.equal(server.seen.length, 5);
  });
  test("at once call the function for a credential once", async () => {
    let called = 0;
    server.answer = () => ({ body: JSON.stringify(job()) });
    const asking = client({ credentials: async (ids) => `${(called += 1)} ${ids}` });
    await Promise.all([asking.get(JOB), asking.get(JOB)]);
    assert.equal(called, 1);
    await asking.get(OTHER_JOB);
    assert.equal(called, 2);
  });
  test("for a list have its filters", async () => {
    server.answer = () => ({ body: '{"jobs":[],"next":null}' });
    await client().list({ states: ["failed", "aborted"], name: "a&b", limit: 7, cursor: "x" });
    assert.equal(server.seen[0].path, "/api/jobs?state=failed&state=aborted&name=a%26b&limit=7&cursor=x");
  });
});

describe("watch", () => {
  test("yields each change of a stream, and ends with the job", async () => {
    server.answer = () => stream([at(1), at(2, { progress: 20 }), DONE]);
    assert.deepEqual(await all(client().watch(JOB)), ["in_progress 10", "in_progress 20", "succeeded 100"]);
    assert.equal(server.seen[0].path, `/api/jobs/events?id=${JOB}&details=1`);
    assert.equal(server.seen.length, 1);
  });
  test("of a job that has finished before yields its state once", async () => {
    server.answer = () => stream([DONE]);
    const watching = client();
    assert.deepEqual(await all(watching.watch(JOB)), ["succeeded 100"]);
    assert.deepEqual(await all(watching.watch(JOB)), ["succeeded 100"]);
  });
  test("of many jobs uses one stream", async () => {
    server.answer = () => stream([DONE, { ...DONE, id: OTHER_JOB }]);
    const watching = client();
    await Promise.all([all(watching.watch(JOB)), all(watching.watch(OTHER_JOB)), all(watching.watch([JOB, OTHER_JOB]))]);
    assert.equal(server.seen.length, 1);
  });
  test("of more than 100 jobs uses a stream for each 100", async () => {
    const ids = Array.from({ length: 250 }, (_, i) => `00000000-0000-0000-0000-${String(i).padStart(12, "0")}`);
    server.answer = ({ path }) => stream([...path.matchAll(/id=([^&]+)/g)].map(([, id]) => ({ ...DONE, id })), { gap: 0 });
    const watching = client();
    assert.equal((await watching.wait(ids)).length, 250);
    assert.equal(server.seen.length, 3);
  });
  test("goes on after a cut, a 503 and a stream that ends early, and never backwards", async () => {
    const streams = [
      stream([at(1), at(4, { progress: 40 })], { cut: true }),
      { cut: true },
      { status: 503, headers: { "Retry-After": "0" }, body: '{"detail":"no"}' },
      stream([at(5, { progress: 50 }), DONE], { gap: 50 }),
    ];
    const stale = bulk([at(2, { progress: 20 })]); // from a replica whose cache is not current
    server.answer = ({ path }) => (path.includes("events") ? (streams.shift() ?? {}) : stale);
    const found = await all(client().watch(JOB));
    assert.deepEqual(found, ["in_progress 10", "in_progress 40", "in_progress 50", "succeeded 100"]);
  });
  test("honours the time after which the service asks to reconnect", async () => {
    const answers = [stream([at(1), "retry: 600\n\n"]), stream([DONE])];
    /** @type {number[]} */
    const times = [];
    server.answer = ({ path }) => {
      if (!path.includes("events")) return bulk([at(1)]);
      times.push(performance.now());
      return answers[times.length - 1];
    };
    await all(client().watch(JOB));
    assert.ok(times[1] - times[0] >= 590);
    assert.ok(server.seen.length >= 3, "polls go on meanwhile");
  });
  test("ends when its signal is aborted, and closes the stream", async () => {
    server.answer = () => stream([at(1)], { hold: true });
    const abort = new AbortController();
    const found = [];
    await assert.rejects(async () => {
      for await (const status of client().watch(JOB, { signal: abort.signal })) {
        found.push(status);
        abort.abort(new Error("enough"));
      }
    }, /enough/);
    assert.equal(found.length, 1);
    await until(() => server.openStreams === 0);
  });
  test("closes the stream when the loop is left", async () => {
    server.answer = () => stream([at(1)], { hold: true });
    for await (const status of client().watch(JOB)) {
      assert.equal(status.state, "in_progress");
      break;
    }
    await until(() => server.openStreams === 0);
  });
  test("of a job that begins later begins with unknown", async () => {
    const unknown = job({ state: "unknown", unknown_cause: "no_record", created_at: "1970-01-01T00:00:00.000Z", updated_at: "1970-01-01T00:00:00.000Z", progress: 0 });
    server.answer = () => stream([unknown, at(1), unknown, at(2, { progress: 11 }), DONE]);
    // The second one comes from a replica that does not know the job yet.
    assert.deepEqual(await all(client().watch(JOB)), ["unknown 0", "in_progress 10", "in_progress 11", "succeeded 100"]);
  });
  test("reports a new run after the end of the last one", async () => {
    server.answer = (_, number) => (number === 1 ? stream([DONE]) : stream([{ ...DONE, state: "failed", created_at: "2026-11-28T01:00:00.000Z" }]));
    const watching = client();
    assert.deepEqual(await all(watching.watch(JOB)), ["succeeded 100"]);
    await sleep(5);
    assert.deepEqual(await all(watching.watch(JOB)), ["failed 100"]);
  });
  test("throws when the credential is refused", async () => {
    server.answer = () => ({ status: 401, body: '{"detail":"no"}' });
    await assert.rejects(all(client().watch(JOB)), (error) => error instanceof RequestError && error.status === 401);
  });
  test("finds out which job a token does not name", async () => {
    server.answer = ({ path }) => {
      if (path.includes(OTHER_JOB)) return { status: 403, body: '{"detail":"not this one"}' };
      return path.includes("details=1") ? stream([DONE]) : { body: JSON.stringify(at(1)) };
    };
    const watching = client();
    const [first, second] = await Promise.allSettled([watching.wait(JOB), watching.wait(OTHER_JOB)]);
    assert.equal(first.status, "fulfilled");
    assert.equal(second.status, "rejected");
  });
  test("polls where it may not open a stream", async () => {
    let polls = 0;
    server.answer = ({ path }) => {
      if (path.includes("events")) return { status: 429, headers: { "Retry-After": "0" }, body: '{"detail":"too many"}' };
      polls += 1;
      return bulk([polls === 3 ? DONE : at(polls)], { ETag: `"${polls}"`, "Retry-After": "1" });
    };
    const found = await all(client().watch(JOB));
    assert.deepEqual(found.at(-1), "succeeded 100");
    assert.equal(server.seen.at(-1)?.headers["if-none-match"], '"2"');
  });
  test("sends long polls where a proxy buffers streams", async () => {
    let polls = 0;
    server.answer = ({ path }) => {
      if (path.includes("events")) return { hold: true };
      polls += 1;
      return bulk([polls === 2 ? DONE : at(1)], { ETag: `"${polls}"` });
    };
    assert.deepEqual(await all(client().watch(JOB)), ["in_progress 10", "succeeded 100"]);
    assert.match(server.seen.at(-1)?.path ?? "", /wait=25/);
    assert.equal(server.seen.filter(({ path }) => path.includes("events")).length, 1);
  });
  test("opens no more streams than it may, and polls instead", async () => {
    server.answer = ({ path }) => (path.includes("events") ? stream([at(1)], { hold: true }) : bulk([{ ...DONE, id: OTHER_JOB }]));
    const first = client({ maxStreams: 1 });
    const second = client({ maxStreams: 1, credentials: "other" });
    const watching = first.watch(JOB);
    assert.equal((await watching.next()).value?.state, "in_progress");
    assert.equal((await second.wait(OTHER_JOB)).state, "succeeded");
    assert.equal(server.maxOpenStreams, 1);
    await watching.return();
  });
});

describe("wait", () => {
  test("returns for every final state", async () => {
    for (const state of /** @type {const} */ (["succeeded", "failed", "aborted"])) {
      server.answer = () => stream([at(1), { ...DONE, state }]);
      const status = await client().wait(JOB);
      assert.equal(status.state, state);
      assert.ok(isFinal(status));
    }
  });
  test("returns when any job has finished", async () => {
    server.answer = () => stream([at(1), { ...DONE, id: OTHER_JOB }], { hold: true });
    const [first, second] = await client().wait([JOB, OTHER_JOB], { until: "any-done" });
    assert.deepEqual([first.state, second.state], ["in_progress", "succeeded"]);
  });
  test("throws after its timeout, with what it knows", async () => {
    server.answer = () => stream([at(1)], { hold: true });
    await assert.rejects(client().wait(JOB, { timeout: 200 }), (error) => error instanceof WaitError && error.statuses[0]?.progress === 10);
  });
  test("throws after its timeout although the service is not there", async () => {
    server.answer = () => ({ cut: true });
    await assert.rejects(client().wait(JOB, { timeout: 300 }), (error) => error instanceof WaitError && error.statuses[0] === null);
  });
  test("tolerates an unknown job for a time", async () => {
    const lost = at(1, { state: "unknown", unknown_cause: "lease_expired" });
    server.answer = () => stream([at(1), lost], { hold: true });
    await assert.rejects(client().wait(JOB, { unknown: 100 }), (error) => error instanceof WaitError && error.statuses[0]?.state === "unknown");
    server.answer = () => stream([at(1), lost, at(2), lost, DONE], { gap: 80 });
    assert.equal((await client().wait(JOB, { unknown: 150 })).state, "succeeded");
  });
  test("throws the reason of its signal", async () => {
    server.answer = () => stream([at(1)], { hold: true });
    await assert.rejects(client().wait(JOB, { signal: AbortSignal.timeout(50) }), { name: "TimeoutError" });
    await assert.rejects(client().wait(JOB, { signal: AbortSignal.abort(new Error("before")) }), /before/);
  });
  test("goes on when the token expires", async () => {
    let called = 0;
    server.answer = ({ headers }, number) => {
      if (number === 1) return stream([at(1)]);
      return headers.authorization === "Bearer 2" ? stream([DONE]) : { status: 401, body: '{"detail":"The job token has expired."}' };
    };
    assert.equal((await client({ credentials: () => String(++called) }).wait(JOB)).state, "succeeded");
    assert.equal(called, 2);
  });
});

describe("subscribe", () => {
  test("calls a new listener with what is known", async () => {
    server.answer = () => stream([at(1)], { hold: true });
    const watching = client();
    /** @type {string[]} */
    const seen = [];
    const first = watching.subscribe(JOB, ({ status }) => seen.push(`a ${status?.progress}`));
    await until(() => seen.length === 1);
    const second = watching.subscribe(JOB, ({ status }) => seen.push(`b ${status?.progress}`));
    assert.deepEqual(seen, ["a 10", "b 10"]);
    first();
    server.push(statusEvent(at(2, { progress: 20 })));
    await until(() => seen.length === 3);
    assert.equal(seen[2], "b 20");
    second();
    await until(() => watching.snapshot(JOB).status === null);
    await until(() => server.openStreams === 0);
  });
  test("reports a lost connection, and that it is back", async () => {
    server.answer = (_, number) => (number === 1 ? stream([at(1)], { hold: true }) : number === 2 ? { cut: true } : stream([at(2)], { hold: true }));
    /** @type {boolean[]} */
    const seen = [];
    client().subscribe(JOB, ({ isConnected, problem }) => {
      assert.equal(problem === null, isConnected);
      if (seen.at(-1) !== isConnected) seen.push(isConnected);
    });
    await until(() => seen.length === 1);
    server.cut();
    await until(() => seen.length === 3);
    assert.deepEqual(seen, [true, false, true]);
  });
  test("adds a job to the stream while it is open", async () => {
    server.answer = ({ path }) => stream(path.includes(OTHER_JOB) ? [at(1), { ...at(1), id: OTHER_JOB }] : [at(1)], { hold: true });
    const watching = client();
    let count = 0;
    watching.subscribe(JOB, () => (count += 1));
    await until(() => count === 1);
    watching.subscribe(OTHER_JOB, () => (count += 1));
    await until(() => count === 2);
    assert.equal(server.seen.length, 2);
    await until(() => server.openStreams === 1);
  });
});

describe("follow", () => {
  test("yields the events of a list, again after a lost connection", async () => {
    const page = `event: list\ndata: {"jobs":[${JSON.stringify(job())}]}\n\n`;
    const counts = 'event: counts\ndata: {"pending":1}\n\n';
    server.answer = () => stream([page, counts, statusEvent(at(2))], { cut: true });
    const types = [];
    for await (const event of client().follow({ states: ["failed"], name: "a" })) {
      types.push(event.type);
      if (types.length === 8) break;
    }
    assert.deepEqual(types, ["list", "counts", "status", "lost", "list", "counts", "status", "lost"]);
    assert.equal(server.seen[0].path, "/api/jobs/events?state=failed&name=a");
  });
  test("throws when the credential is refused", async () => {
    server.answer = () => ({ status: 403, body: '{"detail":"no list"}' });
    await assert.rejects(async () => {
      for await (const event of client().follow()) assert.fail(event.type);
    }, RequestError);
  });
});

describe("a service that misbehaves", () => {
  const answers = {
    "closes at once": () => ({ cut: true }),
    "answers with an empty stream": () => stream([]),
    "answers with a page": () => ({ headers: { "Content-Type": "text/html" }, body: "<html>" }),
    "answers with 204": () => ({ status: 204 }),
    "answers with 304": () => ({ status: 304 }),
    "answers with 404, as an ingress during a deployment": () => ({ status: 404, body: "not found" }),
    "sends garbage": () => stream(["event: status\ndata: {\n\n"]),
    "forbids, but not the single job": ({ path }) => (path.includes("id=") ? { status: 403, body: "{}" } : { body: JSON.stringify(at(1)) }),
    "forbids, and then limits": ({ path }) => (path.includes("id=") ? { status: 403, body: "{}" } : { status: 429, headers: { "Retry-After": "60" }, body: "{}" }),
    "asks for a wait without an end": () => stream(["retry: 3000000000\n\n", at(1)]),
    "limits": () => ({ status: 429, headers: { "Retry-After": "60" }, body: "{}" }),
  };
  for (const [name, answer] of Object.entries(answers)) {
    test(`and ${name} is asked a few times a second at most`, async () => {
      server.answer = /** @type {any} */ (answer);
      const watching = client({ random: () => 0.5 });
      watching.subscribe(JOB, () => {});
      watching.subscribe(OTHER_JOB, () => {});
      await sleep(2_000);
      assert.ok(server.seen.length >= 1 && server.seen.length <= 14, `${server.seen.length} requests in 2 s`);
    });
  }
  test("and ignores waits, or sends no ETags, is asked every few seconds", async () => {
    for (const etag of ["", '"1"']) {
      server.seen = [];
      server.answer = ({ path, headers }) => {
        if (path.includes("events")) return { hold: true };
        return headers["if-none-match"] ? { status: 304 } : bulk([at(1)], etag ? { ETag: etag } : {});
      };
      const watching = client();
      watching.subscribe(JOB, () => {});
      await sleep(8_000);
      watching.close();
      assert.ok(server.seen.length <= 5, `${server.seen.length} requests in 8 s`);
    }
  });
  test("and gives no answer to a poll is asked again", { timeout: 40_000 }, async () => {
    server.answer = ({ path }, number) => (path.includes("events") ? { status: 503, body: "{}" } : number < 3 ? { hold: true } : bulk([DONE]));
    assert.equal((await client().wait(JOB)).state, "succeeded");
  });
  test("and limits is not asked sooner because jobs are added", async () => {
    server.answer = () => ({ status: 429, headers: { "Retry-After": "60" }, body: "{}" });
    const watching = client();
    for (let i = 0; i < 20; i++) {
      watching.subscribe(`00000000-0000-0000-0000-${String(i).padStart(12, "0")}`, () => {});
      await sleep(50);
    }
    assert.ok(server.seen.length <= 2, `${server.seen.length} requests`);
  });
});

describe("many jobs", () => {
  test("are seen although others are added all the time, and answers are slow", async () => {
    server.answer = ({ path }) => stream([...path.matchAll(/id=([^&]+)/g)].map(([, id]) => ({ ...at(1), id })), { hold: true, gap: 0, delay: 350 });
    const watching = client();
    let count = 0;
    for (let i = 0; i < 15; i++) {
      watching.subscribe(`00000000-0000-0000-0000-${String(i).padStart(12, "0")}`, () => (count += 1));
      await sleep(150);
    }
    assert.ok(count > 0);
  });
  test("that nobody watches any more end the stream", async () => {
    server.answer = () => stream([at(1), { ...at(1), id: OTHER_JOB }], { hold: true });
    const watching = client();
    watching.subscribe(JOB, () => {});
    const end = watching.subscribe(OTHER_JOB, () => {});
    await until(() => watching.snapshot(OTHER_JOB).status !== null);
    end();
    server.push(statusEvent(DONE));
    await until(() => server.openStreams === 0);
  });
  test("are asked for again when they are watched again", async () => {
    server.answer = ({ path }) => stream([...path.matchAll(/id=([^&]+)/g)].map(([, id]) => job({ id })), { hold: true });
    const watching = client();
    const other = watching.watch(OTHER_JOB);
    assert.equal((await other.next()).value?.id, OTHER_JOB);
    for (const _ of [1, 2, 3]) {
      const statuses = watching.watch(JOB);
      assert.equal((await statuses.next()).value?.id, JOB);
      await statuses.return();
      await sleep(50);
    }
    await other.return();
  });
  test("of which one fails can be watched again", async () => {
    server.answer = (_, number) => (number === 1 ? { status: 403, body: "{}" } : stream([DONE]));
    const watching = client();
    watching.subscribe(JOB, () => {});
    await until(() => watching.snapshot(JOB).error !== null);
    assert.equal((await watching.wait(JOB)).state, "succeeded");
  });
  test("are remembered to be behind a proxy that holds streams back", async () => {
    server.answer = ({ path }) => (path.includes("events") ? { hold: true } : bulk([{ ...DONE, id: /id=([^&]+)/.exec(path)?.[1] }]));
    const waiting = client();
    await waiting.wait(JOB);
    const began = performance.now();
    await waiting.wait(OTHER_JOB);
    assert.ok(performance.now() - began < 2_000);
  });
});

describe("close", () => {
  test("ends waits, loops, requests and streams", async () => {
    server.answer = ({ path }) => (path.includes("/details") ? { hold: true } : stream([at(1)], { hold: true }));
    const closing = client();
    const follow = async () => {
      for await (const event of closing.follow()) void event;
    };
    const running = [closing.wait(JOB), closing.details(JOB), all(closing.watch(OTHER_JOB)), follow()];
    await until(() => server.openStreams === 2);
    closing.close();
    for (const each of running) await assert.rejects(each, /closed/);
    assert.throws(() => closing.subscribe(JOB, () => {}), /closed/);
    await until(() => server.openStreams === 0);
  });
  test("ends what waits for a credential that never comes", async () => {
    const closing = client({ credentials: () => new Promise(() => {}) });
    await assert.rejects(closing.wait(JOB, { timeout: 100 }), WaitError);
    await assert.rejects(closing.get(JOB, { signal: AbortSignal.timeout(100) }), { name: "TimeoutError" });
    const waiting = closing.wait(JOB);
    closing.close();
    await assert.rejects(waiting, /closed/);
    server.answer = () => stream([DONE]);
    assert.equal((await client({ maxStreams: 1 }).wait(JOB)).state, "succeeded");
  });
});

describe("details", () => {
  test("of an empty list of jobs are none", async () => {
    assert.deepEqual(await client().wait([], { until: "any-done" }), []);
  });
  test("are reported once, whatever the connection does", async () => {
    server.answer = (_, number) => (number < 4 ? stream([at(1)], { cut: true }) : stream([at(1), DONE]));
    assert.deepEqual(await all(client().watch(JOB)), ["in_progress 10", "succeeded 100"]);
  });
  test("may contain any character", async () => {
    server.answer = () => stream([{ ...DONE, reason: "a\u2028b\u2029c" }]);
    assert.equal((await client().wait(JOB)).reason, "a\u2028b\u2029c");
  });
  test("are given to all listeners, whatever one of them does", async () => {
    server.answer = () => stream([at(1), at(2)], { hold: true, gap: 30 });
    const watching = client();
    const errors = console.error;
    console.error = () => {};
    let count = 0;
    const end = watching.subscribe(JOB, () => {
      end?.();
      throw new Error("a listener's fault");
    });
    watching.subscribe(JOB, () => (count += 1));
    await until(() => count === 2);
    console.error = errors;
  });
  test("say how long each job has been unknown", async () => {
    const lost = (/** @type {string} */ id, /** @type {number} */ n) => ({ ...at(n, { state: "unknown", unknown_cause: "lease_expired" }), id });
    server.answer = () => stream([lost(JOB, 1), at(1, { id: OTHER_JOB }), at(2), lost(OTHER_JOB, 3), DONE, { ...DONE, id: OTHER_JOB }], { gap: 120 });
    const [first, second] = await client().wait([JOB, OTHER_JOB], { unknown: 330 });
    assert.deepEqual([first.state, second.state], ["succeeded", "succeeded"]);
  });
});

/** @param {number} ms */
function sleep(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** @param {() => boolean} condition */
async function until(condition) {
  const deadline = performance.now() + 5_000;
  while (!condition()) {
    assert.ok(performance.now() < deadline, "not in time");
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}
