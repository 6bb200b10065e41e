"""After `instrument()`, every pool of the process publishes what it enqueues as pending."""

import functools
import threading
from collections.abc import Iterator
from typing import Any

import arq
import pytest
from arq.connections import ArqRedis, RedisSettings
from redis.asyncio import ConnectionPool
from tests.worker.arq.conftest import ReadStatus, soon

from jobstatus.arq import create_pool, instrument
from jobstatus.arq.instrument import uninstrument
from jobstatus.settings import PublisherSettings


@pytest.fixture(autouse=True)
def _instrumented() -> Iterator[None]:
    """Call `instrument`, and undo it after the test."""
    instrument()
    yield
    uninstrument()


class OwnRedis(ArqRedis):
    """An application's own pool."""

    async def enqueue_job(self, function: str, *args: Any, **kwargs: Any) -> Any:
        """Enqueue a job in the application's way."""
        return await super().enqueue_job(f"own_{function}", *args, **kwargs)


@pytest.mark.parametrize("kind", [ArqRedis, OwnRedis])
async def test_every_pool(
    redis: Any, redis_url: str, status: ReadStatus, kind: type[ArqRedis]
) -> None:
    """Pools of arq's class and of a derived class publish, in arq's own transaction."""
    redis.config_resetstat()
    connections: Any = ConnectionPool.from_url(redis_url)
    pool = kind(connections)
    await pool.enqueue_job("add", 1, 2, _job_id="a")
    name = "own_add" if kind is OwnRedis else "add"
    assert (status("a")["state"], status("a")["name"]) == ("pending", name)
    assert await pool.enqueue_job("add", 1, 2, _job_id="a") is None
    assert redis.info("commandstats")["cmdstat_multi"]["calls"] == 1
    await pool.aclose(close_connection_pool=True)


async def test_pool_that_exists_already(redis_url: str, status: ReadStatus) -> None:
    """A pool that was made before keeps its serializer, and publishes."""
    pool = await arq.create_pool(RedisSettings.from_dsn(redis_url), job_serializer=dump)
    assert pool.job_serializer is dump
    await pool.enqueue_job("add", 1, 2, _job_id="a")
    assert status("a")["state"] == "pending"
    await pool.aclose()


def dump(data: dict[str, Any]) -> bytes:
    return repr(data).encode()


async def test_pool_of_ours(redis: Any, redis_url: str, status: ReadStatus) -> None:
    """A `StatusRedis` writes the record once; a second call of `instrument` changes nothing."""
    patched = ArqRedis.enqueue_job
    instrument()
    assert ArqRedis.enqueue_job is patched
    redis.config_resetstat()
    pool = await create_pool(RedisSettings.from_dsn(redis_url))
    await pool.enqueue_job("add", 1, 2, _job_id="a")
    assert status("a")["state"] == "pending"
    assert redis.info("commandstats")["cmdstat_evalsha"]["calls"] <= 2  # the first loads the script
    await pool.aclose()


async def test_wrapped_by_another_tool(
    redis_url: str, status: ReadStatus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tool that wraps the method later, such as Sentry, does no harm."""
    plain, calls = ArqRedis.enqueue_job, []

    @functools.wraps(plain)
    async def wrapper(self: ArqRedis, function: str, *args: Any, **kwargs: Any) -> Any:
        calls.append(function)
        return await plain(self, function, *args, **kwargs)

    monkeypatch.setattr(ArqRedis, "enqueue_job", wrapper)
    instrument()
    pool = await arq.create_pool(RedisSettings.from_dsn(redis_url))
    await pool.enqueue_job("add", 1, 2, _job_id="a")
    assert (calls, status("a")["state"]) == (["add"], "pending")
    await pool.aclose()


async def test_status_elsewhere(redis_url: str, status: ReadStatus) -> None:
    """If the status is stored in another database, one publisher of the process writes it."""
    uninstrument()
    instrument(status=PublisherSettings(redis_url=redis_url))
    settings = RedisSettings.from_dsn(redis_url)
    settings.database = 1
    pools = [await arq.create_pool(settings) for _ in range(2)]
    for n, pool in enumerate(pools):
        await pool.enqueue_job("add", 1, 2, _job_id=f"{n}")
    await soon(lambda: status("0").get("state") == status("1").get("state") == "pending")
    assert sum(thread.name == "jobstatus" for thread in threading.enumerate()) == 1
    for pool in pools:
        await pool.delete("arq:queue", "arq:job:0", "arq:job:1")
        await pool.aclose()


async def test_uninstrument(redis_url: str, status: ReadStatus) -> None:
    """Without the instrumentation, a pool of arq's own is as it was."""
    uninstrument()
    pool = await arq.create_pool(RedisSettings.from_dsn(redis_url), job_serializer=dump)
    await pool.enqueue_job("add", 1, 2, _job_id="a")
    assert (status("a"), pool.job_serializer) == ({}, dump)
    await pool.aclose()
