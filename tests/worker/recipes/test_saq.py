"""The recipe for SAQ."""

from tests.worker.recipes.queue_recipe import QueueRecipe, check_flow, lines_of

JOBS = """
from gates import wait_async, wait_for


async def fail(ctx):
    current_job().progress(30)
    raise ValueError("no such customer")


async def try_twice(ctx):
    if ctx["job"].attempts > 1:
        return
    current_job().progress(50)
    await wait_async("retry")
    raise TimeoutError("slow")


async def hold(ctx, *, gate, percent):
    current_job().progress(percent)
    await wait_async(gate)


def hold_thread(ctx, *, gate, percent):
    current_job().progress(percent)
    wait_for(gate)


async def fail_twice(ctx):
    raise TimeoutError("too slow")


settings["functions"] += [fail, try_twice, hold, hold_thread, fail_twice]
settings |= {"concurrency": 2, "timers": {"abort": 0.05}}
"""

CLIENT = """
import asyncio

import saq_status
from gates import wait_async
from saq_app import queue

FIRST = [
    ("fail", {}),
    ("try_twice", {"retries": 2}),
    ("hold", {"gate": "both", "percent": 20}),
    ("hold_thread", {"gate": "both", "percent": 70}),
    ("render", {"frames": 5}),
    ("render", {"frames": 5}),
]
MORE = [
    ("fail_twice", {"retries": 2}),
    ("hold", {"gate": "end", "percent": 40}),
]
LAST = [("hold", {"gate": "end", "percent": 90})]


async def enqueue(jobs):
    enqueued = [await queue.enqueue(name, timeout=0, **options) for name, options in jobs]
    for job in enqueued:
        print(job.key, flush=True)
    return enqueued


async def main():
    await queue.connect()
    # At its start, SAQ returns jobs to the queue that it has begun at the same moment.
    async with asyncio.timeout(60):
        while not await queue.redis.exists("saq:default:sweep"):
            await asyncio.sleep(0.01)
    *_, waiting, not_needed = await enqueue(FIRST)
    assert await queue.enqueue("render", frames=1, key=waiting.key) is None
    await saq_status.abort(not_needed, "not needed")
    await wait_async("more")
    _, not_wanted = await enqueue(MORE)
    await wait_async("abort")
    await saq_status.abort(not_wanted, "not wanted")
    await enqueue(LAST)
    await queue.disconnect()


asyncio.run(main())
"""


def test_saq(recipe: QueueRecipe) -> None:
    """Jobs of a SAQ worker are shown from the queue to their outcomes."""
    recipe.write("saq_status.py", "saq_app.py", JOBS)
    client = recipe.start("-c", CLIENT)
    worker = recipe.start("-m", "saq", "saq_app.settings")
    *flow, not_needed = lines_of(client, 6)
    aborted = recipe.until(not_needed, "aborted")
    assert (aborted.reason, aborted.progress) == ("not needed", None)
    created = recipe.record(flow[-1]).created
    check_flow(recipe, flow)
    assert recipe.record(flow[-1]).created == created, "it was enqueued only once"
    recipe.open("more")
    given_up, not_wanted = lines_of(client, 2)
    failed = recipe.until(given_up, "failed")
    assert (failed.reason, failed.attempt) == ("TimeoutError: too slow", 2)
    assert recipe.has_one_run(given_up)
    recipe.until(not_wanted, "in_progress", 40)
    recipe.open("abort")
    aborted = recipe.until(not_wanted, "aborted")
    assert (aborted.reason, aborted.progress) == ("not wanted", 40)
    (stopped,) = lines_of(client)
    recipe.until(stopped, "in_progress", 90)
    worker.terminate()
    assert worker.wait(30) == 0
    assert recipe.record(stopped).state == "retrying"
