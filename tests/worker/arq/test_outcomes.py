"""Every path that a job takes through arq 0.28 ends in the right state, with a telling reason."""

import asyncio
import pickle
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from arq.connections import RedisSettings
from arq.jobs import Job
from redis import Redis
from tests.worker.arq import app
from tests.worker.arq.conftest import soon

from jobstatus import job_uuid
from jobstatus.arq import StatusRedis, create_pool, create_worker
from jobstatus.settings import PublisherSettings

Read = Callable[[str], dict[str, str]]
Work = Callable[..., Any]


async def enqueue(pool: StatusRedis, function: str, *args: Any, **kwargs: Any) -> str:
    job = await pool.enqueue_job(function, *args, **kwargs)
    assert job is not None
    return job.job_id


async def test_enqueue_shows_pending(pool: StatusRedis, status: Read) -> None:
    """An enqueued job is pending at once, with the function's name and arq's own time."""
    job = await pool.enqueue_job("add", 1, 2)
    assert job is not None
    info = await job.info()
    assert info is not None
    shown = status(job.job_id)
    assert (shown["state"], shown["name"], shown["attempt"]) == ("pending", "add", "0")
    assert int(shown["created"]) == round(info.enqueue_time.timestamp() * 1000)


async def test_success(pool: StatusRedis, status: Read, work: Work) -> None:
    """A job that returns has succeeded, and keeps the time of its enqueueing."""
    job_id = await enqueue(pool, "add", 1, 2)
    created = status(job_id)["created"]
    await work()
    shown = status(job_id)
    assert (shown["state"], shown["attempt"], shown["created"]) == ("succeeded", "1", created)
    assert "reason" not in shown
    assert await Job(job_id, pool).result() == 3


async def test_progress(pool: StatusRedis, status: Read, work: Work) -> None:
    """A job that tracks its loop is seen in progress, rising."""
    job_id = await enqueue(pool, "steps", 10, 0.05)
    running = asyncio.create_task(work())
    seen = []
    while not running.done():
        shown = status(job_id)
        if shown.get("state") == "in_progress" and "progress" in shown:
            seen.append(float(shown["progress"]))
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
        (
            "explicit",
            ("retry",),
            "failed",
            "attempt 5 of 5 failed: some other day; no attempts are left",
        ),
        ("nowhere", (), "failed", "function 'nowhere' not found"),
        ("always_again", (), "failed", "max 5 retries exceeded"),
        ("again", (), "succeeded", None),
        ("retry_job", (), "succeeded", None),
        ("explain", (), "succeeded", None),
    ],
)
async def test_end(
    pool: StatusRedis,
    status: Read,
    work: Work,
    function: str,
    args: tuple[Any, ...],
    state: str,
    reason: str | None,
) -> None:
    """Each way to end has its state and its reason."""
    job_id = await enqueue(pool, function, *args)
    await work()
    shown = status(job_id)
    assert (shown["state"], shown.get("reason"), shown["name"]) == (state, reason, function)


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
    status: Read,
    work: Work,
    function: str,
    args: tuple[Any, ...],
    reason: str,
) -> None:
    """A job that will be run again says which attempt it was, why, and when the next comes."""
    job_id = await enqueue(pool, function, *args)
    await work(max_burst_jobs=1)
    shown = status(job_id)
    assert (shown["state"], shown["attempt"], shown["reason"]) == ("retrying", "1", reason)
    assert shown["name"] == function


async def test_next_attempt_begins_anew(pool: StatusRedis, status: Read, work: Work) -> None:
    """The attempt after a retry is in progress again, with its own number."""
    job_id = await enqueue(pool, "again", 0.1)
    created = status(job_id)["created"]
    await work()
    shown = status(job_id)
    assert (shown["state"], shown["attempt"], shown["created"]) == ("succeeded", "3", created)


async def abort(pool: StatusRedis, job_id: str) -> bool:
    return await Job(job_id, pool).abort(timeout=10, poll_delay=0.02)


async def test_abort_while_queued(pool: StatusRedis, status: Read, work: Work) -> None:
    """A job that is aborted before it starts is aborted."""
    job_id = await enqueue(pool, "sleep", 10)
    aborting = asyncio.create_task(abort(pool, job_id))
    await asyncio.sleep(0.1)
    await work()
    assert await aborting
    shown = status(job_id)
    assert (shown["state"], shown["reason"]) == ("aborted", "aborted before it started")


async def test_abort_while_deferred(pool: StatusRedis, status: Read, work: Work) -> None:
    """A deferred job that is aborted is aborted at once, not when its time comes."""
    job_id = await enqueue(pool, "sleep", 10, _defer_by=3600)
    aborting = asyncio.create_task(abort(pool, job_id))
    await asyncio.sleep(0.1)
    await work()
    assert await aborting
    assert status(job_id)["state"] == "aborted"


@pytest.mark.parametrize("function", ["sleep", "sleep_unkept"])
async def test_abort_while_running(
    pool: StatusRedis, status: Read, work: Work, function: str
) -> None:
    """A job that is aborted while it runs is aborted, and keeps its progress."""
    job_id = await enqueue(pool, function, 10)
    running = asyncio.create_task(work())
    await soon(lambda: status(job_id).get("progress"))
    assert await abort(pool, job_id) is (function == "sleep")
    await running
    shown = status(job_id)
    assert (shown["state"], shown["reason"]) == ("aborted", "aborted while it ran")
    assert shown["progress"] == "10"


async def test_abort_that_is_swallowed(pool: StatusRedis, status: Read, work: Work) -> None:
    """A job that swallows its abort has succeeded, as arq says."""
    job_id = await enqueue(pool, "stubborn", 10)
    running = asyncio.create_task(work())
    await soon(lambda: status(job_id).get("state") == "in_progress")
    await abort(pool, job_id)
    await running
    assert status(job_id)["state"] == "succeeded"


@pytest.mark.parametrize("error", [asyncio.CancelledError, TimeoutError])
async def test_cancelled_before_its_first_step(
    pool: StatusRedis, status: Read, work: Work, error: type[BaseException]
) -> None:
    """A job that is cancelled before its coroutine's first step ends all the same."""
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
    shown = status(job_id)
    expected = "aborted" if error is asyncio.CancelledError else "failed"
    assert (shown["state"], shown["attempt"]) == (expected, "1")


async def test_odd_reports_harm_no_job(pool: StatusRedis, status: Read, work: Work) -> None:
    """A job whose reports can't be read runs, ends and is shown like any other."""
    ids = [await enqueue(pool, "odd", how) for how in ("return", "raise", "retry")]
    worker = await work(max_tries=2)
    assert worker.jobs_complete + worker.jobs_failed == 3
    assert [status(job_id)["state"] for job_id in ids] == ["succeeded", "failed", "failed"]


async def test_expired_in_the_queue(
    pool: StatusRedis, redis: Any, status: Read, work: Work
) -> None:
    """A job that waited longer than it may has failed, and keeps its name and run."""
    job_id = await enqueue(pool, "add", 1, 2, _expires=0.05)
    created = status(job_id)["created"]
    await soon(lambda: not redis.exists(f"arq:job:{job_id}"))
    await work()
    shown = status(job_id)
    assert (shown["state"], shown["reason"]) == ("failed", "job expired")
    assert (shown["name"], shown["created"]) == ("add", created)


async def test_expired_without_a_record(
    pool: StatusRedis, redis: Any, status: Read, work: Work
) -> None:
    """Where no record was left the end is shown all the same."""
    redis.zadd("arq:queue", {"gone": 1})
    await work()
    assert (status("gone")["state"], status("gone")["reason"]) == ("failed", "job expired")


async def test_undecodable_job(pool: StatusRedis, redis: Any, status: Read, work: Work) -> None:
    """A job that can't be decoded has failed, and its reason says why."""
    job_id = await enqueue(pool, "add", 1, 2)
    redis.set(f"arq:job:{job_id}", b"no pickle", ex=60)
    await work()
    shown = status(job_id)
    assert (shown["state"], shown["name"]) == ("failed", "add")
    assert shown["reason"].startswith("unable to deserialize job: UnpicklingError")


@pytest.mark.parametrize("function", ["nowhere", "add"])
async def test_results_kept_for_ever(
    pool: StatusRedis, redis: Any, status: Read, work: Work, function: str
) -> None:
    """A worker that keeps results for ever also keeps those of jobs that never ran."""
    job_id = await enqueue(pool, function, 1, 2)
    await work(app.Forever)
    assert status(job_id)["state"] == ("succeeded" if function == "add" else "failed")
    assert redis.pttl(f"arq:result:{job_id}") == -1


async def test_cron(redis: Any, work: Work) -> None:
    """A cron job, whose id is no UUID, is shown under the UUID of its id."""
    worker = await work(app.Cron, max_burst_jobs=1)
    assert worker.jobs_complete == 1
    (key,) = redis.keys("job:*")
    assert redis.hmget(key, "state", "name") == ["succeeded", "cron:tick"]


async def test_same_id_while_alive(pool: StatusRedis, status: Read) -> None:
    """An id that is enqueued while it is alive leaves the record as it was."""
    await enqueue(pool, "add", 1, 2, _job_id="mine")
    before = status("mine")
    assert await pool.enqueue_job("sleep", 1, _job_id="mine") is None
    assert status("mine") == before


async def test_same_id_after_the_end(
    pool: StatusRedis, redis: Any, status: Read, work: Work
) -> None:
    """An id that is enqueued after its end is a new run, pending again."""
    await enqueue(pool, "add_unkept", 1, 2, _job_id="mine")
    await work()
    first = status("mine")
    assert first["state"] == "succeeded"
    await asyncio.sleep(0.002)
    await enqueue(pool, "fail", _job_id="mine")
    shown = status("mine")
    assert (shown["state"], shown["attempt"]) == ("pending", "0")
    assert int(shown["created"]) > int(first["created"])
    await work()
    assert status("mine")["state"] == "failed"


@pytest.mark.parametrize("defer", [timedelta(hours=5), timedelta(days=9)])
async def test_deferral_is_outlived(pool: StatusRedis, redis: Any, defer: timedelta) -> None:
    """The record of a deferred job outlives the deferral and arq's own limit."""
    job_id = await enqueue(pool, "add", 1, 2, _defer_by=defer)
    (key,) = redis.keys("job:*")
    assert redis.pttl(key) > redis.pttl(f"arq:job:{job_id}") > defer / timedelta(milliseconds=1)


async def test_long_retry_is_outlived(pool: StatusRedis, redis: Any, work: Work) -> None:
    """The record of a job that retries outlives the wait for the next attempt."""
    await enqueue(pool, "again", 3 * 86_400)
    await work(max_burst_jobs=1)
    (key,) = redis.keys("job:*")
    assert redis.pttl(key) > 3 * 86_400_000


async def test_report_works_in_threads(pool: StatusRedis, work: Work) -> None:
    """`current_job()` is the job's in threads that the job starts, however it starts them."""
    job_id = await enqueue(pool, "in_thread")
    await work()
    assert await Job(job_id, pool).result() == [True, True]


async def test_blocked_loop_keeps_its_lease(
    pool: StatusRedis, redis: Any, status: Read, work: Work
) -> None:
    """A job that blocks its event loop is renewed all the same."""
    job_id = await enqueue(pool, "block", 1.2)
    await work(status=PublisherSettings(lease=1, report_interval=0.02))
    shown = status(job_id)
    assert shown["state"] == "succeeded"
    # Without renewal the last write before the end would have been at the start; what shows
    # the heartbeat is that the script was called between the two.
    calls = redis.info("commandstats")["cmdstat_evalsha"]["calls"]
    assert calls >= 3


async def test_users_serializers_are_used(redis_url: str, status: Read, work: Work) -> None:
    """A worker with serializers of its own keeps using them, for jobs and for results."""

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


async def test_status_elsewhere(
    own_valkey: Any, redis_url: str, monkeypatch: pytest.MonkeyPatch, work: Work
) -> None:
    """Where status has a Redis of its own, every state goes there and nothing to the queue's."""
    monkeypatch.setenv("JOBSTATUS_REDIS_URL", own_valkey.connection_url)
    pool = await create_pool(RedisSettings.from_dsn(redis_url))
    job_id = await enqueue(pool, "fail")
    key = f"job:{job_uuid(job_id)}"
    with Redis.from_url(own_valkey.connection_url, decode_responses=True) as there:
        await soon(lambda: there.hget(key, "state") == "pending")
        await work(status=None)
        assert there.hget(key, "state") == "failed"
        assert there.pttl(key) > 0
    with Redis.from_url(redis_url) as here:
        assert not here.exists(key)
    await pool.aclose()


async def test_refused_status_harms_no_job(
    pool: StatusRedis, redis: Any, redis_url: str, work: Work
) -> None:
    """A user who may not write status can still enqueue, and jobs still run and finish."""
    redis.acl_setuser(
        "queue", enabled=True, passwords=["+pw"], keys=["arq:*"], categories=["+@all"]
    )
    url = redis_url.replace("worker:worker@", "queue:pw@")

    settings = RedisSettings.from_dsn(url)
    try:
        limited = await create_pool(settings)
        job_id = await enqueue(limited, "add", 1, 2)
        await limited.aclose()
        worker = await asyncio.wait_for(work(redis_settings=settings), 20)
        assert worker.jobs_complete == 1
        assert await Job(job_id, pool).result() == 3
        assert not redis.keys("job:*")
    finally:
        redis.acl_deluser("queue")


async def test_first_end_is_in_arqs_transaction(
    pool: StatusRedis, redis: Any, status: Read, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even on a server that has forgotten its scripts the first end is committed with the job."""
    job_id = await enqueue(pool, "add", 1, 2)
    redis.script_flush()
    monkeypatch.setattr("jobstatus.publishing.publisher.Publisher.begin", lambda *_: None)
    monkeypatch.setattr("jobstatus.publishing.publisher.Publisher.end", lambda *_: None)
    await work()
    assert status(job_id)["state"] == "succeeded"


async def test_outage_while_an_expired_job_is_looked_at(
    pool: StatusRedis, redis: Any, status: Read, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that finds Redis away just then waits, and gives the job up when it is back."""
    redis.zadd("arq:queue", {"gone": 1})
    exists, calls = StatusRedis.exists, []

    async def away(self: Any, *keys: Any) -> Any:
        calls.append(keys)
        if len(calls) == 1:
            raise ConnectionError("away")
        return await exists(self, *keys)

    monkeypatch.setattr(StatusRedis, "exists", away)
    worker = await work()
    assert worker.jobs_failed == 1
    assert len(calls) == 2
    assert (status("gone")["state"], status("gone")["reason"]) == ("failed", "job expired")


async def test_succeeded_is_never_seen_before_the_result(
    pool: StatusRedis, redis: Any, status: Read, work: Work
) -> None:
    """Whoever sees the end in the status can read arq's result."""
    ids = [await enqueue(pool, "add", n, n) for n in range(30)]
    running = asyncio.create_task(work())
    while not running.done():
        for job_id in ids:
            if status(job_id).get("state") == "succeeded":
                assert redis.exists(f"arq:result:{job_id}")
        await asyncio.sleep(0)
    await running
    assert all(status(job_id)["state"] == "succeeded" for job_id in ids)
