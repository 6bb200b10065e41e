"""arq's pool publishes the jobs that it enqueues as pending."""

import asyncio
import pickle
from datetime import timedelta
from typing import Any

import pytest
from arq.connections import RedisSettings
from arq.jobs import Job
from tests.records import ANY_RECORD
from tests.worker.arq.conftest import ReadStatus, Work, enqueue

from jobstatus.arq import StatusRedis, create_pool


async def test_enqueued_job_is_pending(pool: StatusRedis, status: ReadStatus) -> None:
    """An enqueued job is pending at once, with its function's name and its enqueue time."""
    job_id = await enqueue(pool, "add", 1, 2)
    info = await Job(job_id, pool).info()
    assert info is not None
    record = status(job_id)
    assert (record["state"], record["name"], record["attempt"]) == ("pending", "add", "0")
    assert int(record["created"]) == round(info.enqueue_time.timestamp() * 1000)


async def test_same_id_before_the_job_has_finished(pool: StatusRedis, status: ReadStatus) -> None:
    """Enqueuing the id of an unfinished job again does not change its record."""
    await enqueue(pool, "add", 1, 2, _job_id="mine")
    before = status("mine")
    assert await pool.enqueue_job("sleep", 1, _job_id="mine") is None
    assert status("mine") == before


async def test_same_id_after_the_job_has_finished(
    pool: StatusRedis, status: ReadStatus, work: Work
) -> None:
    """Enqueuing the id of a finished job begins a new run, which is pending."""
    await enqueue(pool, "add_unkept", 1, 2, _job_id="mine")
    await work()
    first = status("mine")
    assert first["state"] == "succeeded"
    await asyncio.sleep(0.002)  # two runs that are enqueued in the same ms are the same run
    await enqueue(pool, "fail", _job_id="mine")
    record = status("mine")
    assert (record["state"], record["attempt"]) == ("pending", "0")
    assert int(record["created"]) > int(first["created"])
    await work()
    assert status("mine")["state"] == "failed"


@pytest.mark.parametrize("defer", [timedelta(hours=5), timedelta(days=9)])
async def test_record_outlives_the_deferral(
    pool: StatusRedis, redis: Any, defer: timedelta
) -> None:
    """The record of a deferred job is stored for longer than the deferral and than arq's job."""
    job_id = await enqueue(pool, "add", 1, 2, _defer_by=defer)
    (key,) = redis.keys(ANY_RECORD)
    assert redis.pttl(key) > redis.pttl(f"arq:job:{job_id}") > defer / timedelta(milliseconds=1)


async def test_own_serializers_are_used(redis_url: str, status: ReadStatus, work: Work) -> None:
    """A pool and a worker use the application's serializers for jobs and for results."""

    def dump(data: dict[str, Any]) -> bytes:
        return b"X" + pickle.dumps(data)

    def load(data: bytes) -> Any:
        assert data[:1] == b"X"
        return pickle.loads(data[1:])

    pool = await create_pool(
        RedisSettings.from_dsn(redis_url), job_serializer=dump, job_deserializer=load
    )
    job_id = await enqueue(pool, "add", 1, 2)
    await work(job_serializer=dump, job_deserializer=load)
    assert await Job(job_id, pool, _deserializer=load).result() == 3
    assert status(job_id)["state"] == "succeeded"
    await pool.aclose()
