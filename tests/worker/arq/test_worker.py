"""A worker in code can be run again, shares its pool, and lends its functions."""

import threading
from typing import Any

import arq
import pytest
from arq.connections import RedisSettings
from tests.worker.arq import app
from tests.worker.arq.conftest import ReadStatus, enqueue

from jobstatus.arq import StatusRedis, create_worker


def own_threads() -> set[threading.Thread]:
    """Return the threads of this package."""
    return {each for each in threading.enumerate() if each.name.startswith("jobstatus")}


async def test_run_again(pool: StatusRedis, redis_url: str, status: ReadStatus) -> None:
    """A worker that is run again before it is closed keeps its publisher and its threads."""
    settings = RedisSettings.from_dsn(redis_url)
    before = own_threads()
    worker = create_worker(
        app.WorkerSettings, redis_settings=settings, burst=True, handle_signals=False
    )
    job_ids, seen = [], []
    for _ in range(3):
        job_ids.append(await enqueue(pool, "add", 1, 2))
        await worker.run_check()
        seen.append((worker.publisher, own_threads()))
    assert seen == [seen[0]] * 3
    assert {status(job_id)["state"] for job_id in job_ids} == {"succeeded"}
    await worker.close()
    assert own_threads() <= before
    await enqueue(pool, "add", 1, 2)
    assert await worker.run_check() == 4
    await worker.close()
    assert own_threads() <= before


@pytest.mark.filterwarnings("error::ResourceWarning")
async def test_own_pool_closes_its_connections(redis_url: str) -> None:
    """A pool that the application gives to a worker can be used and closed after the worker."""
    pool: Any = await arq.create_pool(RedisSettings.from_dsn(redis_url))
    worker = create_worker(app.WorkerSettings, redis_pool=pool, burst=True, handle_signals=False)
    await worker.main()
    await worker.close()
    await pool.ping()
    connections = pool.connection_pool._available_connections
    assert [each.is_connected for each in connections].count(True) == 1
    await pool.aclose()
    assert not any(each.is_connected for each in connections)


async def test_function_called_directly(redis_url: str) -> None:
    """The application can call a worker's functions and hooks itself, with a context of its own."""
    calls = []

    async def start(ctx: dict[Any, Any]) -> None:
        calls.append(ctx)

    worker = create_worker(
        app.WorkerSettings,
        redis_settings=RedisSettings.from_dsn(redis_url),
        handle_signals=False,
        on_job_start=start,
    )
    add: Any = worker.functions["add"].coroutine
    assert await add({"job_try": 1}, 1, 2) == 3
    assert worker.on_job_start is not None
    await worker.on_job_start({"job_try": 1})
    assert calls == [{"job_try": 1}]
