"""An arq application that says nothing of where its queue is: the environment does."""

import asyncio
import os
from pathlib import Path
from typing import Any, ClassVar

from jobstatus import current_job


async def work(ctx: dict[str, Any], steps: int = 10, pause: float = 0.05) -> int:
    """Take some time, with progress, and leave a line for each time that it is run."""
    _leave(f"{ctx['job_id']} {ctx['job_try']}\n")
    for _ in current_job().track(range(steps), reason="step {done} of {total}"):
        await asyncio.sleep(pause)
    return steps


def _leave(line: str) -> None:
    with Path(os.environ["RUNS"]).open("a") as runs:
        runs.write(line)


class WorkerSettings:
    """What `jobstatus-worker` runs."""

    functions: ClassVar = [work]
    max_jobs = 10
    poll_delay = 0.1
    job_timeout = 15
    max_tries = 3
