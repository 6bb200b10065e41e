"""A poller sees over HTTP what happens to jobs in a worker process."""

import asyncio
from typing import Any

import httpx
from arq.connections import RedisSettings
from tests.processes import running, service
from tests.records import key
from tests.waiting import eventually

from jobstatus.arq import create_pool

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


def poll(client: httpx.Client, job_id: str) -> dict[str, Any]:
    """Return the status of a job that the service shows."""
    response = client.get(f"/api/jobs/{job_id}")
    assert response.status_code == 200
    body: dict[str, Any] = response.json()
    return body


def test_outcomes(redis_url: str, service_url: str) -> None:
    """A job that succeeds shows rising progress; others show that they failed or are retried."""
    with service(service_url) as client:
        succeeding = enqueue(redis_url, "steps", 10, 0.1)
        failing = enqueue(redis_url, "fail")
        retried = enqueue(redis_url, "again", 1)
        assert poll(client, succeeding)["state"] == "pending"
        with running(*WORKER, TEST_REDIS_URL=redis_url):
            eventually(lambda: poll(client, succeeding)["state"] == "in_progress", 20)
            progress: list[float] = []
            states = set()
            while (body := poll(client, succeeding))["state"] == "in_progress":
                progress.append(body["progress"])
                states.add(poll(client, retried)["state"])
            assert progress == sorted(progress)
            assert len(set(progress)) >= 4
            assert (body["state"], body["progress"]) == ("succeeded", 100)
            assert "retrying" in states
            body = poll(client, failing)
            assert (body["state"], body["reason"]) == ("failed", "ValueError: no such customer")
            eventually(lambda: poll(client, retried)["state"] == "succeeded", 15)


def test_killed_worker(redis_url: str, service_url: str, redis: Any) -> None:
    """A job whose worker was killed is unknown when its lease has expired, and is run again."""
    environ = {"JOBSTATUS_LEASE": "1", "TEST_REDIS_URL": redis_url}
    with service(service_url, JOBSTATUS_LEASE="1") as client:
        job_id = enqueue(redis_url, "sleep", 2)
        with running(*WORKER, **environ) as worker:
            eventually(lambda: poll(client, job_id)["has_progress"], 20)
            worker.kill()
            eventually(lambda: poll(client, job_id)["state"] == "unknown", 2)
        body = poll(client, job_id)
        assert body["reason"].startswith("no report for over 1 s; the last state was in_progress")
        assert (body["name"], body["progress"]) == ("sleep", 10)
        # arq runs the job again when this key has expired: the longest job timeout plus 10 s.
        redis.delete(f"arq:in-progress:{job_id}")
        with running(*WORKER, **environ):
            eventually(lambda: poll(client, job_id)["state"] == "in_progress", 20)
            eventually(lambda: poll(client, job_id)["state"] == "succeeded", 20)
        assert redis.hget(key(job_id), "attempt") == "2"
