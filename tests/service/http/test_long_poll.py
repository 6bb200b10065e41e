"""Long polls: `?wait=SECONDS` and the header `Prefer`."""

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest
from tests.service.asgi_exchange import Exchange
from tests.service.conftest import JOB, URL, Poller, Put, polling
from tests.service.cuttable_proxy import Proxy

from jobstatus.status import JobState
from jobstatus_service.settings import ServiceSettings


async def current_validator(client: Poller) -> dict[str, str]:
    return {"If-None-Match": (await client.get(URL)).headers["etag"]}


async def test_change(client: Poller, put: Put) -> None:
    """The response comes as soon as the job changes."""
    put(JOB, progress=1.0)
    waiting = asyncio.create_task(client.get(f"{URL}?wait=20"))
    await client.watchers_open(1)
    began_at = time.monotonic()
    put(JOB, progress=2.0)
    response = await waiting
    assert time.monotonic() - began_at < 5
    assert (response.status_code, response.json()["progress"]) == (200, 2)


async def test_validator(client: Poller, put: Put) -> None:
    """With a validator the wait is for another status than the one that the client has."""
    put(JOB, progress=1.0)
    known = await current_validator(client)
    waiting = asyncio.create_task(client.get(f"{URL}?wait=20", headers=known))
    await client.watchers_open(1)
    put(JOB, progress=2.0)
    assert (await waiting).json()["progress"] == 2
    assert (await client.get(f"{URL}?wait=20", headers=known)).json()["progress"] == 2


async def test_timeout(client: Poller, put: Put) -> None:
    """After a wait without a change, a client with the current validator gets a 304."""
    put(JOB)
    known = await current_validator(client)
    began_at = time.monotonic()
    responses = await asyncio.gather(
        client.get(f"{URL}?wait=0.2", headers=known),
        client.get(f"{URL}?wait=0.2"),
        client.get(f"{URL}?wait=0.2&until=done", headers=known),
        client.get(f"{URL}?wait=0.2&until=done", headers={"If-None-Match": '"other"'}),
    )
    assert time.monotonic() - began_at >= 0.2
    assert [response.status_code for response in responses] == [304, 200, 304, 200]
    assert not client.app.statuses.watchers.jobs


async def test_final_state(client: Poller, put: Put) -> None:
    """A job in a final state is never waited for, even with the current validator."""
    put(JOB, state=JobState.FAILED)
    known = await current_validator(client)
    assert (await client.get(f"{URL}?wait=20")).status_code == 200
    assert (await client.get(f"{URL}?wait=20&until=done")).status_code == 200
    assert (await client.get(f"{URL}?wait=20", headers=known)).status_code == 304


async def test_until_done(client: Poller, put: Put) -> None:
    """A client that waits for the final state is not notified of other changes."""
    put(JOB, progress=1.0)
    known = await current_validator(client)
    waiting = [
        asyncio.create_task(client.get(f"{URL}?wait=20&until=done", headers=headers))
        for headers in ({}, known)
    ]
    await client.watchers_open(2)
    for value in (2.0, 3.0):
        put(JOB, progress=value)
        await client.settle()
    assert not any(task.done() for task in waiting)
    put(JOB, state=JobState.SUCCEEDED)
    for response in await asyncio.gather(*waiting):
        assert response.json()["state"] == "succeeded"


async def test_job_without_a_record(client: Poller, put: Put) -> None:
    """A client can wait for a job that has no record yet."""
    waiting = asyncio.create_task(client.get(f"{URL}?wait=20"))
    await client.watchers_open(1)
    put(JOB, state=JobState.PENDING)
    assert (await waiting).json()["state"] == "pending"


async def test_expired_lease(client: Poller, put: Put) -> None:
    """A client that waits is notified when the job's worker stops reporting."""
    put(JOB, lease=200)
    assert (await client.get(f"{URL}?wait=20")).json()["state"] == "unknown"


async def test_renewed_lease(client: Poller, put: Put) -> None:
    """The renewal of a lease doesn't end a wait."""
    put(JOB, progress=1.0, lease=10_000)
    waiting = asyncio.create_task(client.get(f"{URL}?wait=0.3"))
    await client.watchers_open(1)
    for _ in range(3):
        put(JOB, progress=1.0, lease=10_000)
        await client.settle()
    assert not waiting.done()
    assert (await waiting).status_code == 200


async def test_one_read_for_all(client: Poller, put: Put, redis: Any) -> None:
    """A change is read once for all long polls of a job."""
    put(JOB, progress=1.0)
    waiting = [asyncio.create_task(client.get(f"{URL}?wait=20")) for _ in range(50)]
    await client.watchers_open(50)
    redis.config_resetstat()
    put(JOB, progress=2.0)
    assert {(await task).json()["progress"] for task in waiting} == {2}
    assert redis.info("commandstats")["cmdstat_hgetall"]["calls"] == 1


async def test_prefer(client: Poller, put: Put) -> None:
    """`Prefer: wait` waits as the parameter does, and the response says that it was applied."""
    put(JOB)
    began_at = time.monotonic()
    response = await client.get(URL, headers={"Prefer": "respond-async, wait=1"})
    assert time.monotonic() - began_at >= 1
    assert response.headers["preference-applied"] == "wait=1"


@pytest.mark.parametrize(
    ("query", "prefer"), [("", "handling=strict"), ("?wait=0", "wait=20"), ("", "wait=x")]
)
async def test_prefer_that_is_not_applied(
    client: Poller, put: Put, query: str, prefer: str
) -> None:
    """The parameter takes precedence over the header, and other preferences are ignored."""
    put(JOB)
    began_at = time.monotonic()
    response = await client.get(f"{URL}{query}", headers={"Prefer": prefer})
    assert time.monotonic() - began_at < 10
    assert "preference-applied" not in response.headers


@pytest.mark.parametrize(
    "query", ["wait=x", "wait=-1", "wait=61", "wait=nan", "wait=null", "wait=1&until=x"]
)
async def test_invalid_parameter(client: Poller, query: str) -> None:
    """An invalid parameter is a 422 that names it."""
    response = await client.get(f"{URL}?{query}")
    assert response.status_code == 422
    (error,) = response.json()["detail"]
    assert error["loc"] == ["query", "until" if "until" in query else "wait"]


async def test_client_that_disconnects(client: Poller, put: Put) -> None:
    """The watcher of a client that disconnects is closed at once."""
    put(JOB)
    exchange = Exchange(client, f"{URL}?wait=20")
    await client.watchers_open(1)
    exchange.disconnect()
    await client.watchers_open(0)
    assert not client.app.statuses.watchers.jobs


async def test_limits(service_settings: ServiceSettings, put: Put) -> None:
    """A watcher beyond the client's limit is a 429, one beyond the process's limit a 503."""
    put(JOB)
    settings = replace(
        service_settings, api_keys=("a", "b", "c"), max_watchers=3, max_watchers_per_key=2
    )
    async with polling(settings, "a") as client:
        waiting = [
            asyncio.create_task(client.get(f"{URL}?wait=20", headers={"Authorization": key}))
            for key in "aab"
        ]
        await client.watchers_open(3)
        for key, status in (("a", 429), ("b", 503), ("c", 503)):
            for path in (f"{URL}?wait=20", f"{URL}/events"):
                rejected = await client.get(path, headers={"Authorization": key})
                assert rejected.status_code == status
                assert int(rejected.headers["retry-after"]) >= 1
                assert list(rejected.json()) == ["detail"]
        assert (await client.get(URL)).status_code == 200
        assert client.app.metrics.watchers_rejected == 6
        put(JOB, progress=1.0)
        await asyncio.gather(*waiting)
        assert not client.app.statuses.watchers.open.total()


async def test_outage(service_settings: ServiceSettings, put: Put, proxy: Proxy) -> None:
    """A long poll outlives an outage, and is notified of a change during it."""
    put(JOB, progress=1.0)
    async with polling(replace(service_settings, redis_url=proxy.url, max_staleness=0.2)) as client:
        waiting = asyncio.create_task(client.get(f"{URL}?wait=20"))
        await client.watchers_open(1)
        flushes = client.app.metrics.cache_flushes
        proxy.flowing.clear()
        put(JOB, progress=2.0)
        await client.cache_flushed(flushes)
        assert not waiting.done()
        assert (await client.get(f"{URL}?wait=0.1")).status_code == 503
        proxy.flowing.set()
        assert (await waiting).json()["progress"] == 2
