"""How often one API key may ask, and how much it may send."""

from dataclasses import replace

import pytest
from tests.service.conftest import Put, polling

from jobstatus_service.http.rate_limit import RateLimit
from jobstatus_service.settings import ServiceSettings

JOB = "67c73c6b-ecba-4a4c-bb18-3f37aa64c2f8"
URL = f"/api/jobs/{JOB}"


def test_bucket() -> None:
    """A key gets its burst at once and its rate on average; the wait is what it must be."""
    rate = RateLimit(ServiceSettings(rate=2.0, burst=4))
    assert [rate.take("a", 0.0) for _ in range(5)] == [0, 0, 0, 0, 1]
    assert rate.take("b", 0.0) == 0
    assert rate.take("a", 0.4) == 1
    assert rate.take("a", 0.5) == 0
    assert rate.take("a", 0.5) == 1
    assert [rate.take("a", 100.0) for _ in range(5)] == [0, 0, 0, 0, 1]


def test_slow_rate() -> None:
    """Less than one request a second is a rate too, and its wait is whole seconds."""
    rate = RateLimit(ServiceSettings(rate=0.1))
    assert rate.take("a", 0.0) == 0
    assert rate.take("a", 0.0) == 10


@pytest.mark.parametrize(
    "url", [URL, f"{URL}?wait=0", f"{URL}/events", f"/api/jobs?id={JOB}", "/api/jobs/none"]
)
async def test_refusal(service_settings: ServiceSettings, put: Put, url: str) -> None:
    """Whatever is asked for too often is a 429 that says when to come back."""
    put(JOB, state="succeeded")
    async with polling(replace(service_settings, rate=0.5, burst=2)) as client:
        answers = [await client.get(url) for _ in range(4)]
        assert [a.status_code == 429 for a in answers] == [False, False, True, True]
        refused = answers[-1]
        assert 1 <= int(refused.headers["retry-after"]) <= 2
        assert refused.headers["cache-control"] == "no-store"
        assert "too often" in refused.json()["detail"]
        metrics = (await client.get("/metrics")).text
        assert "jobstatus_rate_limited_total 2.0" in metrics
        other = await client.get(url, headers={"Authorization": "wrong"})
        assert other.status_code == 401


async def test_no_limit(service_settings: ServiceSettings, put: Put) -> None:
    """Unless a rate is set, nobody asks too often."""
    put(JOB)
    async with polling(service_settings) as client:
        assert {(await client.get(URL)).status_code for _ in range(500)} == {200}


@pytest.mark.parametrize(
    ("url", "headers", "status"),
    [
        (f"{URL}?x={'a' * 9_000}", {}, 414),
        (f"/api/jobs/{'a' * 9_000}", {}, 414),
        (f"{URL}?x=1", {"X-Large": "a" * 17_000}, 431),
        (URL, {f"X-{n}": "a" * 400 for n in range(50)}, 431),
        ("/livez", {"X-Large": "a" * 17_000}, 431),
        ("/api/jobs?" + "&".join([f"id={JOB}"] * 100), {}, 200),
    ],
)
async def test_sizes(
    service_settings: ServiceSettings, url: str, headers: dict[str, str], status: int
) -> None:
    """A request that is too large is refused with the status that says so."""
    async with polling(service_settings) as client:
        answer = await client.get(url, headers=headers)
        assert answer.status_code == status
