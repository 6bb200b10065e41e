"""The reader sends its reads in batches, over one connection."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from jobstatus_service.settings import ServiceSettings
from jobstatus_service.storage.link import UnavailableError
from jobstatus_service.storage.reader import Reader
from jobstatus_service.storage.redis_endpoints import endpoint_of

FIELDS = {"name": "n", "state": "pending", "created": "1", "attempt": "0"}


@contextlib.asynccontextmanager
async def reading(settings: ServiceSettings) -> AsyncIterator[Reader]:
    """Run a reader that returns each `StoredRecord` itself as the response."""
    reader = Reader(
        endpoint_of(settings), settings, lambda _key, stored, *_: stored, lambda _: None
    )
    reader.start()
    yield reader
    await reader.close()


def put(redis: Any, key: str, **fields: str) -> None:
    redis.hset(key, mapping=FIELDS | fields)
    redis.pexpire(key, 60_000)


@pytest.mark.parametrize("cache_bytes", [0, 1_000_000])
async def test_simultaneous_reads_share_a_pipeline(
    service_settings: ServiceSettings, redis: Any, cache_bytes: int
) -> None:
    """Reads of one turn of the event loop take one round trip, and one HGETALL for each key."""
    for n in range(10):
        put(redis, f"job:{n}")
    async with reading(replace(service_settings, cache_bytes=cache_bytes)) as reader:
        await reader.link.ping()
        assert reader.link.is_tracking == (cache_bytes > 0)
        redis.config_resetstat()
        found = await asyncio.gather(*(reader.read(f"job:{n % 10}") for n in range(200)))
        calls = redis.info("commandstats")
    assert calls["cmdstat_hgetall"]["calls"] == 10
    assert calls["cmdstat_time"]["calls"] == 1
    assert all(f.record is not None and 0 < f.ttl_ms <= 60_000 for f in found)


async def test_pipelines_are_limited(service_settings: ServiceSettings, redis: Any) -> None:
    """Thousands of keys are split into pipelines of a thousand, and all are answered."""
    async with reading(replace(service_settings, timeout=30)) as reader:
        await reader.link.ping()
        redis.config_resetstat()
        found = await asyncio.gather(*(reader.read(f"job:{n}") for n in range(5_500)))
    assert {f.record for f in found} == {None}
    assert redis.info("commandstats")["cmdstat_time"]["calls"] >= 6


async def test_cancelled_read_leaves_the_others(
    service_settings: ServiceSettings, redis: Any
) -> None:
    """When one of two reads of a key is cancelled, the other one still gets its response."""
    put(redis, "job:1")
    async with reading(service_settings) as reader:
        first, second = (asyncio.create_task(reader.read("job:1")) for _ in range(2))
        await asyncio.sleep(0)  # let both tasks start
        first.cancel()
        assert (await second).record is not None


async def test_malformed_record_is_reported(
    service_settings: ServiceSettings, redis: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The response and the log say what is wrong with a malformed record."""
    put(redis, "job:1", state="done")
    redis.set("job:2", "x", ex=60)
    async with reading(service_settings) as reader:
        with caplog.at_level(logging.ERROR):
            assert "done" in (await reader.read("job:1")).error
            assert (await reader.read("job:2")).error == "the value is not a hash"
    assert [r.getMessage().partition(": ")[0] for r in caplog.records] == [
        f"the record at the key job:{n} is malformed" for n in (1, 2)
    ]


async def test_unreachable_server() -> None:
    """Reads and pings of a server that cannot be reached fail, and name its address."""
    async with reading(ServiceSettings(redis_url="redis://127.0.0.1:1/0")) as reader:
        for _ in range(2):
            with pytest.raises(UnavailableError, match=r"127[.]0"):
                await reader.read("job:1")
        with pytest.raises(UnavailableError, match=r"127[.]0"):
            await reader.link.ping()


async def test_refused_command(service_settings: ServiceSettings, redis: Any) -> None:
    """A read that Redis refuses fails with Redis's error; the next read succeeds."""
    put(redis, "job:1")
    url = service_settings.redis_url or ""
    redis.acl_setuser("reader", enabled=True, passwords=["+p"], keys=["job:1"], commands=["+@all"])
    settings = replace(service_settings, redis_url=url.replace("service:service@", "reader:p@"))
    async with reading(settings) as reader:
        with pytest.raises(UnavailableError, match="NOPERM"):
            await reader.read("job:2")
        assert (await reader.read("job:1")).record is not None
    redis.acl_deluser("reader")
