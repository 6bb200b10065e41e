"""An arq application that does not name its Redis: the environment variables do."""

import asyncio
import os
from pathlib import Path
from typing import Any, ClassVar

from jobstatus import current_job
from jobstatus.arq import create_pool, redis_settings
from jobstatus.settings import PublisherSettings

WORKER = ("jobstatus-worker", "tests.deploy.app.WorkerSettings")
"""The arguments of `tests.processes.running` that start a worker of this application."""


async def work(ctx: dict[str, Any], steps: int = 10, pause: float = 0.05) -> int:
    """Report progress for some time, and append a line to the file RUNS for each attempt."""
    with Path(os.environ["RUNS"]).open("a") as runs:  # noqa: ASYNC230
        runs.write(f"{ctx['job_id']} {ctx['job_try']}\n")
    for _ in current_job().track(range(steps), reason="step {done} of {total}"):
        await asyncio.sleep(pause)
    return steps


async def enqueue(url: str, count: int) -> list[str]:
    """Enqueue jobs that take half a second to a second; return their ids."""
    pool = await create_pool(redis_settings(url), status=PublisherSettings(redis_url=url))
    try:
        ids = [f"job-{n}" for n in range(count)]
        for n, job_id in enumerate(ids):
            assert await pool.enqueue_job("work", 10, 0.05 + n % 5 / 100, _job_id=job_id)
        return ids
    finally:
        await pool.aclose()


class WorkerSettings:
    """The settings that `jobstatus-worker` runs."""

    functions: ClassVar = [work]
    max_jobs = 10
    poll_delay = 0.1
    job_timeout = 15
    max_tries = 3
