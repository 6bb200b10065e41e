"""Reads go out in batches, over a connection that is kept alive."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from jobstatus_service.settings import ServiceSettings
from jobstatus_service.storage.endpoints import endpoint_of
from jobstatus_service.storage.link import UnavailableError
from jobstatus_service.storage.reader import Reader
from jobstatus_service.storage.stored_record import StoredRecord

FIELDS = {"name": "n", "state": "pending", "created": "1", "attempt": "0"}


@contextlib.asynccontextmanager
async def reading(settings: ServiceSettings) -> AsyncIterator[Reader[StoredRecord]]:
    """A reader that runs."""
    reader = Reader(endpoint_of(settings), settings, lambda _key, found, *_: found, lambda _: None)
    reader.link.start()
    yield reader
    await reader.close()


def put(redis: Any, key: str, **fields: str) -> None:
    redis.hset(key, mapping=FIELDS | fields)
    redis.pexpire(key, 60_000)


@pytest.mark.parametrize("near_cache", [0, 1_000_000])
async def test_reads_of_one_turn_share_a_pipeline(
    service_settings: ServiceSettings, redis: Any, near_cache: int
) -> None:
    """However many ask in one turn, there is one round trip, and one HGETALL a key."""
    for n in range(10):
        put(redis, f"job:{n}")
    async with reading(replace(service_settings, cache_bytes=near_cache)) as reader:
        await reader.link.ping()
        assert reader.link.is_tracking == (near_cache > 0)
        redis.config_resetstat()
        found = await asyncio.gather(*(reader.read(f"job:{n % 10}") for n in range(200)))
        calls = redis.info("commandstats")
    assert calls["cmdstat_hgetall"]["calls"] == 10
    assert calls["cmdstat_time"]["calls"] == 1
    assert all(f.record is not None and 0 < f.ttl_ms <= 60_000 for f in found)


async def test_batch_is_bounded(service_settings: ServiceSettings, redis: Any) -> None:
    """Many thousands of keys are split into pipelines of a thousand, and all are answered."""
    async with reading(service_settings) as reader:
        found = await asyncio.gather(*(reader.read(f"job:{n}") for n in range(5_500)))
    assert {f.record for f in found} == {None}
    assert redis.info("commandstats")["cmdstat_time"]["calls"] >= 6


async def test_reader_that_gives_up_harms_nobody_else(
    service_settings: ServiceSettings, redis: Any
) -> None:
    """A poller that goes away leaves the others' read alone."""
    put(redis, "job:1")
    async with reading(service_settings) as reader:
        first, second = (asyncio.create_task(reader.read("job:1")) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        assert (await second).record is not None


async def test_bad_record_says_what_is_wrong(
    service_settings: ServiceSettings, redis: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """What can't be read is said, in the answer and in the log."""
    put(redis, "job:1", state="done")
    redis.set("job:2", "x", ex=60)
    async with reading(service_settings) as reader:
        with caplog.at_level(logging.ERROR):
            assert "done" in (await reader.read("job:1")).error
            assert (await reader.read("job:2")).error == "it is no hash"
    assert len(caplog.records) == 2


async def test_no_redis() -> None:
    """Where nothing listens, every read and the ping say so."""
    async with reading(ServiceSettings(redis_url="redis://127.0.0.1:1/0")) as reader:
        for _ in range(2):
            with pytest.raises(UnavailableError, match=r"127[.]0"):
                await reader.read("job:1")
        with pytest.raises(UnavailableError, match=r"127[.]0"):
            await reader.link.ping()


async def test_refused_command(service_settings: ServiceSettings, redis: Any) -> None:
    """What Redis won't do is an outage in its own words, and the next read is not harmed."""
    put(redis, "job:1")
    url = service_settings.redis_url or ""
    redis.acl_setuser("reader", enabled=True, passwords=["+p"], keys=["job:1"], commands=["+@all"])
    own = replace(service_settings, redis_url=url.replace("service:service@", "reader:p@"))
    async with reading(own) as reader:
        with pytest.raises(UnavailableError, match="NOPERM"):
            await reader.read("job:2")
        assert (await reader.read("job:1")).record is not None
    redis.acl_deluser("reader")
