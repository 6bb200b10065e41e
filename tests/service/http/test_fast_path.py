"""The fast path and the route respond alike, to the same clients."""

from dataclasses import replace
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from litestar import Litestar
from tests.service.conftest import JOB, URL, Poller, Put, polling

from jobstatus.status import JobState
from jobstatus_service.http.api_keys import digest
from jobstatus_service.http.fast_path import FastPathApp
from jobstatus_service.settings import ServiceSettings


async def by_both_paths(
    client: Poller, monkeypatch: pytest.MonkeyPatch, path: str, headers: dict[str, str]
) -> tuple[httpx.Response, httpx.Response]:
    """Return the response with the fast path enabled, and that of the route alone."""
    enabled = await client.get(path, headers=headers)
    with monkeypatch.context() as patch:
        patch.setattr(FastPathApp, "_plain", lambda *_: None)
        return enabled, await client.get(path, headers=headers)


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"If-None-Match": "*"},
        {"If-None-Match": '"other"'},
        {"If-None-Match": "etag"},
        {"If-None-Match": 'W/"a", etag'},
        {"Authorization": "wrong"},
        {"Authorization": ""},
        {"Authorization": "bearer secret"},
        {"Prefer": "wait=0"},
        {"Accept": "text/html"},
    ],
)
@pytest.mark.parametrize("state", [None, JobState.IN_PROGRESS, JobState.FAILED])
async def test_same_response(
    service_settings: ServiceSettings,
    put: Put,
    monkeypatch: pytest.MonkeyPatch,
    state: JobState | None,
    headers: dict[str, str],
    cached: bool,
) -> None:
    """Status, headers and body are the same on both paths, with the cache and without."""
    if state is not None:
        put(JOB, state=state)
    settings = replace(service_settings, cache_bytes=64_000 * cached)
    async with polling(settings) as client:
        if cached:
            await client.cache_valid()
        etag = (await client.get(URL)).headers["etag"]
        headers = {name: value.replace("etag", etag) for name, value in headers.items()}
        fast, slow = await by_both_paths(client, monkeypatch, URL, headers)
    assert fast.status_code == slow.status_code
    assert fast.headers == slow.headers
    assert fast.content == slow.content


@pytest.mark.parametrize(
    "path",
    [
        URL.upper(),
        f"{URL}/",
        f"/api/jobs/{JOB.hex}",
        f"/api/jobs/{str(JOB).upper()}",
        f"/api/jobs/{JOB}x",
        f"/xxx/xxxx/{JOB}",
        "/api/jobs/",
        "/api/jobs/..",
        f"{URL}?",
        f"{URL}?x=1",
        "/schema/openapi.json",
    ],
)
async def test_similar_paths(client: Poller, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """The fast path mistakes no other path for that of a job."""
    await client.cache_valid()
    await client.get(URL)
    fast, slow = await by_both_paths(client, monkeypatch, path, {})
    assert (fast.status_code, fast.content) == (slow.status_code, slow.content)


@pytest.mark.parametrize("path", [URL, f"/api/jobs/{UUID(int=1)}"])
async def test_plain_read_does_not_reach_litestar(
    client: Poller, put: Put, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """A plain read, cached or not, is answered by the fast path once its API key is known."""
    put(JOB)
    await client.cache_valid()
    await client.get(URL)

    async def fail(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(Litestar, "__call__", fail)
    assert (await client.get(path)).status_code == 200


async def test_repeated_validators(client: Poller, put: Put) -> None:
    """Several lines of `If-None-Match` are one list."""
    put(JOB)
    etag = (await client.get(URL)).headers["etag"]
    for tags in (['"a"', etag], [etag, '"a"']):
        headers = [
            ("Authorization", "secret"),
            *(("If-None-Match", tag) for tag in tags),
        ]
        assert (await client.get(URL, headers=headers)).status_code == 304


async def test_revoked_key(service_settings: ServiceSettings, tmp_path: Path) -> None:
    """The fast path rejects a revoked key, too."""
    file = tmp_path / "keys"
    file.write_text(f"a {digest('a')}\nb {digest('b')}\n")
    settings = replace(service_settings, api_keys=(), api_keys_file=str(file))
    async with polling(settings, "a") as client:
        await client.cache_valid()
        for _ in range(2):
            assert (await client.get(URL)).status_code == 200
        file.write_text(f"b {digest('b')}\n")
        client.app.api_keys.refresh()
        assert (await client.get(URL)).status_code == 401


async def test_tenants(service_settings: ServiceSettings, put: Put, tmp_path: Path) -> None:
    """A response that is cached for one tenant is not served to another."""
    file = tmp_path / "keys"
    file.write_text(f"a {digest('a')} one\nb {digest('b')} two\n")
    put(JOB, prefix="one")
    settings = replace(service_settings, api_keys=(), api_keys_file=str(file))
    async with polling(settings, "a") as client:
        await client.cache_valid()
        for _ in range(3):
            for key, state in (("a", "in_progress"), ("b", "unknown")):
                response = await client.get(URL, headers={"Authorization": key})
                assert response.json()["state"] == state
