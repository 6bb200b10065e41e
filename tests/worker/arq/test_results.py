"""The results of arq's jobs: what they return or set, and the tracebacks of failures."""

from typing import Any

import msgspec
import pytest
from tests.records import key
from tests.worker.arq.conftest import Work, enqueue

from jobstatus.arq import StatusRedis
from jobstatus.keys import result_key
from jobstatus.settings import PublisherSettings

STORED = PublisherSettings(report_interval=0.02, results=True)
TRACED = PublisherSettings(report_interval=0.02, tracebacks=True)


def stored(redis: Any, job_id: str) -> tuple[str | None, Any]:
    """Return what the record says of the result, and the result."""
    body = redis.get(result_key(key(job_id)))
    return redis.hget(key(job_id), "result"), None if body is None else msgspec.json.decode(body)


async def test_returned_value(pool: StatusRedis, redis: Any, work: Work) -> None:
    """With JOBSTATUS_RESULTS, what a job returns is its result, and expires with its record."""
    job_id = await enqueue(pool, "returned", {"pages": [1, 2]})
    await work(status=STORED)
    assert stored(redis, job_id) == ("value", {"pages": [1, 2]})
    assert abs(redis.pttl(key(job_id)) - redis.pttl(result_key(key(job_id)))) < 100


async def test_opt_in(pool: StatusRedis, redis: Any, work: Work) -> None:
    """Without the setting, nothing that a job returns is stored."""
    job_id = await enqueue(pool, "returned", "secret")
    await work()
    assert stored(redis, job_id) == (None, None)


async def test_value_that_is_set(pool: StatusRedis, redis: Any, work: Work) -> None:
    """What a job sets as its result is stored without the setting, and instead of its value."""
    ids = [await enqueue(pool, "sets_result", value) for value in ({"a": 1}, None)]
    await work()
    assert stored(redis, ids[0]) == ("value", {"a": 1})
    assert stored(redis, ids[1]) == (None, None)
    job_id = await enqueue(pool, "sets_result", "set")
    await work(status=STORED)
    assert stored(redis, job_id) == ("value", "set")


@pytest.mark.parametrize(
    ("function", "reason"),
    [("unpicklable", "the result is not JSON"), ("large", "the result has 70002 bytes")],
)
async def test_value_that_is_dropped(
    pool: StatusRedis, redis: Any, work: Work, function: str, reason: str
) -> None:
    """A value that can't be stored is dropped with a reason; the job ends as it does without."""
    job_id = await enqueue(pool, function)
    await work(status=STORED)
    state, value = stored(redis, job_id)
    assert state is not None
    assert state.startswith(reason)
    assert value is None
    expected = "failed" if function == "unpicklable" else "succeeded"
    assert redis.hget(key(job_id), "state") == expected


async def test_none(pool: StatusRedis, redis: Any, work: Work) -> None:
    """A job that returns None has no result."""
    job_id = await enqueue(pool, "returned", None)
    await work(status=STORED)
    assert stored(redis, job_id) == (None, None)


async def test_traceback(pool: StatusRedis, redis: Any, work: Work) -> None:
    """With JOBSTATUS_TRACEBACKS, the traceback of a failed job is its result."""
    job_id = await enqueue(pool, "fail")
    await work(status=TRACED)
    state, value = stored(redis, job_id)
    assert state == "traceback"
    assert "in fail" in value["traceback"]


async def test_retry(pool: StatusRedis, redis: Any, work: Work) -> None:
    """An attempt that is followed by another one has no result; the last one has."""
    job_id = await enqueue(pool, "again")
    await work(status=STORED, max_burst_jobs=1)
    assert redis.hget(key(job_id), "state") == "retrying"
    assert stored(redis, job_id) == (None, None)
    await work(status=STORED)
    assert stored(redis, job_id)[0] == "value"
    assert redis.hget(key(job_id), "attempt") == "3"


async def test_job_that_is_not_run(pool: StatusRedis, redis: Any, work: Work) -> None:
    """A job that ends without being run has neither a start nor a worker nor a result."""
    job_id = await enqueue(pool, "no_such_function")
    await work(status=TRACED)
    assert redis.hmget(key(job_id), "state", "started", "worker", "result") == [
        *("failed", None, None, None),
    ]


async def test_worker_and_start(pool: StatusRedis, redis: Any, work: Work) -> None:
    """The record of a job that has run names its host and the start of the attempt."""
    job_id = await enqueue(pool, "sleep", 0.05)
    await work()
    worker, started, updated = redis.hmget(key(job_id), "worker", "started", "updated")
    assert worker
    assert 45 <= int(updated) - int(started) < 2_000
