// Carries out the tasks of scenarios with the JavaScript client: in a page, or in Node (tasks on stdin).

const LIMIT_SECONDS = 30; // after this time a task that hangs is cancelled

/**
 * @param {typeof import("../../service/jobstatus_web/client.js")} module
 * @param {any[]} tasks
 */
export async function runAll(module, tasks) {
  return Promise.all(tasks.map((task) => run(module, task)));
}

/**
 * @param {typeof import("../../service/jobstatus_web/client.js")} module
 * @param {any} task
 */
async function run({ JobStatusClient, RequestError, WaitError }, task) {
  const began = performance.now();
  const given = task.credentials;
  let asked = 0;
  const client = new JobStatusClient({
    url: task.url,
    credentials: typeof given === "string" ? given : () => given[Math.min(asked++, given.length - 1)],
    timeout: 1_000 * (task.client_timeout ?? 10),
    random: () => 0,
    background: true,
  });
  const abort = new AbortController();
  const { timeout, unknown, ...others } = task.options ?? {};
  const options = {
    ...others,
    signal: abort.signal,
    ...(timeout === undefined ? {} : { timeout: 1_000 * timeout }),
    ...(unknown === undefined ? {} : { unknown: 1_000 * unknown }),
  };
  const timer = setTimeout(() => abort.abort(), 1_000 * (task.cancel_after ?? LIMIT_SECONDS));
  const restoreClock = jumpClock(task.jump_clock);
  /** @type {any} */
  const outcome = { yielded: [], returned: null, error: null };
  try {
    const operations = /** @type {any} */ (client);
    const found = ["list", "counts", "follow"].includes(task.do) ? operations[task.do](options) : operations[task.do](task.ids, options);
    if (["watch", "follow"].includes(task.do)) {
      for await (const each of found) {
        outcome.yielded.push(each.type === "lost" ? { type: "lost" } : each);
        if (outcome.yielded.length === task.stop_after) break;
      }
    } else outcome.returned = await found;
  } catch (error) {
    const { name, message, status } = /** @type {any} */ (error);
    const type = error instanceof RequestError ? "request" : error instanceof WaitError ? "wait" : name === "AbortError" ? "cancelled" : "unavailable";
    outcome.error = { type, status: status ?? null, message };
  }
  outcome.seconds = (performance.now() - began) / 1_000;
  clearTimeout(timer);
  restoreClock();
  client.close();
  return outcome;
}

/**
 * Set the clock forward after some time.
 * @param {{ after: number, seconds: number } | undefined} jump
 */
function jumpClock(jump) {
  if (!jump) return () => {};
  const now = Date.now;
  const timer = setTimeout(() => (Date.now = () => now.call(Date) + 1_000 * jump.seconds), 1_000 * jump.after);
  return () => {
    clearTimeout(timer);
    Date.now = now;
  };
}

if (typeof process !== "undefined" && typeof document === "undefined") {
  const chunks = [];
  for await (const chunk of process.stdin) chunks.push(chunk);
  const module = await import("../../service/jobstatus_web/client.js");
  process.stdout.write(JSON.stringify(await runAll(module, JSON.parse(Buffer.concat(chunks).toString()))));
}
