// Waits for jobs with the JavaScript client: `node wait.js URL`, the UUIDs on stdin; prints when each was seen
// to have finished: its UUID, state and the time of the monotonic clock.

import { JobStatusClient } from "../../service/jobstatus_web/client.js";

const chunks = [];
for await (const chunk of process.stdin) chunks.push(chunk);
const ids = Buffer.concat(chunks).toString().trim().split("\n");
const client = new JobStatusClient({ url: process.argv[2], credentials: "secret" });
await Promise.all(
  ids.map(async (id) => {
    const { state } = await client.wait(id);
    console.log(id, state, Number(process.hrtime.bigint()) / 1e9);
  }),
);
client.close();
