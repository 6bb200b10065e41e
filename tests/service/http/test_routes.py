"""`GET /api/jobs/{job_id}`: the published contract, case by case."""

import asyncio
import re
import time
from typing import Any

import pytest
from tests.service.conftest import JOB, URL, Poller, Put

from jobstatus.status import JobState

KEY = f"job:{JOB}"


async def test_record(client: Poller, put: Put) -> None:
    """The response has all members in the contract's order."""
    put(JOB, progress=40.5, reason="frame 812 of 2000")
    response = await client.get(URL)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    updated_at = body["updated_at"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", updated_at)
    assert list(body.items()) == [
        ("id", str(JOB)),
        ("created_at", "2023-11-14T22:13:20.000Z"),
        ("updated_at", updated_at),
        ("name", "render"),
        ("reason", "frame 812 of 2000"),
        ("has_progress", True),
        ("progress", 40.5),
        ("state", "in_progress"),
    ]


@pytest.mark.parametrize("spelling", [str(JOB), str(JOB).upper(), JOB.hex, JOB.hex.upper()])
async def test_spellings_of_an_id(client: Poller, put: Put, spelling: str) -> None:
    """Each spelling of an id finds the record; the response has the canonical one."""
    put(JOB)
    body = (await client.get(f"/api/jobs/{spelling}")).json()
    assert (body["id"], body["state"]) == (str(JOB), "in_progress")


@pytest.mark.parametrize("job_id", ["x", "1", "67c73c6b-ecba-4a4c-bb18", f"{JOB}0", "%00"])
async def test_malformed_id(client: Poller, job_id: str) -> None:
    """An id that is not a UUID is a 422 in the contract's form."""
    response = await client.get(f"/api/jobs/{job_id}")
    assert response.status_code == 422
    (error,) = response.json()["detail"]
    assert error["loc"] == ["path", "job_id"]


async def test_no_record(client: Poller) -> None:
    """A job without a record is unknown."""
    response = await client.get(URL)
    assert response.status_code == 200
    assert response.json() == {
        "id": str(JOB),
        "created_at": "1970-01-01T00:00:00.000Z",
        "updated_at": "1970-01-01T00:00:00.000Z",
        "name": "",
        "reason": "no record of this job: it never existed, or is no longer kept",
        "has_progress": False,
        "progress": 0,
        "state": "unknown",
    }


async def test_expired_lease(client: Poller, put: Put, redis: Any) -> None:
    """A job whose worker has stopped reporting is unknown; its name, times and progress stay."""
    put(JOB, progress=40.0, reason="frame 3")
    redis.hset(KEY, "lease", int(time.time() * 1000) - 95_000)
    body = (await client.get(URL)).json()
    assert body["state"] == "unknown"
    assert body["reason"] == "no report for over 2 min; the last state was in_progress"
    assert (body["name"], body["has_progress"], body["progress"]) == ("render", True, 40)
    assert body["created_at"] == "2023-11-14T22:13:20.000Z"


async def test_response_about_an_expired_lease_is_stable(
    client: Poller, put: Put, redis: Any
) -> None:
    """The response about a worker that has stopped reporting doesn't change with every poll."""
    put(JOB)
    redis.hset(KEY, "lease", int(time.time() * 1000) - 40_000)
    first = (await client.get(URL)).headers["etag"]
    await asyncio.sleep(0.05)
    assert (await client.get(URL)).headers["etag"] == first


@pytest.mark.parametrize("field", ["state", "created", "progress", "attempt"])
async def test_malformed_field(
    client: Poller, put: Put, redis: Any, field: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A job with a malformed record is unknown with a reason that says so, and is logged."""
    put(JOB)
    redis.hset(KEY, field, "\x00odd")
    body = (await client.get(URL)).json()
    assert body["state"] == "unknown"
    assert body["reason"].startswith("the stored record is malformed: ")
    assert KEY in caplog.text
    assert client.app.metrics.malformed_records == 1


async def test_wrong_type(client: Poller, redis: Any) -> None:
    """A job whose key isn't a hash is unknown with a reason that says so."""
    redis.set(KEY, "x", ex=60)
    body = (await client.get(URL)).json()
    assert body["state"] == "unknown"
    assert body["reason"].startswith("the stored record is malformed: ")


async def test_text_that_is_not_utf8(client: Poller, put: Put, redis: Any) -> None:
    """A record whose reason isn't UTF-8 is still served."""
    put(JOB)
    redis.hset(KEY, "reason", b"\xff\xfe")
    response = await client.get(URL)
    assert (response.status_code, response.json()["state"]) == (200, "in_progress")


async def test_validator(client: Poller, put: Put) -> None:
    """The validator changes with the job; a request with the current one gets a 304."""
    put(JOB, progress=1.0)
    first = await client.get(URL)
    etag = first.headers["etag"]
    assert re.fullmatch(r'"[0-9a-f]{24}"', etag)
    for condition in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        again = await client.get(URL, headers={"If-None-Match": condition})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == etag
        assert again.headers["cache-control"] == first.headers["cache-control"]
        assert again.headers["retry-after"] == first.headers["retry-after"]
    put(JOB, progress=2.0)
    await client.settle()
    changed = await client.get(URL, headers={"If-None-Match": etag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != etag


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (None, "private, no-cache"),
        (JobState.IN_PROGRESS, "private, no-cache"),
        (JobState.FAILED, "private, max-age=30"),
    ],
)
async def test_caching_by_clients(
    client: Poller, put: Put, state: JobState | None, expected: str
) -> None:
    """Only the response about a job in a final state may be served from a client's cache."""
    if state is not None:
        put(JOB, state=state)
    assert (await client.get(URL)).headers["cache-control"] == expected


async def test_poll_interval(client: Poller, put: Put) -> None:
    """`Retry-After` follows the observed changes of a job until the job is in a final state."""
    await client.cache_valid()
    for value in range(20):
        put(JOB, progress=float(value))
        await client.settle()
        assert (await client.get(URL)).headers["retry-after"] == "1"
    put(JOB, state=JobState.FAILED)
    await client.settle()
    response = await client.get(URL)
    assert "retry-after" not in response.headers
    known = {"If-None-Match": response.headers["etag"]}
    again = await client.get(URL, headers=known)
    assert (again.status_code, "retry-after" in again.headers) == (304, False)
