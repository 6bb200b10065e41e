"""Every path that a job takes through arq 0.28 leads to the right state and reason."""

import asyncio
from typing import Any

import pytest
from arq.jobs import Job
from tests.records import ANY_RECORD
from tests.worker.arq import app
from tests.worker.arq.conftest import ReadStatus, Work, enqueue, soon

from jobstatus import job_uuid
from jobstatus.arq import StatusRedis, create_worker
from jobstatus.settings import PublisherSettings


async def test_success(pool: StatusRedis, status: ReadStatus, work: Work) -> None:
    """A job that returns has succeeded, and its record keeps the enqueue time."""
    job_id = await enqueue(pool, "add", 1, 2)
    created = status(job_id)["created"]
    await work()
    record = status(job_id)
    assert (record["state"], record["attempt"], record["created"]) == ("succeeded", "1", created)
    assert "reason" not in record
    assert await Job(job_id, pool).result() == 3


async def test_progress(pool: StatusRedis, status: ReadStatus, work: Work) -> None:
    """The progress of a job that tracks its loop rises while the job is in progress."""
    job_id = await enqueue(pool, "steps", 10, 0.05)
    running = asyncio.create_task(work())
    seen = []
    while not running.done():
        record = status(job_id)
        if record.get("state") == "in_progress" and "progress" in record:
            seen.append(float(record["progress"]))
        await asyncio.sleep(0.02)
    await running
    assert seen == sorted(seen)
    assert len(set(seen)) >= 4
    assert status(job_id)["progress"] == "100"


@pytest.mark.parametrize(
    ("function", "args", "state", "reason"),
    [
        ("fail", (), "failed", "ValueError: no such customer"),
        ("fail_unkept", (), "failed", "ValueError: no such customer"),
        ("add_unkept", (1, 2), "succeeded", None),
        ("add_forever", (1, 2), "succeeded", None),
        ("short", (5,), "failed", "timed out after 0.3 s"),
        ("short_unkept", (5,), "failed", "timed out after 0.3 s"),
        ("stubborn_short", (5,), "succeeded", None),
        ("unpicklable", (), "failed", "unable to serialize result"),
        ("explicit", ("fail",), "failed", "nothing to do"),
        ("explicit", ("abort",), "aborted", "not wanted"),
        ("nowhere", (), "failed", "function 'nowhere' not found"),
        (
            "always_again",
            (),
            "failed",
            "failed after 5 attempts: the last one asked to be run again",
        ),
        ("always_again_after", ("x; y",), "failed", "failed after 5 attempts: ValueError: x; y"),
        ("again", (), "succeeded", None),
        ("retry_job", (), "succeeded", None),
        ("explain", (), "succeeded", None),
    ],
)
async def test_state_and_reason(
    pool: StatusRedis,
    status: ReadStatus,
    work: Work,
    function: str,
    args: tuple[Any, ...],
    state: str,
    reason: str | None,
) -> None:
    """Each way in which a job can finish has its state and its reason."""
    job_id = await enqueue(pool, function, *args)
    await work()
    record = status(job_id)
    assert (record["state"], record.get("reason"), record["name"]) == (state, reason, function)


@pytest.mark.parametrize(
    ("function", "args", "reason"),
    [
        ("again", (0.3,), "attempt 1 of 5 asked to be run again; next in 0.3 s"),
        ("again", (0.3, "slow"), "attempt 1 of 5 failed: TimeoutError: slow; next in 0.3 s"),
        ("explain", (), "attempt 1 of 5 failed: rate limited; next in 0.1 s"),
        ("retry_job", (), "attempt 1 of 5 failed: RetryJob: not yet; next at once"),
        ("always_again", (), "attempt 1 of 5 asked to be run again; next at once"),
    ],
)
async def test_retry(
    pool: StatusRedis,
    status: ReadStatus,
    work: Work,
    function: str,
    args: tuple[Any, ...],
    reason: str,
) -> None:
    """The reason of a job that is retried contains the attempt, the cause and the next time."""
    job_id = await enqueue(pool, function, *args)
    await work(max_burst_jobs=1)
    record = status(job_id)
    assert (record["state"], record["attempt"], record["reason"]) == ("retrying", "1", reason)
    assert record["name"] == function


async def test_attempts_after_a_retry(pool: StatusRedis, status: ReadStatus, work: Work) -> None:
    """The attempts of one run are counted, and the run keeps its enqueue time."""
    job_id = await enqueue(pool, "again", 0.1)
    created = status(job_id)["created"]
    await work()
    record = status(job_id)
    assert (record["state"], record["attempt"], record["created"]) == ("succeeded", "3", created)


async def test_last_attempt(pool: StatusRedis, status: ReadStatus, work: Work) -> None:
    """After the last attempt, which arq queues again, the reason does not promise another one."""
    job_id = await enqueue(pool, "always_again_after", "slow")
    await work(max_burst_jobs=1, max_tries=1)
    record = status(job_id)
    assert (record["state"], record["attempt"]) == ("retrying", "1")
    assert record["reason"] == "attempt 1 of 1 failed: ValueError: slow; no attempts are left"
    await work(max_tries=1)
    record = status(job_id)
    assert (record["state"], record["attempt"]) == ("failed", "1")
    assert record["reason"] == "failed after 1 attempt: ValueError: slow"


async def test_more_attempts_than_allowed_without_a_record(
    pool: StatusRedis, redis: Any, status: ReadStatus, work: Work
) -> None:
    """A job that has no attempts left, and whose record is lost, has failed."""
    job_id = await enqueue(pool, "add", 1, 2, _job_try=6)
    redis.delete(f"job:{job_uuid(job_id)}")
    await work()
    record = status(job_id)
    assert record["reason"] == "no attempts are left: 5 attempts are allowed"
    assert (record["state"], record["name"]) == ("failed", "add")


async def abort(pool: StatusRedis, job_id: str) -> bool:
    return await Job(job_id, pool).abort(timeout=10, poll_delay=0.02)


async def test_abort_while_queued(pool: StatusRedis, status: ReadStatus, work: Work) -> None:
    """A job that is aborted before it starts is shown as aborted."""
    job_id = await enqueue(pool, "sleep", 10)
    aborting = asyncio.create_task(abort(pool, job_id))
    await asyncio.sleep(0.1)
    await work()
    assert await aborting
    record = status(job_id)
    assert (record["state"], record["reason"]) == ("aborted", "aborted before it started")


async def test_abort_while_deferred(pool: StatusRedis, status: ReadStatus, work: Work) -> None:
    """A deferred job that is aborted is shown as aborted at once, before it is due."""
    job_id = await enqueue(pool, "sleep", 10, _defer_by=3600)
    aborting = asyncio.create_task(abort(pool, job_id))
    await asyncio.sleep(0.1)
    await work()
    assert await aborting
    assert status(job_id)["state"] == "aborted"


@pytest.mark.parametrize("function", ["sleep", "sleep_unkept"])
async def test_abort_while_running(
    pool: StatusRedis, status: ReadStatus, work: Work, function: str
) -> None:
    """A job that is aborted while it runs is shown as aborted, and keeps its progress."""
    job_id = await enqueue(pool, function, 10)
    running = asyncio.create_task(work())
    await soon(lambda: status(job_id).get("progress"))
    assert await abort(pool, job_id) is (function == "sleep")
    await running
    record = status(job_id)
    assert (record["state"], record["reason"]) == ("aborted", "aborted while it ran")
    assert record["progress"] == "10"


async def test_abort_that_the_job_ignores(
    pool: StatusRedis, status: ReadStatus, work: Work
) -> None:
    """A job that returns normally when it is aborted has succeeded, as in arq."""
    job_id = await enqueue(pool, "stubborn", 10)
    running = asyncio.create_task(work())
    await soon(lambda: status(job_id).get("state") == "in_progress")
    await abort(pool, job_id)
    await running
    assert status(job_id)["state"] == "succeeded"


async def test_cancelled_by_itself(pool: StatusRedis, status: ReadStatus, work: Work) -> None:
    """A job that raises `CancelledError` itself is not said to be cut short by its worker."""
    job_id = await enqueue(pool, "cancels_itself")
    await work(max_burst_jobs=1)
    reason = "attempt 1 of 5 failed: CancelledError; next at once"
    assert (status(job_id)["state"], status(job_id)["reason"]) == ("retrying", reason)
    await work(retry_jobs=False)
    assert (status(job_id)["state"], status(job_id)["reason"]) == ("failed", "CancelledError")


@pytest.mark.parametrize("error", [asyncio.CancelledError, TimeoutError])
async def test_cancelled_before_its_first_step(
    pool: StatusRedis, status: ReadStatus, work: Work, error: type[BaseException]
) -> None:
    """A job that is cancelled before the first step of its coroutine gets a final state."""
    job_id = await enqueue(pool, "add", 1, 2)

    async def cancel(ctx: Any) -> None:
        loop = asyncio.get_running_loop()

        def now() -> None:
            task = worker.job_tasks.get(ctx["job_id"])
            if task is None:
                loop.call_soon(now)
                return
            worker.aborting_tasks.add(ctx["job_id"])
            task.cancel()

        if error is asyncio.CancelledError:
            loop.call_soon(now)

    worker = create_worker(
        app.WorkerSettings,
        redis_pool=pool,
        burst=True,
        handle_signals=False,
        on_job_start=cancel,
        job_timeout=0 if error is TimeoutError else 300,
    )
    try:
        await asyncio.wait_for(worker.main(), 20)
    finally:
        await worker.close()
    record = status(job_id)
    expected = "aborted" if error is asyncio.CancelledError else "failed"
    assert (record["state"], record["attempt"]) == (expected, "1")


async def test_malformed_reports_do_no_harm(
    pool: StatusRedis, status: ReadStatus, work: Work
) -> None:
    """A job with malformed reports is run and shown like any other."""
    ids = [await enqueue(pool, "malformed_reports", how) for how in ("return", "raise", "retry")]
    worker = await work(max_tries=2)
    assert worker.jobs_complete + worker.jobs_failed == 3
    assert [status(job_id)["state"] for job_id in ids] == ["succeeded", "failed", "failed"]


async def test_expired_in_the_queue(
    pool: StatusRedis, redis: Any, status: ReadStatus, work: Work
) -> None:
    """A job that has expired in the queue has failed, and keeps its name and enqueue time."""
    job_id = await enqueue(pool, "add", 1, 2, _expires=0.05)
    created = status(job_id)["created"]
    await soon(lambda: not redis.exists(f"arq:job:{job_id}"))
    await work()
    record = status(job_id)
    assert (record["state"], record["reason"]) == ("failed", "job expired")
    assert (record["name"], record["created"]) == ("add", created)


async def test_expired_without_a_record(
    pool: StatusRedis, redis: Any, status: ReadStatus, work: Work
) -> None:
    """An expired job without a record gets one."""
    redis.zadd("arq:queue", {"gone": 1})
    await work()
    assert (status("gone")["state"], status("gone")["reason"]) == ("failed", "job expired")


async def test_undecodable_job(
    pool: StatusRedis, redis: Any, status: ReadStatus, work: Work
) -> None:
    """A job that can't be decoded has failed, and its reason says why."""
    job_id = await enqueue(pool, "add", 1, 2)
    redis.set(f"arq:job:{job_id}", b"no pickle", ex=60)
    await work()
    record = status(job_id)
    assert (record["state"], record["name"]) == ("failed", "add")
    assert record["reason"].startswith("unable to deserialize job: UnpicklingError")


@pytest.mark.parametrize("function", ["nowhere", "add"])
async def test_results_without_a_time_limit(
    pool: StatusRedis, redis: Any, status: ReadStatus, work: Work, function: str
) -> None:
    """A worker that keeps results forever also keeps those of jobs that were not run."""
    job_id = await enqueue(pool, function, 1, 2)
    await work(app.Forever)
    assert status(job_id)["state"] == ("succeeded" if function == "add" else "failed")
    assert redis.pttl(f"arq:result:{job_id}") == -1


async def test_cron(redis: Any, work: Work) -> None:
    """A cron job, whose id is not a UUID, is stored under the UUID of its id."""
    worker = await work(app.Cron, max_burst_jobs=1)
    assert worker.jobs_complete == 1
    (key,) = redis.keys(ANY_RECORD)
    assert redis.hmget(key, "state", "name") == ["succeeded", "cron:tick"]


async def test_record_outlives_the_retry_delay(pool: StatusRedis, redis: Any, work: Work) -> None:
    """The record of a job that is retried is stored until after the next attempt is due."""
    await enqueue(pool, "again", 3 * 86_400)
    await work(max_burst_jobs=1)
    (key,) = redis.keys(ANY_RECORD)
    assert redis.pttl(key) > 3 * 86_400_000


async def test_report_works_in_threads(pool: StatusRedis, work: Work) -> None:
    """`current_job()` returns the job's report in every kind of thread that the job starts."""
    job_id = await enqueue(pool, "in_thread")
    await work()
    assert await Job(job_id, pool).result() == [True, True]


async def test_blocked_loop_keeps_its_lease(
    pool: StatusRedis, redis: Any, status: ReadStatus, work: Work
) -> None:
    """The lease of a job that blocks its event loop is renewed."""
    job_id = await enqueue(pool, "block", 1.2)
    await work(status=PublisherSettings(lease=1, report_interval=0.02))
    record = status(job_id)
    assert record["state"] == "succeeded"
    # Besides the start and the outcome, the script must have been called in between.
    calls = redis.info("commandstats")["cmdstat_evalsha"]["calls"]
    assert calls >= 3
