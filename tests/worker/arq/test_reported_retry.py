"""A job that calls `report.retry()` and returns is run again, as if it had raised `Retry`."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from arq.constants import default_queue_name
from arq.jobs import Job
from arq.utils import timestamp_ms
from tests.worker.arq.conftest import ReadStatus, Work, enqueue

from jobstatus.arq import StatusRedis


async def test_job_is_run_again(pool: StatusRedis, status: ReadStatus, work: Work) -> None:
    """A job that reports a retry twice succeeds in its third attempt."""
    job_id = await enqueue(pool, "report_retry", 3, 0.01)
    created = status(job_id)["created"]
    worker = await work()
    record = status(job_id)
    assert (record["state"], record["attempt"]) == ("succeeded", "3")
    assert (record.get("reason"), record["created"]) == (None, created)
    assert (worker.jobs_retried, worker.jobs_complete, worker.jobs_failed) == (2, 1, 0)
    result = await Job(job_id, pool).result_info()
    assert result is not None
    assert (result.success, result.result, result.job_try) == (True, "at last", 3)


@pytest.mark.parametrize("delay", [60, timedelta(minutes=1)])
async def test_delay_is_the_score_in_the_queue(
    pool: StatusRedis, redis: Any, status: ReadStatus, work: Work, delay: float | timedelta
) -> None:
    """The next attempt is due after the reported delay, and the record says why and when."""
    job_id = await enqueue(pool, "report_retry", 2, delay)
    earliest_ms = timestamp_ms() + 60_000
    await work(max_burst_jobs=1)
    assert earliest_ms <= redis.zscore(default_queue_name, job_id) <= timestamp_ms() + 60_000
    record = status(job_id)
    assert (record["state"], record["attempt"]) == ("retrying", "1")
    assert record["reason"] == "attempt 1 of 5 failed: rate limited; next in 60 s"
    assert not redis.exists(f"arq:in-progress:{job_id}", f"arq:result:{job_id}")


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        ("rate limited", "attempt 1 of 5 failed: rate limited; next at once"),
        ("", "attempt 1 of 5 asked to be run again; next at once"),
    ],
)
async def test_retry_without_a_delay(
    pool: StatusRedis, redis: Any, status: ReadStatus, work: Work, reason: str, shown: str
) -> None:
    """Without a delay the next attempt is due at once."""
    job_id = await enqueue(pool, "report_retry", 2, None, reason)
    score = redis.zscore(default_queue_name, job_id)
    await work(max_burst_jobs=1)
    assert redis.zscore(default_queue_name, job_id) == score
    assert (status(job_id)["state"], status(job_id)["reason"]) == ("retrying", shown)


@pytest.mark.parametrize(
    ("function", "max_tries"), [("report_retry", 3), ("report_retry_unkept", 2)]
)
async def test_no_attempts_are_left(
    pool: StatusRedis, redis: Any, status: ReadStatus, work: Work, function: str, max_tries: int
) -> None:
    """A job that reports a retry in its last attempt fails, and its reason is shown."""
    job_id = await enqueue(pool, function, 100, 0.01)
    worker = await work(max_tries=3)
    record = status(job_id)
    assert (record["state"], record["attempt"]) == ("failed", str(max_tries))
    assert record["reason"] == f"failed after {max_tries} attempts: rate limited"
    assert (worker.jobs_retried, worker.jobs_failed) == (max_tries - 1, 1)
    assert not redis.exists(default_queue_name, f"arq:job:{job_id}", f"arq:retry:{job_id}")
    result = await Job(job_id, pool).result_info()
    if function == "report_retry_unkept":
        assert result is None
    else:
        assert result is not None
        assert not result.success
        assert "rate limited" in str(result.result)


async def test_worker_that_does_not_retry_jobs(
    pool: StatusRedis, status: ReadStatus, work: Work
) -> None:
    """With `retry_jobs=False` a job that reports a retry fails at once."""
    job_id = await enqueue(pool, "report_retry", 2)
    await work(retry_jobs=False)
    assert (status(job_id)["state"], status(job_id)["reason"]) == (
        "failed",
        "attempt 1 of 5 failed: rate limited; this worker does not retry jobs",
    )


async def test_retry_within_a_step(pool: StatusRedis, status: ReadStatus, work: Work) -> None:
    """A retry that is reported by a step is a retry of the job."""
    job_id = await enqueue(pool, "report_retry_in_step")
    await work(max_burst_jobs=1)
    assert (status(job_id)["state"], status(job_id)["reason"]) == (
        "retrying",
        "attempt 1 of 5 failed: rate limited; next in 0.01 s",
    )
    await asyncio.wait_for(work(), 5)
    assert (status(job_id)["state"], status(job_id)["attempt"]) == ("succeeded", "2")


async def test_other_exception_after_the_report(
    pool: StatusRedis, status: ReadStatus, work: Work
) -> None:
    """A job that reports a retry and then raises another exception fails with that exception."""
    job_id = await enqueue(pool, "report_retry_and_raise")
    await work()
    record = status(job_id)
    assert (record["state"], record["attempt"]) == ("failed", "1")
    assert record["reason"] == "ValueError: no such customer"
