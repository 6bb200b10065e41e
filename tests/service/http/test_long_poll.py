"""Long polls."""

import asyncio
import time
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from tests.service.conftest import Poller, Put, polling
from tests.service.exchange import Exchange
from tests.service.proxy import Proxy

from jobstatus.status import JobState
from jobstatus_service.http.prefer import preferred_wait
from jobstatus_service.settings import ServiceSettings

JOB = UUID("67c73c6b-ecba-4a4c-bb18-3f37aa64c2f8")
URL = f"/api/jobs/{JOB}"


async def etag(client: Poller) -> dict[str, str]:
    return {"If-None-Match": (await client.get(URL)).headers["etag"]}


async def waits(client: Poller, number: int = 1) -> None:
    """Until so many wait."""
    async with asyncio.timeout(5):
        while client.app.statuses.watchers.open["long_poll"] != number:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def test_change(client: Poller, put: Put) -> None:
    """The answer comes as soon as the job changes, not when the time is up."""
    put(JOB, progress=1.0)
    waiting = asyncio.create_task(client.get(f"{URL}?wait=20"))
    await waits(client)
    began_at = time.monotonic()
    put(JOB, progress=2.0)
    response = await waiting
    assert time.monotonic() - began_at < 5
    assert (response.status_code, response.json()["progress"]) == (200, 2)


async def test_known_status(client: Poller, put: Put) -> None:
    """With a validator, what the client knows is waited out, and what it doesn't is told."""
    put(JOB, progress=1.0)
    known = await etag(client)
    waiting = asyncio.create_task(client.get(f"{URL}?wait=20", headers=known))
    await waits(client)
    put(JOB, progress=2.0)
    assert (await waiting).json()["progress"] == 2
    assert (await client.get(f"{URL}?wait=20", headers=known)).json()["progress"] == 2


async def test_time_is_up(client: Poller, put: Put) -> None:
    """When nothing changes it is a 304 with a validator and a 200 without."""
    put(JOB)
    known = await etag(client)
    began_at = time.monotonic()
    told = await asyncio.gather(
        client.get(f"{URL}?wait=0.2", headers=known),
        client.get(f"{URL}?wait=0.2"),
        client.get(f"{URL}?wait=0.2&until=done", headers=known),
        client.get(f"{URL}?wait=0.2&until=done", headers={"If-None-Match": '"other"'}),
    )
    assert time.monotonic() - began_at >= 0.2
    assert [response.status_code for response in told] == [304, 200, 304, 200]
    assert not client.app.statuses.watchers.jobs


async def test_over(client: Poller, put: Put) -> None:
    """A job that is over is told at once, and to whom knows that too."""
    put(JOB, state=JobState.FAILED)
    known = await etag(client)
    assert (await client.get(f"{URL}?wait=20")).status_code == 200
    assert (await client.get(f"{URL}?wait=20&until=done")).status_code == 200
    assert (await client.get(f"{URL}?wait=20", headers=known)).status_code == 304


async def test_until_done(client: Poller, put: Put) -> None:
    """Who waits for the end hears of nothing else."""
    put(JOB, progress=1.0)
    known = await etag(client)
    waiting = [
        asyncio.create_task(client.get(f"{URL}?wait=20&until=done", headers=headers))
        for headers in ({}, known)
    ]
    await waits(client, 2)
    for value in (2.0, 3.0):
        put(JOB, progress=value)
        await client.settle()
    assert not any(task.done() for task in waiting)
    put(JOB, state=JobState.SUCCEEDED)
    for response in await asyncio.gather(*waiting):
        assert response.json()["state"] == "succeeded"


async def test_no_record_yet(client: Poller, put: Put) -> None:
    """A job may be waited for before there is anything to know of it."""
    waiting = asyncio.create_task(client.get(f"{URL}?wait=20"))
    await waits(client)
    put(JOB, state=JobState.PENDING)
    assert (await waiting).json()["state"] == "pending"


async def test_lapsing_lease(client: Poller, put: Put) -> None:
    """A worker that falls silent is told to whom waits."""
    put(JOB, lease=200)
    assert (await client.get(f"{URL}?wait=20")).json()["state"] == "unknown"


async def test_renewed_lease_wakes_nobody(client: Poller, put: Put) -> None:
    """A heartbeat is no change."""
    put(JOB, progress=1.0, lease=10_000)
    waiting = asyncio.create_task(client.get(f"{URL}?wait=0.3"))
    await waits(client)
    for _ in range(3):
        put(JOB, progress=1.0, lease=10_000)
        await client.settle()
    assert not waiting.done()
    assert (await waiting).status_code == 200


async def test_one_read_for_all(client: Poller, put: Put, redis: Any) -> None:
    """However many wait, a change is read and encoded once."""
    put(JOB, progress=1.0)
    waiting = [asyncio.create_task(client.get(f"{URL}?wait=20")) for _ in range(50)]
    await waits(client, 50)
    redis.config_resetstat()
    put(JOB, progress=2.0)
    assert {(await task).json()["progress"] for task in waiting} == {2}
    assert redis.info("commandstats")["cmdstat_hgetall"]["calls"] == 1


async def test_preference(client: Poller, put: Put) -> None:
    """`Prefer: wait` does the same, and the answer says that it was heeded."""
    put(JOB)
    began_at = time.monotonic()
    response = await client.get(URL, headers={"Prefer": "respond-async, wait=1"})
    assert time.monotonic() - began_at >= 1
    assert response.headers["preference-applied"] == "wait=1"
    plain = await client.get(URL, headers={"Prefer": "handling=strict"})
    assert "preference-applied" not in plain.headers
    began_at = time.monotonic()
    query = await client.get(f"{URL}?wait=0", headers={"Prefer": "wait=20"})
    assert time.monotonic() - began_at < 10
    assert "preference-applied" not in query.headers


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([], None),
        (["wait=10"], 10),
        (["respond-async", 'Wait = "5"; x=1'], 5),
        (["wait=1000"], 60),
        (["wait=99999999999999999999"], 60),
        (["long_poll"], None),
        (["wait=-1"], None),
        (["wait=1.5"], None),
        (["wait=²"], None),
        (["wait=1, wait=2"], 1),
        (["respond-async"], None),
    ],
)
def test_preferred_wait(headers: list[str], seconds: int | None) -> None:
    """What can't be understood is passed over; what is too long is cut."""
    assert preferred_wait(headers) == seconds


@pytest.mark.parametrize(
    "query", ["wait=x", "wait=-1", "wait=61", "wait=nan", "wait=null", "wait=1&until=x"]
)
async def test_bad_query(client: Poller, query: str) -> None:
    """A wait that can't be is a 422 that names it."""
    response = await client.get(f"{URL}?{query}")
    assert response.status_code == 422
    (error,) = response.json()["detail"]
    assert error["loc"] == ["query", "until" if "until" in query else "wait"]


async def test_client_that_goes_away(client: Poller, put: Put) -> None:
    """Who goes away is forgotten at once."""
    put(JOB)
    exchange = Exchange(client, f"{URL}?wait=20")
    await waits(client)
    exchange.disconnect()
    await waits(client, 0)
    assert not client.app.statuses.watchers.jobs


async def test_limits(service_settings: ServiceSettings, put: Put) -> None:
    """Beyond what a key may have open it is a 429, beyond what all may, a 503."""
    put(JOB)
    settings = replace(
        service_settings, api_keys=("a", "b", "c"), max_watchers=3, max_watchers_per_key=2
    )
    async with polling(settings, "a") as client:
        waiting = [
            asyncio.create_task(client.get(f"{URL}?wait=20", headers={"Authorization": key}))
            for key in "aab"
        ]
        await waits(client, 3)
        for key, status in (("a", 429), ("b", 503), ("c", 503)):
            for path in (f"{URL}?wait=20", f"{URL}/events"):
                refused = await client.get(path, headers={"Authorization": key})
                assert refused.status_code == status
                assert int(refused.headers["retry-after"]) >= 1
                assert list(refused.json()) == ["detail"]
        assert (await client.get(URL)).status_code == 200
        assert client.app.metrics.watchers_rejected == 6
        put(JOB, progress=1.0)
        await asyncio.gather(*waiting)
        assert not client.app.statuses.watchers.open.total()


async def test_outage(service_settings: ServiceSettings, put: Put, proxy: Proxy) -> None:
    """A wait outlives an outage, and hears of what changed meanwhile."""
    put(JOB, progress=1.0)
    async with polling(replace(service_settings, redis_url=proxy.url, max_staleness=0.2)) as client:
        waiting = asyncio.create_task(client.get(f"{URL}?wait=20"))
        await waits(client)
        proxy.flowing.clear()
        put(JOB, progress=2.0)
        await asyncio.sleep(0.5)
        assert not waiting.done()
        assert (await client.get(f"{URL}?wait=0.1")).status_code == 503
        proxy.flowing.set()
        assert (await waiting).json()["progress"] == 2
