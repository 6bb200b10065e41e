"""What the workers of the development overlay run: something that takes its time."""

import asyncio
from typing import Any, ClassVar

from jobstatus import current_job


async def countdown(_: dict[str, Any], seconds: int = 20) -> int:
    """Count down, with progress."""
    for _step in current_job().track(range(10 * seconds), reason="step {done} of {total}"):
        await asyncio.sleep(0.1)
    return seconds


class WorkerSettings:
    """`jobstatus-worker app.WorkerSettings`. Its Redis is JOBSTATUS_REDIS_URL's."""

    functions: ClassVar = [countdown]
