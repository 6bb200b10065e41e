"""The fast lane says what the route says, to whom the route would have said it."""

from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from litestar import Litestar
from tests.service.conftest import Poller, Put, polling

from jobstatus.status import JobState
from jobstatus_service.http.api_keys import digest
from jobstatus_service.http.fast_path import FastPathApp
from jobstatus_service.settings import ServiceSettings

JOB = UUID("67c73c6b-ecba-4a4c-bb18-3f37aa64c2f8")
URL = f"/api/jobs/{JOB}"


async def both(
    client: Poller, monkeypatch: pytest.MonkeyPatch, path: str, headers: dict[str, str]
) -> list[httpx.Response]:
    """The answers with the fast lane, and without."""
    fast = await client.get(path, headers=headers)
    with monkeypatch.context() as patch:
        patch.setattr(FastPathApp, "_plain", lambda *_: None)
        return [fast, await client.get(path, headers=headers)]


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
async def test_same_answer(
    service_settings: ServiceSettings,
    put: Put,
    monkeypatch: pytest.MonkeyPatch,
    state: JobState | None,
    headers: dict[str, str],
    cached: bool,
) -> None:
    """Status, headers and body are the same, with the near cache and without."""
    if state is not None:
        put(JOB, state=state)
    settings = replace(service_settings, cache_bytes=64_000 * cached)
    async with polling(settings) as client:
        if cached:
            await client.cache_valid()
        etag = (await client.get(URL)).headers["etag"]
        headers = {name: value.replace("etag", etag) for name, value in headers.items()}
        fast, slow = await both(client, monkeypatch, URL, headers)
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
async def test_same_paths(client: Poller, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """The lane takes no path for another."""
    await client.cache_valid()
    await client.get(URL)
    fast, slow = await both(client, monkeypatch, path, {})
    assert (fast.status_code, fast.content) == (slow.status_code, slow.content)


async def test_lane_is_taken(
    client: Poller, put: Put, monkeypatch: pytest.MonkeyPatch, redis: Any
) -> None:
    """A plain read never gets as far as Litestar, once its key was seen."""
    put(JOB)
    await client.cache_valid()
    await client.get(URL)

    async def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(Litestar, "__call__", never)
    assert (await client.get(URL)).status_code == 200
    assert (await client.get(f"/api/jobs/{uuid4()}")).status_code == 200


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
    """A key that is taken away is not known to the lane either."""
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
    """What is near for one tenant is not there for another."""
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


@pytest.mark.parametrize("count", [3, 30])
async def test_too_many_bytes_of_headers(client: Poller, count: int) -> None:
    """More than 16 KiB of headers are a 431, few long ones and many short ones alike."""
    await client.cache_valid()
    await client.get(URL)
    for size, status in ((12_000, 200), (20_000, 431)):
        headers = {f"x-{n}": "x" * (size // count) for n in range(count)}
        assert (await client.get(URL, headers=headers)).status_code == status
    assert (await client.get(URL, headers={"If-None-Match": "x" * 20_000})).status_code == 431
    assert (await client.get(URL, headers={"x" * 20_000: "x"})).status_code == 431


async def test_too_many_bytes_where_no_key_is_needed(service_settings: ServiceSettings) -> None:
    """The same holds for a header that nobody looks at."""
    async with polling(replace(service_settings, no_auth=True)) as client:
        await client.get(URL)
        headers = {"Authorization": "x" * 20_000}
        assert (await client.get(URL, headers=headers)).status_code == 431
