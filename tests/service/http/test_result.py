"""`GET /api/jobs/{job_id}/result`: what a job has made, or why there is nothing."""

from typing import Any

import pytest
from tests.service.conftest import JOB, URL, Poller, polling

from jobstatus import Publisher
from jobstatus.keys import record_key, result_key
from jobstatus.settings import PublisherSettings
from jobstatus_service.settings import ServiceSettings

RESULT = f"{URL}/result"
KEY = record_key("job", str(JOB))


@pytest.fixture
def publisher(settings: PublisherSettings) -> Any:
    """Return a publisher."""
    with Publisher.from_url(settings.redis_url, report_interval=0.02) as publisher:
        yield publisher


def run(publisher: Publisher, result: object, created: int | None = None) -> None:
    with publisher.job(JOB, name="n", created=created) as report:
        report.result = result
    assert publisher.flush()


async def test_result(client: Poller, publisher: Publisher, redis: Any) -> None:
    """The result is the JSON that was stored, with an ETag, and expires with the record."""
    run(publisher, {"pages": 12, "name": "é"})
    response = await client.get(RESULT)
    assert (response.status_code, response.text) == (200, '{"pages":12,"name":"é"}')
    assert response.headers["content-type"] == "application/json"
    etag = response.headers["etag"]
    assert (await client.get(RESULT, headers={"If-None-Match": etag})).status_code == 304
    assert (await client.get(f"{URL}/details")).json()["has_result"] is True
    assert abs(redis.pttl(result_key(KEY)) - redis.pttl(KEY)) < 100


async def test_large_result(client: Poller, publisher: Publisher) -> None:
    """A result of the maximum size arrives whole."""
    text = "x" * (64 * 2**10 - 2)
    run(publisher, text)
    assert (await client.get(RESULT)).json() == text


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ("x" * 70_000, "The result was dropped: the result has 70002 bytes"),
        (object(), "The result was dropped: the result is not JSON"),
    ],
)
async def test_dropped(
    client: Poller, publisher: Publisher, redis: Any, result: object, reason: str
) -> None:
    """A result that was dropped is a 410 that says why; the job has succeeded all the same."""
    run(publisher, result)
    response = await client.get(RESULT)
    assert response.status_code == 410
    assert response.json()["detail"].startswith(reason)
    details = (await client.get(f"{URL}/details")).json()
    assert (details["state"], details["has_result"]) == ("succeeded", False)
    assert not redis.exists(result_key(KEY))


async def test_none(client: Poller, publisher: Publisher, redis: Any) -> None:
    """While there is no result, the answer is a 404 that says why."""

    async def reason() -> str:
        response = await client.get(RESULT)
        assert response.status_code == 404
        assert response.headers["cache-control"] == "no-store"
        text: str = response.json()["detail"]
        return text

    assert await reason() == "There is no result: the state of the job is unknown."
    publisher.pending(JOB, name="n", created=1)
    publisher.flush()
    await client.settle()
    assert await reason() == "There is no result yet: the job is pending."
    run(publisher, None, created=1)
    await client.settle()
    assert await reason() == "The job has finished without a result."
    run(publisher, 1, created=2)
    redis.delete(result_key(KEY))
    await client.settle()
    assert await reason() == "The result is no longer stored."


async def test_next_run(client: Poller, publisher: Publisher, redis: Any) -> None:
    """The result of a run is deleted when the next one begins."""
    run(publisher, 1, created=1)
    publisher.pending(JOB, name="n", created=2)
    assert publisher.flush()
    assert not redis.exists(result_key(KEY))
    assert (await client.get(RESULT)).status_code == 404


async def test_traceback(client: Poller, settings: PublisherSettings) -> None:
    """The traceback of a failed job is its result if the publisher stores tracebacks."""
    with Publisher.from_url(settings.redis_url, tracebacks=True) as publisher:
        with pytest.raises(ValueError, match="why"), publisher.job(JOB, name="n"):
            raise ValueError("why")
        publisher.flush()
    body = (await client.get(RESULT)).json()
    assert body["traceback"].startswith("Traceback (most recent call last):\n")
    assert body["traceback"].endswith("ValueError: why\n")


async def test_other_tenant(service_settings: ServiceSettings, publisher: Publisher) -> None:
    """The result of another tenant's job can't be read."""
    run(publisher, "secret")
    settings = ServiceSettings(
        redis_url=service_settings.redis_url, api_keys=("secret",), key_prefix="one"
    )
    async with polling(settings) as client:
        response = await client.get(RESULT)
        assert response.status_code == 404
        assert "secret" not in response.text
