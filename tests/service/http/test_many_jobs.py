"""Waits for many jobs, and one event stream for many jobs or for a list."""

import asyncio
import json
import re
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests.service.asgi_exchange import Exchange
from tests.service.conftest import Poller, Put, polling, until

from jobstatus.status import JobState
from jobstatus_service.http import streaming
from jobstatus_service.lookup import list_feed
from jobstatus_service.settings import ServiceSettings

EVENT = re.compile(r"event: (\w+)\n(?:id: (\"[0-9a-f]{24}\")\n)?data: (.*)\n\n")
IDS = [UUID(int=n + 1) for n in range(3)]
QUERY = "&".join(f"id={job}" for job in IDS)


@pytest.fixture
def started(put: Put) -> None:
    """Write three running jobs."""
    for job in IDS:
        put(job, progress=1.0)


def events(exchange: Exchange) -> list[tuple[str, Any]]:
    """Return the names and data of the events that were sent."""
    return [(name, json.loads(data)) for name, _, data in EVENT.findall(exchange.body.decode())]


def progress(exchange: Exchange) -> list[tuple[str, float]]:
    return [(data["id"], data["progress"]) for _, data in events(exchange)]


# Waits


async def waiting(client: Poller, query: str, **headers: str) -> "asyncio.Task[Any]":
    task = asyncio.create_task(client.get(f"/api/jobs?{QUERY}&{query}", headers=headers))
    await client.watchers_open(1)
    return task


@pytest.mark.usefixtures("started")
async def test_wait_for_any_change(client: Poller, put: Put) -> None:
    """A wait ends when any of the jobs differs from what the client has."""
    etag = (await client.get(f"/api/jobs?{QUERY}")).headers["etag"]
    task = await waiting(client, "wait=10", **{"If-None-Match": etag})
    put(IDS[1], progress=2.0)
    response = await task
    assert response.status_code == 200
    assert [job["progress"] for job in response.json()["jobs"]] == [1, 2, 1]
    at_once = await client.get(f"/api/jobs?{QUERY}&wait=10", headers={"If-None-Match": etag})
    assert at_once.headers["etag"] == response.headers["etag"]


@pytest.mark.usefixtures("started")
@pytest.mark.parametrize(("goal", "count"), [("done", 3), ("any-done", 1)])
async def test_wait_for_the_end(client: Poller, put: Put, goal: str, count: int) -> None:
    """A wait ends when all jobs are finished, or when one is."""
    task = await waiting(client, f"wait=10&until={goal}")
    put(IDS[0], progress=50.0)
    for finished, job in enumerate(IDS):
        await client.settle()
        assert not task.done()
        put(job, state=JobState.FAILED)
        if finished + 1 == count:
            break
    states = [job["state"] for job in (await task).json()["jobs"]]
    assert states.count("failed") == count


@pytest.mark.usefixtures("started")
async def test_wait_that_times_out(client: Poller) -> None:
    """After the time the current statuses are returned, or a 304."""
    response = await client.get(f"/api/jobs?{QUERY}&wait=0.05")
    assert response.status_code == 200
    etag = response.headers["etag"]
    preferred = {"If-None-Match": etag, "Prefer": "wait=0"}
    again = await client.get(f"/api/jobs?{QUERY}", headers=preferred)
    assert (again.status_code, again.headers["preference-applied"]) == (304, "wait=0")


@pytest.mark.usefixtures("started")
async def test_job_that_is_named_twice(client: Poller, put: Put) -> None:
    """A job that is named twice is watched once and returned twice."""
    put(IDS[0], state=JobState.FAILED)
    response = await client.get(f"/api/jobs?id={IDS[0]}&id={IDS[0]}&wait=5")
    assert [job["state"] for job in response.json()["jobs"]] == ["failed"] * 2


# One stream for many jobs


@pytest.mark.usefixtures("started")
async def test_stream_of_many(client: Poller, put: Put) -> None:
    """The stream has all statuses, then each change, and ends when all jobs are finished."""
    exchange = Exchange(client, f"/api/jobs/events?{QUERY}")
    await until(lambda: len(events(exchange)) == 3)
    put(IDS[1], progress=2.0)
    await exchange.until('"progress":2.0')
    for job in IDS:
        put(job, state=JobState.SUCCEEDED, progress=3.0)
    await exchange.task
    assert {name for name, _ in events(exchange)} == {"status"}
    found = progress(exchange)
    assert found[:3] == [(str(job), 1) for job in IDS]
    assert found[3] == (str(IDS[1]), 2)
    assert sorted(found[4:]) == [(str(job), 100) for job in IDS]
    bulk = await client.get(f"/api/jobs?{QUERY}")
    assert exchange.body.decode().endswith(f"\n\nid: {bulk.headers['etag']}\n\n")
    assert not client.app.statuses.watchers.jobs


@pytest.mark.usefixtures("started")
async def test_reconnect(client: Poller, put: Put) -> None:
    """A client that has all final states gets a 204; one that has only some gets all again."""
    for job in IDS:
        put(job, state=JobState.FAILED)
    bulk = (await client.get(f"/api/jobs?{QUERY}")).headers["etag"]
    one = (await client.get(f"/api/jobs/{IDS[0]}")).headers["etag"]
    path = f"/api/jobs/events?{QUERY}"
    assert (await client.get(path, headers={"Last-Event-ID": bulk})).status_code == 204
    response = await client.get(path, headers={"Last-Event-ID": one})
    assert response.status_code == 200
    assert response.text.count("event: status") == 3


@pytest.mark.usefixtures("started")
async def test_slow_client(client: Poller, put: Put) -> None:
    """A client that reads slowly skips statuses, and gets the newest of each job."""
    exchange = Exchange(client, f"/api/jobs/events?{QUERY}")
    await until(lambda: len(events(exchange)) == 3)
    exchange.reading.clear()
    put(IDS[0], progress=2.0)
    for percent in range(3, 30):
        put(IDS[0], progress=float(percent))
        put(IDS[1], progress=float(percent))
    await client.settle()
    exchange.reading.set()
    await until(lambda: {(str(IDS[0]), 29), (str(IDS[1]), 29)} <= set(progress(exchange)))
    assert len(events(exchange)) < 12
    exchange.disconnect()
    await exchange.task


@pytest.mark.usefixtures("started")
async def test_one_read_for_all_watchers(client: Poller, put: Put) -> None:
    """A job is read once for each change, however many streams contain it."""
    exchanges = [Exchange(client, f"/api/jobs/events?{QUERY}") for _ in range(20)]
    for exchange in exchanges:
        await until(lambda each=exchange: len(events(each)) == 3)  # type: ignore[misc]
    keys_read = client.app.metrics.batch_sizes.values[1]
    put(IDS[0], progress=2.0)
    for exchange in exchanges:
        await exchange.until('"progress":2.0')
    assert client.app.metrics.batch_sizes.values[1] == keys_read + 1
    for exchange in exchanges:
        exchange.disconnect()
        await exchange.task


# The stream of a list


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read lists and counts every 10 ms."""
    monkeypatch.setattr(list_feed, "READ_INTERVAL_SECONDS", 0.01)
    monkeypatch.setattr(list_feed, "COUNTS_INTERVAL_SECONDS", 0.01)


@pytest.mark.usefixtures("started", "quick")
async def test_stream_of_a_list(client: Poller, put: Put) -> None:
    """The page comes first, then each job that changes or is new, and the counts."""
    exchange = Exchange(client, "/api/jobs/events")
    await exchange.until("event: counts")
    (_, page), (_, counts) = events(exchange)
    listed = (await client.get("/api/jobs")).json()["jobs"]
    assert page == {"jobs": listed}
    assert counts["in_progress"] == 3
    put(IDS[1], progress=2.0)
    await exchange.until('"progress":2.0')
    new = uuid4()
    put(new, state=JobState.PENDING, attempt=0)
    await exchange.until(str(new))
    put(IDS[0], state=JobState.FAILED)
    await exchange.until('"failed":1')
    last = [data for name, data in events(exchange) if name == "status"]
    assert {job["id"] for job in last} == {str(IDS[0]), str(IDS[1]), str(new)}
    assert last[0].keys() == page["jobs"][0].keys()
    exchange.disconnect()
    await exchange.task
    assert client.app.state.list_feeds.feeds == {}


@pytest.mark.usefixtures("started", "quick")
async def test_job_that_leaves_a_list(client: Poller, put: Put) -> None:
    """A job that no longer belongs to a filtered list is sent once more, with its new state."""
    exchange = Exchange(client, "/api/jobs/events?state=in_progress")
    await exchange.until("event: list")
    put(IDS[0], state=JobState.FAILED, reason="why")
    await exchange.until('"state":"failed"')
    exchange.disconnect()
    await exchange.task


@pytest.mark.usefixtures("started", "quick")
async def test_watchers_of_one_list_share_its_reads(client: Poller, put: Put) -> None:
    """A list is read at the same rate for one watcher and for many, and not without any."""
    exchanges = [Exchange(client, "/api/jobs/events?state=in_progress") for _ in range(30)]
    for exchange in exchanges:
        await exchange.until("event: list")
    assert len(client.app.state.list_feeds.feeds) == 1
    put(IDS[0], progress=2.0)
    for exchange in exchanges:
        await exchange.until('"progress":2.0')
    assert len({exchange.body for exchange in exchanges}) == 1
    for exchange in exchanges:
        exchange.disconnect()
        await exchange.task
    reads = client.app.statuses.index.reads
    await asyncio.sleep(0.05)
    assert client.app.statuses.index.reads == reads


@pytest.mark.usefixtures("started", "quick")
async def test_slow_watcher_of_a_list(
    client: Poller, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A watcher that reads slowly gets what it has missed, or the whole list again."""
    monkeypatch.setattr(list_feed, "_MAX_KEPT_PIECES", 3)
    exchange = Exchange(client, "/api/jobs/events")
    await exchange.until("event: list")
    (feed,) = client.app.state.list_feeds.feeds.values()
    exchange.reading.clear()
    for percent in range(2, 12):
        put(IDS[0], progress=float(percent))
        version = feed.version
        await until(lambda v=version: feed.version > v)  # type: ignore[misc]
    exchange.reading.set()
    await exchange.until('"progress":11.0')
    assert exchange.body.count(b"event: list") == 2
    exchange.disconnect()
    await exchange.task


@pytest.mark.usefixtures("quick")
async def test_idle_list(client: Poller, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list in which nothing happens sends a comment now and then."""
    monkeypatch.setattr(streaming, "KEEPALIVE_SECONDS", 0.02)
    exchange = Exchange(client, "/api/jobs/events?name=none")
    await exchange.until("\n\n:\n\n")
    assert [name for name, _ in events(exchange)] == ["list", "counts"]
    exchange.disconnect()
    await exchange.task


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("path", ["/api/jobs/events", f"/api/jobs/events?{QUERY}"])
async def test_drain_and_limits(service_settings: ServiceSettings, path: str) -> None:
    """These streams count as watchers, and end when the process drains."""
    settings = ServiceSettings(
        redis_url=service_settings.redis_url, api_keys=("secret",), max_watchers_per_key=1
    )
    async with polling(settings) as client:
        exchange = Exchange(client, path)
        await exchange.until("event: ")
        assert (await client.get(path)).status_code == 429
        client.app.statuses.watchers.drain()
        await exchange.task
        assert re.search(r"retry: \d+\n\n$", exchange.body.decode())
