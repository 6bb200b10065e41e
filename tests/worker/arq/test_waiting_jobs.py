"""Jobs of producers that publish no status are shown as pending while they wait in the queue."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import arq
import pytest
from arq.connections import ArqRedis, RedisSettings
from redis.exceptions import ResponseError
from tests.worker.arq import app
from tests.worker.arq.conftest import ReadStatus, Work, soon

from jobstatus import job_uuid
from jobstatus.arq import create_worker, waiting_jobs
from jobstatus.arq.status_reader import StatusReader
from jobstatus.arq.waiting_jobs import WaitingJobs
from jobstatus.settings import PublisherSettings
from jobstatus.storage.write import Write


@pytest.fixture
async def plain_pool(redis_url: str) -> AsyncIterator[ArqRedis]:
    """Return a pool of arq's own."""
    pool = await arq.create_pool(RedisSettings.from_dsn(redis_url))
    yield pool
    await pool.aclose(close_connection_pool=True)


@pytest.fixture
def published() -> list[Write]:
    return []


@pytest.fixture
def waiting(plain_pool: ArqRedis, published: list[Write]) -> WaitingJobs:
    """Return a scanner of the default queue."""
    settings = PublisherSettings()
    return WaitingJobs(
        plain_pool,
        plain_pool.default_queue_name,
        settings,
        StatusReader(plain_pool, settings),
        publish=published.append,
        deserializer=None,
        name=None,
    )


async def test_job_that_waits(
    plain_pool: ArqRedis, redis: Any, redis_url: str, status: ReadStatus
) -> None:
    """Jobs that wait for a free worker, or for their time, are shown before they run."""
    await plain_pool.enqueue_job("sleep", 30, _job_id="running")
    await plain_pool.enqueue_job("add", 1, 2, _job_id="waiting", _defer_by=0.01)
    await plain_pool.enqueue_job("add", 1, 2, _job_id="deferred", _defer_by=3600)
    worker = create_worker(
        app.WorkerSettings,
        redis_settings=RedisSettings.from_dsn(redis_url),
        handle_signals=False,
        max_jobs=1,
        poll_delay=0.02,
    )
    task = asyncio.create_task(worker.main())
    try:
        await soon(lambda: status("running").get("state") == "in_progress")
        await soon(lambda: status("waiting").get("state") == "pending")
        await soon(lambda: status("deferred").get("state") == "pending")
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await worker.close()
    record = status("deferred")
    assert (record["name"], record["attempt"]) == ("add", "0")
    assert abs(int(record["created"]) - 1000 * time.time()) < 60_000
    assert redis.pttl(f"job:{job_uuid('deferred')}") > redis.pttl("arq:job:deferred") > 3_500_000


async def test_run_keeps_its_record(
    plain_pool: ArqRedis, waiting: WaitingJobs, published: list[Write], work: Work
) -> None:
    """The record of a waiting job belongs to the run that the worker then begins."""
    await plain_pool.enqueue_job("add", 1, 2, _job_id="a")
    await waiting.scan()
    (write,) = published
    worker = await work()
    assert worker.jobs_complete == 1
    (run,) = await StatusReader(plain_pool, PublisherSettings()).runs(["a"])
    assert run is not None
    assert (run.created, run.state) == (write.record.created, "succeeded")


async def test_each_job_is_read_once(
    plain_pool: ArqRedis, waiting: WaitingJobs, published: list[Write]
) -> None:
    """A job that is published, or that can't be read, is not read again."""
    await plain_pool.enqueue_job("add", 1, 2, _job_id="a")
    await plain_pool.psetex("arq:job:b", 60_000, b"no pickle")
    await plain_pool.zadd(plain_pool.default_queue_name, {"b": 1})
    await waiting.scan()
    await waiting.scan()
    assert [write.record.name for write in published] == ["add"]


async def test_job_with_a_record(
    plain_pool: ArqRedis, waiting: WaitingJobs, published: list[Write], work: Work
) -> None:
    """A job with a record is left alone; if that is of an earlier run, the new run is shown."""
    await plain_pool.enqueue_job("add_unkept", 1, 2, _job_id="a")
    await work()
    await plain_pool.enqueue_job("add_unkept", 1, 2, _job_id="a")
    await waiting.scan()
    assert len(published) == 1
    await waiting.scan()
    assert len(published) == 1


async def test_work_is_bounded(
    plain_pool: ArqRedis,
    waiting: WaitingJobs,
    published: list[Write],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each scan looks at a part of the queue, and reads a limited number of bytes."""
    monkeypatch.setattr(waiting_jobs, "_MAX_JOBS", 3)
    monkeypatch.setattr(waiting_jobs, "_MAX_PAYLOAD_BYTES", 500)
    monkeypatch.setattr(waiting_jobs, "_MAX_READ", 1)
    for n in range(7):
        await plain_pool.enqueue_job("add", b"x" * 400, n, _job_id=f"{n}", _defer_by=n + 1)
    counts = []
    for _ in range(6):
        await waiting.scan()
        counts.append(len(published))
    assert counts == [2, 4, 5, 6, 7, 7]
    assert len({write.key for write in published}) == 7


async def test_refusal_ends_the_scans(
    waiting: WaitingJobs, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If Redis refuses to read the jobs, this is logged once, and there are no more scans."""

    async def refuse() -> None:
        raise ResponseError("NOPERM no permissions")

    monkeypatch.setattr(waiting, "scan", refuse)
    waiting.scan_soon()
    await soon(lambda: "NOPERM no permissions" in caplog.text)
    await waiting.close()
    monkeypatch.setattr(waiting, "_scan_at", 0.0)
    task = waiting._task
    waiting.scan_soon()
    assert waiting._task is task
