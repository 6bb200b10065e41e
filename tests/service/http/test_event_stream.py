"""`GET /api/jobs/{job_id}/events`: streams of server-sent events."""

import asyncio
import json
import re
from dataclasses import replace
from typing import Any

import pytest
from tests.service.asgi_exchange import Exchange
from tests.service.conftest import JOB, URL, Poller, Put, polling
from tests.service.cuttable_proxy import Proxy

from jobstatus.status import JobState
from jobstatus_service.http import streaming
from jobstatus_service.settings import ServiceSettings

EVENT = re.compile(r"event: status\nid: (\"[0-9a-f]{24}\")\ndata: (\{.*\})\n\n")


def events(body: bytes) -> list[Any]:
    """Return the statuses in a stream's body."""
    return [json.loads(data) for _, data in EVENT.findall(body.decode())]


async def test_life_of_a_job(client: Poller, put: Put) -> None:
    """The current status comes first, then each change; the final state ends the stream."""
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


async def test_event(client: Poller, put: Put) -> None:
    """An event has the body of a plain read as its data, and that read's ETag as its id."""
    put(JOB, state=JobState.FAILED, reason="why")
    plain = await client.get(URL)
    stream = await client.get(f"{URL}/events")
    assert stream.headers["content-type"] == "text/event-stream"
    assert stream.headers["cache-control"] == "no-store"
    assert stream.headers["x-accel-buffering"] == "no"
    assert EVENT.findall(stream.text) == [(plain.headers["etag"], plain.text)]


@pytest.mark.parametrize(("last_event_id", "status"), [("etag", 204), ('"other"', 200)])
async def test_reconnect(client: Poller, put: Put, last_event_id: str, status: int) -> None:
    """A client that has the final state gets a 204, so that an `EventSource` stops."""
    put(JOB, state=JobState.FAILED)
    etag = (await client.get(URL)).headers["etag"]
    headers = {"Last-Event-ID": last_event_id.replace("etag", etag)}
    response = await client.get(f"{URL}/events", headers=headers)
    assert response.status_code == status
    assert len(events(response.content)) == (status == 200)


async def test_job_without_a_record(client: Poller, put: Put) -> None:
    """A client can follow a job that has no record yet."""
    exchange = Exchange(client, f"{URL}/events")
    await exchange.until("unknown")
    put(JOB, state=JobState.FAILED)
    await exchange.task
    assert [e["state"] for e in events(exchange.body)] == ["unknown", "failed"]


async def test_slow_reader(client: Poller, put: Put) -> None:
    """A client that reads slowly gets the newest status instead of a queue of old ones."""
    put(JOB, progress=0.0)
    exchange = Exchange(client, f"{URL}/events")
    exchange.reading.clear()
    await exchange.until('"progress":0.0')
    for value in range(1, 50):
        put(JOB, progress=float(value))
        await client.settle()
    await client.settle()  # by now the last change has been read, too
    exchange.reading.set()
    await exchange.until('"progress":49.0')
    assert len(events(exchange.body)) == 2
    exchange.disconnect()
    await exchange.task


async def test_client_that_never_reads(service_settings: ServiceSettings, put: Put) -> None:
    """A client that leaves an event unread for the client timeout is dropped."""
    put(JOB)
    async with polling(replace(service_settings, client_timeout=0.1)) as client:
        exchange = Exchange(client, f"{URL}/events")
        await client.watchers_open(1, "stream")
        exchange.reading.clear()
        put(JOB, progress=1.0)
        async with asyncio.timeout(5):
            await exchange.task
        assert client.app.statuses.watchers.open["stream"] == 0


async def test_client_that_disconnects(client: Poller, put: Put) -> None:
    """The watcher of a client that disconnects is closed at once."""
    put(JOB, progress=1.0)
    exchange = Exchange(client, f"{URL}/events")
    await exchange.until("in_progress")
    assert client.app.statuses.watchers.open["stream"] == 1
    exchange.disconnect()
    async with asyncio.timeout(5):
        await exchange.task
    assert client.app.statuses.watchers.open["stream"] == 0
    assert not client.app.statuses.watchers.jobs


async def test_keepalive(client: Poller, put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream without events sends a comment at a regular interval."""
    monkeypatch.setattr(streaming, "KEEPALIVE_SECONDS", 0.05)
    put(JOB)
    exchange = Exchange(client, f"{URL}/events")
    await exchange.until(":\n\n:\n\n")
    exchange.disconnect()
    await exchange.task
    assert len(events(exchange.body)) == 1


async def test_drain(client: Poller, put: Put) -> None:
    """A draining process ends its streams, each with a random delay before the reconnect."""
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
    assert (len(events(late.content)), late.text.count("retry:")) == (1, 1)


async def test_outage(service_settings: ServiceSettings, put: Put, proxy: Proxy) -> None:
    """A stream outlives an outage, and sends the status that is current afterwards."""
    put(JOB, progress=1.0)
    async with polling(replace(service_settings, redis_url=proxy.url)) as client:
        exchange = Exchange(client, f"{URL}/events")
        await exchange.until('"progress":1.0')
        proxy.cut()
        put(JOB, progress=2.0)
        await exchange.until('"progress":2.0')
        exchange.disconnect()
        await exchange.task


async def test_no_key(client: Poller) -> None:
    """The API key is checked before the id."""
    del client.headers["Authorization"]
    assert (await client.get("/api/jobs/x/events")).status_code == 401
