"""The recipe for taskiq."""

from tests.worker.recipes.queue_recipe import QueueRecipe, check_flow, lines_of

JOBS = """
from typing import Annotated

from gates import wait_async, wait_for
from taskiq import Context, TaskiqDepends


@broker.task
async def fail():
    current_job().progress(30)
    raise ValueError("no such customer")


@broker.task(retry_on_error=True, max_retries=2)
async def try_twice(context: Annotated[Context, TaskiqDepends()]):
    if "_retries" in context.message.labels:
        return
    current_job().progress(50)
    await wait_async("retry")
    raise TimeoutError("slow")


@broker.task
async def hold(gate, percent):
    current_job().progress(percent)
    await wait_async(gate)


@broker.task
def hold_thread(gate, percent):
    current_job().progress(percent)
    wait_for(gate)


@broker.task
async def requeue(context: Annotated[Context, TaskiqDepends()]):
    if "X-Taskiq-requeue" not in context.message.labels:
        await context.requeue()


@broker.task(retry_on_error=True, max_retries=2)
async def fail_twice():
    raise TimeoutError("too slow")
"""

CLIENT = """
import asyncio

from taskiq_app import *


async def enqueue(*tasks):
    for task in tasks:
        print((await task).task_id, flush=True)


async def main():
    await broker.startup()
    both = hold.kiq("both", 20), hold_thread.kiq("both", 70)
    await enqueue(fail.kiq(), try_twice.kiq(), *both, render.kiq(5))
    await wait_async("more")
    await enqueue(requeue.kiq(), fail_twice.kiq(), hold.kiq("stop", 90))
    await broker.shutdown()


asyncio.run(main())
"""


def test_taskiq(recipe: QueueRecipe) -> None:
    """Jobs of a taskiq worker are shown from the queue to their outcomes."""
    recipe.write("taskiq_status.py", "taskiq_app.py", JOBS)
    client = recipe.start("-c", CLIENT)
    options = ("--workers", "1", "--max-async-tasks", "2")
    worker = recipe.start("-m", "taskiq", "worker", *options, "taskiq_app:broker")
    check_flow(recipe, lines_of(client, 5))
    recipe.open("more")
    requeued, given_up, stopped = lines_of(client, 3)
    assert recipe.until(requeued, "succeeded").attempt == 2
    failed = recipe.until(given_up, "failed")
    assert (failed.reason, failed.attempt) == ("TimeoutError: too slow", 2)
    assert recipe.has_one_run(given_up)
    recipe.until(stopped, "in_progress", 90)
    worker.terminate()
    recipe.open("stop")
    assert worker.wait(30) == 0
    assert recipe.record(stopped).state == "succeeded"
