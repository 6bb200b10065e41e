"""A real worker process and a real service process, seen by a poller over HTTP."""

import asyncio
from typing import Any

import httpx
from arq.connections import RedisSettings
from tests.processes import running, service
from tests.waiting import eventually

from jobstatus import job_uuid
from jobstatus.arq import create_pool

WORKER = ("jobstatus-worker", "tests.worker.arq.app.WorkerSettings")


def enqueue(redis_url: str, function: str, *args: Any) -> str:
    async def once() -> str:
        pool = await create_pool(RedisSettings.from_dsn(redis_url))
        job = await pool.enqueue_job(function, *args)
        await pool.aclose()
        assert job is not None
        return job.job_id

    return asyncio.run(once())


def poll(client: httpx.Client, job_id: str) -> dict[str, Any]:
    response = client.get(f"/api/jobs/{job_id}")
    assert response.status_code == 200
    body: dict[str, Any] = response.json()
    return body


def test_lives_of_jobs(redis_url: str, service_url: str) -> None:
    """Success with rising progress, a failure and a retry are seen as they happen."""
    with service(service_url) as client:
        good = enqueue(redis_url, "steps", 10, 0.1)
        bad = enqueue(redis_url, "fail")
        again = enqueue(redis_url, "again", 1)
        assert poll(client, good)["state"] == "pending"
        with running(*WORKER, TEST_REDIS_URL=redis_url):
            eventually(lambda: poll(client, good)["state"] == "in_progress", 20)
            seen: list[float] = []
            states = set()
            while (body := poll(client, good))["state"] == "in_progress":
                seen.append(body["progress"])
                states.add(poll(client, again)["state"])
            assert seen == sorted(seen)
            assert len(set(seen)) >= 4
            assert (body["state"], body["progress"]) == ("succeeded", 100)
            assert "retrying" in states
            failed = poll(client, bad)
            assert (failed["state"], failed["reason"]) == (
                "failed",
                "ValueError: no such customer",
            )
            eventually(lambda: poll(client, again)["state"] == "succeeded", 15)


def test_killed_worker(redis_url: str, service_url: str, redis: Any) -> None:
    """A job whose worker was killed is unknown within a lease, then goes on elsewhere."""
    lease = {"JOBSTATUS_LEASE": "1", "TEST_REDIS_URL": redis_url}
    with service(service_url, JOBSTATUS_LEASE="1") as client:
        job_id = enqueue(redis_url, "sleep", 2)
        with running(*WORKER, **lease) as worker:
            eventually(lambda: poll(client, job_id)["has_progress"], 20)
            worker.kill()
            eventually(lambda: poll(client, job_id)["state"] == "unknown", 2)
        body = poll(client, job_id)
        assert body["reason"].startswith("no report for over 1 s; the last state was in_progress")
        assert (body["name"], body["progress"]) == ("sleep", 10)
        # arq runs the job again when this key expires: the longest timeout and 10 s later.
        redis.delete(f"arq:in-progress:{job_id}")
        with running(*WORKER, **lease):
            eventually(lambda: poll(client, job_id)["state"] == "in_progress", 20)
            eventually(lambda: poll(client, job_id)["state"] == "succeeded", 20)
        assert redis.hget(f"job:{job_uuid(job_id)}", "attempt") == "2"
