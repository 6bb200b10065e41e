"""A client sees what happens to jobs in a worker process."""

import asyncio
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from arq.connections import RedisSettings
from tests.processes import running, service
from tests.records import key

from jobstatus import JobDetails, job_uuid
from jobstatus.arq import create_pool
from jobstatus_client import Client, WaitTimeoutError

WORKER = ("jobstatus-worker", "tests.worker.arq.app.WorkerSettings")


def enqueue(redis_url: str, function: str, *args: Any) -> str:
    """Enqueue a job; return its id."""

    async def once() -> str:
        pool = await create_pool(RedisSettings.from_dsn(redis_url))
        job = await pool.enqueue_job(function, *args)
        await pool.aclose()
        assert job is not None
        return job.job_id

    return asyncio.run(once())


@pytest.fixture
def client(service_url: str) -> Iterator[Client]:
    """Run the service, and return a client of it."""
    with service(service_url, JOBSTATUS_LEASE="1") as http:
        with Client(str(http.base_url), "secret") as client:
            yield client


def test_outcomes(redis_url: str, client: Client) -> None:
    """A job that succeeds shows rising progress; others show that they failed or are retried."""
    succeeding = enqueue(redis_url, "steps", 10, 0.1)
    failing = enqueue(redis_url, "fail")
    retried = enqueue(redis_url, "again", 1)
    assert client.get(succeeding).state == "pending"
    with running(*WORKER, TEST_REDIS_URL=redis_url):
        seen: dict[UUID, list[JobDetails]] = {}
        for status in client.watch([succeeding, failing, retried]):
            seen.setdefault(status.id, []).append(status)
    steps = seen[job_uuid(succeeding)]
    progress = [status.progress for status in steps]
    assert progress == sorted(progress)
    assert len(set(progress)) >= 4
    assert (steps[-1].state, steps[-1].progress) == ("succeeded", 100)
    failed = seen[job_uuid(failing)][-1]
    assert (failed.state, failed.reason) == ("failed", "ValueError: no such customer")
    states = [status.state for status in seen[job_uuid(retried)]]
    assert "retrying" in states
    assert states[-1] == "succeeded"


def test_killed_worker(redis_url: str, client: Client, redis: Any) -> None:
    """A job whose worker was killed is unknown when its lease has expired, and is run again."""
    environ = {"JOBSTATUS_LEASE": "1", "TEST_REDIS_URL": redis_url}
    job_id = enqueue(redis_url, "sleep", 2)
    with running(*WORKER, **environ) as worker:
        for status in client.watch(job_id):
            if status.has_progress:
                break
        worker.kill()
        with pytest.raises(WaitTimeoutError, match="unknown for too long"):
            client.wait(job_id, unknown=0, timeout=3)
    status = client.details(job_id)
    assert (status.state, status.unknown_cause) == ("unknown", "lease_expired")
    assert status.reason.startswith("no report for over 1 s; the last state was in_progress")
    assert (status.name, status.progress) == ("sleep", 10)
    # arq runs the job again when this key has expired: the longest job timeout plus 10 s.
    redis.delete(f"arq:in-progress:{job_id}")
    with running(*WORKER, **environ):
        assert client.wait(job_id, timeout=40).state == "succeeded"
    assert redis.hget(key(job_id), "attempt") == "2"
