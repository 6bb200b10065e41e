"""Event streams."""

import asyncio
import json
import re
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from tests.service.conftest import Poller, Put, polling
from tests.service.exchange import Exchange
from tests.service.proxy import Proxy

from jobstatus.status import JobState
from jobstatus_service.http import streaming
from jobstatus_service.settings import ServiceSettings

JOB = UUID("67c73c6b-ecba-4a4c-bb18-3f37aa64c2f8")
URL = f"/api/jobs/{JOB}"
EVENT = re.compile(r"event: status\nid: (\"[0-9a-f]{24}\")\ndata: (\{.*\})\n\n")


def events(text: str | bytes) -> list[Any]:
    """The statuses in a stream; each whole event is one."""
    text = text if isinstance(text, str) else text.decode()
    return [json.loads(data) for _, data in EVENT.findall(text)]


async def test_life_of_a_job(client: Poller, put: Put) -> None:
    """The current status comes first, then each change; the end of the job ends the stream."""
    put(JOB, progress=1.0)
    exchange = Exchange(client, f"{URL}/events")
    await exchange.until('"progress":1.0')
    put(JOB, progress=2.0)
    await exchange.until('"progress":2.0')
    put(JOB, state=JobState.SUCCEEDED, progress=2.0)
    await exchange.task
    assert exchange.status == 200
    assert EVENT.sub("", exchange.body.decode()) == ""
    assert [(e["progress"], e["state"]) for e in events(exchange.body)] == [
        (1, "in_progress"),
        (2, "in_progress"),
        (100, "succeeded"),
    ]
    assert not client.app.statuses.watchers.jobs


async def test_event_is_the_answer(client: Poller, put: Put) -> None:
    """The data is the answer of a plain read, the id its ETag; a reconnect after the end ends."""
    put(JOB, state=JobState.FAILED, reason="why")
    plain = await client.get(URL)
    stream = await client.get(f"{URL}/events")
    assert stream.headers["content-type"] == "text/event-stream"
    assert stream.headers["cache-control"] == "no-store"
    assert stream.headers["x-accel-buffering"] == "no"
    assert EVENT.findall(stream.text) == [(plain.headers["etag"], plain.text)]
    again = await client.get(f"{URL}/events", headers={"Last-Event-ID": plain.headers["etag"]})
    assert (again.status_code, again.content) == (204, b"")
    other = await client.get(f"{URL}/events", headers={"Last-Event-ID": '"other"'})
    assert other.status_code == 200


async def test_no_record_yet(client: Poller, put: Put) -> None:
    """A job may be followed before there is anything to know of it."""
    exchange = Exchange(client, f"{URL}/events")
    await exchange.until("unknown")
    put(JOB, state=JobState.FAILED)
    await exchange.task
    assert [e["state"] for e in events(exchange.body)] == ["unknown", "failed"]


async def test_slow_reader(client: Poller, put: Put) -> None:
    """Who reads slowly gets the newest status, not a queue of old ones."""
    put(JOB, progress=0.0)
    exchange = Exchange(client, f"{URL}/events")
    exchange.reading.clear()
    await exchange.until('"progress":0.0')
    for value in range(1, 50):
        put(JOB, progress=float(value))
        await client.settle()
    await client.settle()  # by now the last change has been read too
    exchange.reading.set()
    await exchange.until('"progress":49.0')
    assert len(events(exchange.body)) == 2
    exchange.disconnect()
    await exchange.task


async def test_client_that_goes_away(client: Poller, put: Put) -> None:
    """Who goes away is forgotten at once, and nothing more is sent."""
    put(JOB, progress=1.0)
    exchange = Exchange(client, f"{URL}/events")
    await exchange.until("in_progress")
    assert client.app.statuses.watchers.open["stream"] == 1
    exchange.disconnect()
    async with asyncio.timeout(5):
        await exchange.task
    assert client.app.statuses.watchers.open["stream"] == 0
    assert not client.app.statuses.watchers.jobs


async def test_silence(client: Poller, put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    """When nothing happens, a comment now and then says that the stream lives."""
    monkeypatch.setattr(streaming, "KEEPALIVE_SECONDS", 0.05)
    put(JOB)
    exchange = Exchange(client, f"{URL}/events")
    await exchange.until(":\n\n:\n\n")
    exchange.disconnect()
    await exchange.task
    assert len(events(exchange.body)) == 1


async def test_drain(client: Poller, put: Put) -> None:
    """A process that goes away ends its streams, and asks for a while of patience."""
    put(JOB)
    exchanges = [Exchange(client, f"{URL}/events") for _ in range(20)]
    for exchange in exchanges:
        await exchange.until("in_progress")
    client.app.statuses.watchers.drain()
    await asyncio.gather(*(exchange.task for exchange in exchanges))
    delays = {int(e.body.decode().rpartition("retry: ")[2]) for e in exchanges}
    assert len(delays) > 10
    assert all(1000 <= delay <= 8000 for delay in delays)
    late = await client.get(f"{URL}/events")
    assert (len(events(late.text)), late.text.count("retry:")) == (1, 1)


async def test_outage(service_settings: ServiceSettings, put: Put, proxy: Proxy) -> None:
    """A stream outlives an outage, and goes on with what is true then."""
    put(JOB, progress=1.0)
    async with polling(replace(service_settings, redis_url=proxy.url)) as client:
        exchange = Exchange(client, f"{URL}/events")
        await exchange.until('"progress":1.0')
        proxy.cut()
        put(JOB, progress=2.0)
        await exchange.until('"progress":2.0')
        exchange.disconnect()
        await exchange.task


@pytest.mark.parametrize("path", ["/api/jobs/x/events", f"{URL}/other"])
async def test_bad_path(client: Poller, path: str) -> None:
    """A bad id is a 422, as everywhere."""
    assert (await client.get(path)).status_code == (422 if "events" in path else 404)


async def test_no_key(client: Poller) -> None:
    """The key is asked for before anything else."""
    del client.headers["Authorization"]
    assert (await client.get("/api/jobs/x/events")).status_code == 401
