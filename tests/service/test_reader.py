"""Reads go out in batches."""

import asyncio
import logging
from typing import Any

import pytest
from fakeredis import FakeAsyncRedis

from jobstatus_service.reader import Reader, UnavailableError
from jobstatus_service.settings import ServiceSettings

FIELDS = {"name": "n", "state": "pending", "created": "1", "attempt": "0"}


async def test_reads_of_one_turn_share_a_pipeline(
    service_settings: ServiceSettings, redis: Any
) -> None:
    """However many ask in one turn, there is one round trip, and one HGETALL a key."""
    for n in range(10):
        redis.hset(f"job:{n}", mapping=FIELDS)
        redis.pexpire(f"job:{n}", 60_000)
    reader = Reader.from_settings(service_settings)
    await reader.ping()
    redis.config_resetstat()
    found = await asyncio.gather(*(reader.read(f"job:{n % 10}") for n in range(200)))
    calls = redis.info("commandstats")
    assert calls["cmdstat_hgetall"]["calls"] == 10
    assert calls["cmdstat_time"]["calls"] == 1
    assert all(f.record is not None and 0 < f.ttl <= 60_000 for f in found)
    await reader.close()


async def test_batch_is_bounded(service_settings: ServiceSettings, redis: Any) -> None:
    """Many thousands of keys are split into pipelines of a thousand, and all are answered."""
    reader = Reader.from_settings(service_settings)
    found = await asyncio.gather(*(reader.read(f"job:{n}") for n in range(5_500)))
    assert {f.record for f in found} == {None}
    assert redis.info("commandstats")["cmdstat_time"]["calls"] >= 6
    await reader.close()


async def test_reader_that_gives_up_harms_nobody_else() -> None:
    """A poller that goes away leaves the others' read alone."""
    client: Any
    async with FakeAsyncRedis(decode_responses=True) as client:
        await client.hset("job:1", mapping=FIELDS)
        reader = Reader(client, 1)
        first, second = (asyncio.create_task(reader.read("job:1")) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        assert (await second).record is not None


async def test_bad_record_says_what_is_wrong(caplog: pytest.LogCaptureFixture) -> None:
    """What can't be read is said, in the answer and in the log."""
    client: Any
    async with FakeAsyncRedis(decode_responses=True) as client:
        await client.hset("job:1", mapping=FIELDS | {"state": "done"})
        await client.set("job:2", "x")
        reader = Reader(client, 1)
        with caplog.at_level(logging.ERROR):
            assert "done" in (await reader.read("job:1")).fault
            assert (await reader.read("job:2")).fault == "it is no hash"
        assert len(caplog.records) == 2


async def test_no_redis() -> None:
    """Where nothing listens, every read and the ping say so."""
    settings = ServiceSettings(redis_url="redis://127.0.0.1:1/0")
    reader = Reader.from_settings(settings)
    with pytest.raises(UnavailableError):
        await reader.read("job:1")
    with pytest.raises(UnavailableError):
        await reader.ping()
    await reader.close()
