"""The outcome of a job is committed in arq's transaction, with or without its status."""

import asyncio
from typing import Any

import pytest
from arq.connections import RedisSettings
from arq.jobs import Job
from redis import Redis
from tests.worker.arq.conftest import ReadStatus, Work, enqueue, soon

from jobstatus import job_uuid
from jobstatus.arq import StatusRedis, create_pool


async def test_first_outcome_is_in_arqs_transaction(
    pool: StatusRedis, redis: Any, status: ReadStatus, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a server without the script even the first outcome is written in arq's transaction."""
    job_id = await enqueue(pool, "add", 1, 2)
    redis.script_flush()
    monkeypatch.setattr("jobstatus.publishing.publisher.Publisher.begin", lambda *_: None)
    monkeypatch.setattr("jobstatus.publishing.publisher.Publisher.end", lambda *_: None)
    await work()
    assert status(job_id)["state"] == "succeeded"


async def test_success_is_not_shown_before_the_result(
    pool: StatusRedis, redis: Any, status: ReadStatus, work: Work
) -> None:
    """A client that reads `succeeded` can read arq's result."""
    ids = [await enqueue(pool, "add", n, n) for n in range(30)]
    running = asyncio.create_task(work())
    while not running.done():
        for job_id in ids:
            if status(job_id).get("state") == "succeeded":
                assert redis.exists(f"arq:result:{job_id}")
        await asyncio.sleep(0)
    await running
    assert all(status(job_id)["state"] == "succeeded" for job_id in ids)


async def test_status_in_another_redis(
    own_valkey: Any, redis_url: str, monkeypatch: pytest.MonkeyPatch, work: Work
) -> None:
    """If the status has a Redis of its own, every state is written only there."""
    monkeypatch.setenv("JOBSTATUS_REDIS_URL", own_valkey.connection_url)
    pool = await create_pool(RedisSettings.from_dsn(redis_url))
    job_id = await enqueue(pool, "fail")
    key = f"job:{job_uuid(job_id)}"
    with Redis.from_url(own_valkey.connection_url, decode_responses=True) as status_redis:
        await soon(lambda: status_redis.hget(key, "state") == "pending")
        await work(status=None)
        assert status_redis.hget(key, "state") == "failed"
        assert status_redis.pttl(key) > 0
    with Redis.from_url(redis_url) as queue_redis:
        assert not queue_redis.exists(key)
    await pool.aclose()


async def test_jobs_finish_without_the_right_to_write_status(
    pool: StatusRedis, redis: Any, redis_url: str, work: Work
) -> None:
    """With a Redis user that may not write status, jobs are still enqueued, run and finished."""
    redis.acl_setuser(
        "queue", enabled=True, passwords=["+pw"], keys=["arq:*"], categories=["+@all"]
    )
    settings = RedisSettings.from_dsn(redis_url.replace("worker:worker@", "queue:pw@"))
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


async def test_outage_while_an_expired_job_is_checked(
    pool: StatusRedis, redis: Any, status: ReadStatus, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that loses Redis while it gives up an expired job gives it up after the outage."""
    redis.zadd("arq:queue", {"gone": 1})
    exists, calls = StatusRedis.exists, []

    async def fail_once(self: Any, *keys: Any) -> Any:
        calls.append(keys)
        if len(calls) == 1:
            raise ConnectionError("Redis is unavailable")
        return await exists(self, *keys)

    monkeypatch.setattr(StatusRedis, "exists", fail_once)
    worker = await work()
    assert worker.jobs_failed == 1
    assert len(calls) == 2
    assert (status("gone")["state"], status("gone")["reason"]) == ("failed", "job expired")
