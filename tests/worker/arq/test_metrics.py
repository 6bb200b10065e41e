"""The metrics and the liveness probe of a worker."""

import asyncio
import signal
import socket
import subprocess
import sys
import time
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families
from tests.processes import free_port, run
from tests.worker.arq.conftest import ReadStatus, Spawn, enqueue, soon

from jobstatus.arq import StatusRedis

QUEUE_AGE = "jobstatus_queue_oldest_job_age_seconds|arq:queue"


def metrics(port: int) -> dict[str, float]:
    """Return every sample, by its name and labels."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = "".join(f"|{value}" for value in sample.labels.values())
            found[sample.name + labels] = sample.value
    return found


def is_alive(port: int) -> bool:
    """Return whether the liveness probe succeeds."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}/livez").status_code == 200
    except httpx.TransportError:
        return False


async def test_metrics(pool: StatusRedis, spawn: Spawn, status: ReadStatus) -> None:
    """The metrics contain running jobs, outcomes, reports, and the jobs in the queue."""
    port = free_port()
    worker = spawn(JOBSTATUS_METRICS_PORT=str(port))
    await soon(lambda: is_alive(port))
    for n in range(3):
        await enqueue(pool, "add", 1, n)
    failing = await enqueue(pool, "fail")
    await soon(lambda: status(failing).get("state") == "failed")
    running = await enqueue(pool, "steps", 100, 0.05)
    await soon(lambda: float(status(running).get("progress", 0)) > 5)
    await enqueue(pool, "add", 1, 1, _defer_by=60)
    found = metrics(port)
    assert found["jobstatus_worker_attempts_total|arq:queue|succeeded"] == 3
    assert found["jobstatus_worker_attempts_total|arq:queue|failed"] == 1
    assert found["jobstatus_worker_jobs_running|arq:queue"] == 1
    assert found["jobstatus_queue_jobs|arq:queue"] == 2
    assert found[QUEUE_AGE] == 0
    assert found["jobstatus_worker_reports_total|written"] >= 3
    assert found["jobstatus_worker_final_states_pending"] == 0
    assert found["jobstatus_worker_redis_errors_total"] == 0
    assert found["jobstatus_worker_redis_up"] == 1
    assert found["jobstatus_worker_report_lag_seconds_count"] >= 1
    assert found["jobstatus_worker_heartbeat_timestamp_seconds"] > 1_700_000_000
    unknown_path = await asyncio.to_thread(httpx.get, f"http://127.0.0.1:{port}/")
    assert unknown_path.status_code == 404
    await worker.stop()


async def test_waiting_and_lost_jobs(
    pool: StatusRedis, spawn: Spawn, status: ReadStatus, redis: Any
) -> None:
    """The metrics contain the age of a waiting job, and attempts that were lost with a worker."""
    first = spawn()
    job_id = await enqueue(pool, "steps", 100, 0.05)
    await soon(lambda: status(job_id).get("state") == "in_progress")
    await first.stop(signal.SIGKILL)
    redis.delete(f"arq:in-progress:{job_id}")  # instead of waiting until it expires
    port = free_port()
    second = spawn(JOBSTATUS_METRICS_PORT=str(port))
    await soon(lambda: status(job_id).get("attempt") == "2")
    await soon(lambda: metrics(port)["jobstatus_worker_attempts_lost_total"] == 1)
    assert metrics(port)[QUEUE_AGE] == 0
    redis.delete(f"arq:in-progress:{job_id}")  # as if no worker ran the job
    await soon(lambda: metrics(port)[QUEUE_AGE] > 0)
    await second.stop(signal.SIGKILL)


async def test_age_behind_running_jobs(
    pool: StatusRedis, spawn: Spawn, status: ReadStatus, redis: Any
) -> None:
    """The age of the oldest waiting job is found behind more running jobs than fit in a page."""
    port = free_port()
    worker = spawn(JOBSTATUS_METRICS_PORT=str(port))
    job_id = await enqueue(pool, "add", 1, 1)
    await soon(lambda: status(job_id).get("state") == "succeeded")
    worker.send(signal.SIGSTOP)  # otherwise it would claim these jobs
    now_ms = time.time() * 1000
    redis.zadd("arq:queue", {f"running-{n}": now_ms - 7_200_000 + n for n in range(2500)})
    redis.mset({f"arq:in-progress:running-{n}": "1" for n in range(2500)})
    redis.zadd("arq:queue", {"waiting": now_ms - 3_600_000})
    worker.send(signal.SIGCONT)
    found = await asyncio.to_thread(metrics, port)
    assert 3_600 <= found[QUEUE_AGE] < 3_700
    await worker.stop(signal.SIGKILL)


async def test_metrics_without_redis(spawn: Spawn, own_valkey: Any) -> None:
    """While Redis is unavailable the worker is alive, and its metrics say that Redis is not up."""
    port = free_port()
    environ = {"TEST_REDIS_URL": own_valkey.connection_url, "JOBSTATUS_METRICS_PORT": str(port)}
    worker = spawn(**environ)
    await soon(lambda: is_alive(port))
    await soon(lambda: metrics(port).get("jobstatus_worker_redis_up") == 1)
    await asyncio.to_thread(own_valkey.terminate)
    await soon(lambda: metrics(port)["jobstatus_worker_redis_up"] == 0)
    assert is_alive(port)
    assert not [name for name in metrics(port) if name.startswith("jobstatus_queue")]
    await worker.stop(signal.SIGKILL)


def test_port_that_is_in_use(redis_url: str) -> None:
    """A port that can't be listened on stops the worker at start, with a line that names it."""
    with socket.socket() as used:
        used.bind(("0.0.0.0", 0))
        used.listen()
        environ = {
            "TEST_REDIS_URL": redis_url,
            "JOBSTATUS_METRICS_PORT": str(used.getsockname()[1]),
        }
        status, output = run("jobstatus-worker", "tests.worker.arq.app.WorkerSettings", **environ)
    assert status == 2
    assert output.splitlines()[-1].startswith("jobstatus-worker: JOBSTATUS_METRICS_PORT: can't")


def test_light_install_has_no_metrics() -> None:
    """Importing `jobstatus.arq` imports neither Prometheus's nor OpenTelemetry's client."""
    code = (
        "import sys, redis.asyncio; before = set(sys.modules); "  # it may import the latter
        "import jobstatus.arq; print(*sys.modules.keys() - before)"
    )
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    names = {name.partition(".")[0] for name in result.stdout.decode().split()}
    assert "jobstatus" in names
    assert not names & {"prometheus_client", "opentelemetry"}
