"""The request rate of an API key."""

from dataclasses import replace

import pytest
from tests.service.conftest import JOB, URL, Put, polling

from jobstatus.status import JobState
from jobstatus_service.http.client import Client
from jobstatus_service.http.rate_limit import RateLimit, rate_limit_of
from jobstatus_service.settings import ServiceSettings


@pytest.mark.parametrize(
    ("rate", "burst", "requests"),
    [
        (2.0, 4, [(0.0, 0), (0.0, 0), (0.0, 0), (0.0, 0), (0.0, 1)]),
        (2.0, 1, [(0.0, 0), (0.4, 1), (0.5, 0), (0.5, 1)]),
        (2.0, 2, [(0.0, 0), (0.0, 0), (100.0, 0), (100.0, 0), (100.0, 1)]),
        (2.0, 0, [(0.0, 0), (0.0, 0), (0.0, 0), (0.0, 0), (0.0, 1)]),
        (0.1, 0, [(0.0, 0), (0.0, 10), (9.5, 1), (10.0, 0)]),
    ],
)
def test_bucket(rate: float, burst: int, requests: list[tuple[float, int]]) -> None:
    """A key may send its burst at once and its rate on average; each wait is in whole seconds.

    Without a burst, two seconds' worth of requests may come at once.
    """
    limit = RateLimit(ServiceSettings(rate=rate, burst=burst))
    assert [limit.take(Client("a", "job"), at) for at, _ in requests] == [
        wait for _, wait in requests
    ]


def test_buckets_are_separate() -> None:
    """One key's requests don't count for another key."""
    limit = RateLimit(ServiceSettings(rate=1, burst=1))
    assert [limit.take(Client(name, "job"), 0.0) for name in ("a", "a", "b")] == [0, 1, 0]


def test_no_limit() -> None:
    """A rate of 0 is no limit."""
    assert rate_limit_of(ServiceSettings(rate=0)) is None


@pytest.mark.parametrize(
    "url", [URL, f"{URL}?wait=0", f"{URL}/events", f"/api/jobs?id={JOB}", "/api/jobs/none"]
)
async def test_rejected_request(service_settings: ServiceSettings, put: Put, url: str) -> None:
    """Every route rejects a key that exceeds its rate with a 429, counted once per request."""
    put(JOB, state=JobState.SUCCEEDED)
    async with polling(replace(service_settings, rate=0.5, burst=2)) as client:
        responses = [await client.get(url) for _ in range(4)]
        assert [r.status_code == 429 for r in responses] == [False, False, True, True]
        rejected = responses[-1]
        assert 1 <= int(rejected.headers["retry-after"]) <= 2
        assert rejected.headers["cache-control"] == "no-store"
        assert "too often" in rejected.json()["detail"]
        assert client.app.metrics.rate_limited == 2
        other = await client.get(url, headers={"Authorization": "wrong"})
        assert other.status_code == 401


async def test_read_that_falls_back_to_the_route_counts_once(
    service_settings: ServiceSettings,
) -> None:
    """A plain read that the fast path leaves to the route takes one token, not two."""
    async with polling(replace(service_settings, rate=0.5, burst=2)) as client:
        statuses = [(await client.get(f"/api/jobs/{JOB.hex}")).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]
