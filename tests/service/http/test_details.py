"""`GET /api/jobs/{job_id}/details`: the status and what an operator wants to know beside it."""

import asyncio
from typing import Any

import pytest
from tests.service.conftest import JOB, URL, Poller, Put, polling

from jobstatus.details import JobDetails, UnknownCause
from jobstatus.keys import record_key
from jobstatus.status import JobState
from jobstatus_service.settings import ServiceSettings

DETAILS = f"{URL}/details"
KEY = record_key("job", str(JOB))


async def details(client: Poller) -> JobDetails:
    response = await client.get(DETAILS)
    assert response.status_code == 200
    return JobDetails.from_json(response.content)


async def test_members(client: Poller, put: Put) -> None:
    """The members of the status come first, as they are without details; then the others."""
    put(JOB, progress=40.0, worker="host-1", eta=12.3, attempt=2)
    status = (await client.get(URL)).text
    response = await client.get(DETAILS)
    assert response.text.startswith(status[:-1] + ",")
    assert list(response.json())[8:] == [
        *("started_at", "finished_at", "attempt", "worker"),
        *("eta_seconds", "expires_at", "has_result", "unknown_cause"),
    ]
    found = JobDetails.from_json(response.content)
    assert found.started_at == found.updated_at
    assert (found.attempt, found.worker, found.eta_seconds) == (2, "host-1", 12.0)
    assert (found.finished_at, found.expires_at, found.has_result) == (None, None, False)


async def test_pending(client: Poller, put: Put) -> None:
    """Before a job has begun, there is nothing to say but its status."""
    put(JOB, state=JobState.PENDING, attempt=0)
    found = await details(client)
    assert (found.started_at, found.attempt, found.worker, found.eta_seconds) == (None,) * 4
    assert found.unknown_cause is None


async def test_finished(client: Poller, put: Put, redis: Any) -> None:
    """Of a finished job the start, end, worker and expiry are known, and there is no estimate."""
    put(JOB, worker="host-1", eta=12.0)
    put(JOB, worker="host-1", state=JobState.FAILED)
    found = await details(client)
    assert found.started_at is not None
    assert found.finished_at == found.updated_at
    assert found.expires_at is not None
    expires_ms = redis.time()[0] * 1000 + redis.pttl(KEY)
    assert abs(found.expires_at.timestamp() * 1000 - expires_ms) < 2_000
    assert (found.worker, found.eta_seconds) == ("host-1", None)


async def test_record_of_an_earlier_version(client: Poller, redis: Any) -> None:
    """A record without the fields that were added later is served without them."""
    redis.hset(
        KEY,
        mapping={
            "name": "n",
            "state": "failed",
            "created": 1_700_000_000_000,
            "attempt": 1,
            "updated": 1_700_000_001_000,
            "future": "x",
        },
    )
    redis.expire(KEY, 60)
    found = await details(client)
    assert found.finished_at == found.updated_at
    assert (found.started_at, found.expires_at, found.worker) == (None, None, None)


@pytest.mark.parametrize("cause", list(UnknownCause))
async def test_unknown(client: Poller, put: Put, redis: Any, cause: UnknownCause) -> None:
    """The cause of an unknown state is a member, and that of the header."""
    if cause is UnknownCause.LEASE_EXPIRED:
        put(JOB, lease=1, worker="host-1", eta=5.0, progress=10.0)
        await asyncio.sleep(0.01)
    elif cause is UnknownCause.UNREADABLE:
        put(JOB)
        redis.hset(KEY, "created", "x")
    response = await client.get(DETAILS)
    found = JobDetails.from_json(response.content)
    assert (found.state, found.unknown_cause) == (JobState.UNKNOWN, cause)
    assert response.headers["job-unknown-cause"] == cause
    assert found.eta_seconds is None
    assert found.worker == ("host-1" if cause is UnknownCause.LEASE_EXPIRED else None)


async def test_not_modified(client: Poller, put: Put) -> None:
    """The details have an ETag of their own, and the other headers of the status."""
    put(JOB, state=JobState.FAILED)
    status, response = await client.get(URL), await client.get(DETAILS)
    assert response.headers["etag"] != status.headers["etag"]
    assert response.headers["cache-control"] == status.headers["cache-control"]
    again = await client.get(DETAILS, headers={"If-None-Match": response.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("query", ["wait=10", "wait=10&until=done"])
async def test_wait(client: Poller, put: Put, query: str) -> None:
    """A wait ends with the change that it waits for."""
    put(JOB, progress=1.0)
    etag = (await client.get(DETAILS)).headers["etag"]
    waiting = asyncio.create_task(client.get(f"{DETAILS}?{query}", headers={"If-None-Match": etag}))
    await client.watchers_open(1)
    if query.endswith("done"):
        put(JOB, progress=2.0)
        await client.settle()
        assert not waiting.done()
    put(JOB, state=JobState.SUCCEEDED, progress=2.0)
    found = JobDetails.from_json((await waiting).content)
    assert (found.state, found.finished_at) == (JobState.SUCCEEDED, found.updated_at)


async def test_other_tenant(service_settings: ServiceSettings, put: Put) -> None:
    """The details of another tenant's job are those of no job."""
    put(JOB, prefix="one", worker="secret-host")
    async with polling(service_settings) as client:
        found = await details(client)
        assert (found.unknown_cause, found.worker) == (UnknownCause.NO_RECORD, None)
