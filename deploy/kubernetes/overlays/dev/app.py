"""The application of the workers in the development overlay: one job that takes some time."""

import asyncio
from typing import Any, ClassVar

from jobstatus import current_job


async def countdown(_: dict[str, Any], seconds: int = 20) -> int:
    """Take about this many seconds, and report progress every 0.1 s."""
    for _step in current_job().track(range(10 * seconds), reason="step {done} of {total}"):
        await asyncio.sleep(0.1)
    return seconds


class WorkerSettings:
    """What `jobstatus-worker app.WorkerSettings` runs. JOBSTATUS_REDIS_URL names the Redis."""

    functions: ClassVar = [countdown]
