"""Limits on the size of a request's head."""

from dataclasses import replace
from typing import Any

import pytest
from tests.service.conftest import JOB, URL, Poller, polling

from jobstatus_service.http import fast_path
from jobstatus_service.http.api_keys import MAX_REMEMBERED_HEADER_BYTES
from jobstatus_service.http.request_size import MAX_HEADERS_BYTES, size_error
from jobstatus_service.settings import ServiceSettings


@pytest.mark.parametrize(
    ("path", "query", "headers", "status"),
    [
        (8_192, 0, [], None),
        (8_193, 0, [], 414),
        (4_192, 4_000, [], None),
        (4_192, 4_001, [], 414),
        (1, 0, [24_576], None),
        (1, 0, [24_577], 431),
        (1, 0, [246] * 100, 431),
        (8_193, 0, [24_577], 414),
    ],
)
def test_size_error(path: int, query: int, headers: list[int], status: int | None) -> None:
    """The URL and the sum of all headers, names included, are limited."""
    scope: dict[str, Any] = {
        "raw_path": b"/" * path,
        "query_string": b"x" * query,
        "headers": [(b"name", b"x" * (size - 4)) for size in headers],
    }
    error = size_error(scope)
    assert (error and error[0]) == status


def test_limits_of_a_plain_read() -> None:
    """The limits of single headers keep the sum of a plain read's headers within the limit."""
    names = 2 * fast_path._NAME_LENGTH
    values = MAX_REMEMBERED_HEADER_BYTES + fast_path._MAX_IF_NONE_MATCH_BYTES
    others = (fast_path._MAX_HEADERS - 2) * fast_path._MAX_OTHER_HEADER_BYTES
    assert names + values + others <= MAX_HEADERS_BYTES


@pytest.mark.parametrize(
    ("url", "headers", "status"),
    [
        (f"{URL}?x={'a' * 9_000}", {}, 414),
        (f"/api/jobs/{'a' * 9_000}", {}, 414),
        (f"{URL}?x=1", {"X-Large": "a" * 25_000}, 431),
        (URL, {f"X-{n}": "a" * 500 for n in range(50)}, 431),
        ("/livez", {"X-Large": "a" * 25_000}, 431),
        ("/api/jobs?" + "&".join([f"id={JOB}"] * 100), {}, 200),
    ],
)
async def test_responses(client: Poller, url: str, headers: dict[str, str], status: int) -> None:
    """A request that is too large is rejected with a status that says why."""
    response = await client.get(url, headers=headers)
    assert response.status_code == status
    if status != 200:
        assert list(response.json()) == ["detail"]


@pytest.mark.parametrize("count", [3, 30])
async def test_headers_of_a_plain_read(client: Poller, count: int) -> None:
    """The limit holds for plain reads of a cached job, with few long headers or many short ones."""
    await client.cache_valid()
    await client.get(URL)
    for size, status in ((12_000, 200), (25_000, 431)):
        headers = {f"x-{n}": "x" * (size // count) for n in range(count)}
        assert (await client.get(URL, headers=headers)).status_code == status
    assert (await client.get(URL, headers={"If-None-Match": "x" * 25_000})).status_code == 431
    assert (await client.get(URL, headers={"x" * 25_000: "x"})).status_code == 431


async def test_unneeded_api_key(service_settings: ServiceSettings) -> None:
    """The limit holds for an `Authorization` header that the service does not need."""
    async with polling(replace(service_settings, no_auth=True)) as client:
        await client.get(URL)
        headers = {"Authorization": "x" * 25_000}
        assert (await client.get(URL, headers=headers)).status_code == 431
