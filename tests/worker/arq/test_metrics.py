"""What platform people see of a worker: metrics, probes, logs; and how it leaves."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.processes import free_port, run
from tests.worker.arq.conftest import Status, WorkerProcess, soon

from jobstatus.arq import StatusRedis

Spawn = Callable[..., WorkerProcess]


def numbers(port: int) -> dict[str, float]:
    """Every sample, its labels in its name."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = "".join(f"|{value}" for value in sample.labels.values())
            found[sample.name + labels] = sample.value
    return found


def is_there(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/livez").status_code == 200
    except httpx.TransportError:
        return False


async def test_metrics(pool: StatusRedis, spawn: Spawn, status: Callable[[str], Status]) -> None:
    """A worker tells what it runs, how jobs ended, what it reported, and what waits."""
    port = free_port()
    worker = spawn(JOBSTATUS_METRICS_PORT=str(port))
    await soon(lambda: is_there(port))
    for n in range(3):
        await pool.enqueue_job("add", 1, n, _job_id=f"add-{n}")
    await pool.enqueue_job("fail", _job_id="fail")
    await soon(lambda: status("fail").get("state") == "failed")
    await pool.enqueue_job("steps", 100, 0.05, _job_id="long")
    await soon(lambda: float(status("long").get("progress", 0)) > 5)
    await pool.enqueue_job("add", 1, 1, _job_id="later", _defer_by=60)
    found = numbers(port)
    assert found["jobstatus_worker_attempts_total|arq:queue|succeeded"] == 3
    assert found["jobstatus_worker_attempts_total|arq:queue|failed"] == 1
    assert found["jobstatus_worker_jobs_running|arq:queue"] == 1
    assert found["jobstatus_queue_jobs|arq:queue"] == 2
    assert found["jobstatus_queue_oldest_job_age_seconds|arq:queue"] == 0
    assert found["jobstatus_worker_reports_total|written"] >= 3
    assert found["jobstatus_worker_final_states_pending"] == 0
    assert found["jobstatus_worker_redis_errors_total"] == 0
    assert found["jobstatus_worker_redis_up"] == 1
    assert found["jobstatus_worker_report_lag_seconds_count"] >= 1
    assert found["jobstatus_worker_heartbeat_timestamp_seconds"] > 1_700_000_000
    nowhere = await asyncio.to_thread(httpx.get, f"http://127.0.0.1:{port}/")
    assert nowhere.status_code == 404
    worker.send(signal.SIGTERM)
    await asyncio.to_thread(worker.end)


async def test_waiting_and_lost_jobs(
    pool: StatusRedis, spawn: Spawn, status: Callable[[str], Status], redis: Any
) -> None:
    """The age of a job that waits is told, and so is an attempt that never ended."""
    first = spawn()
    await pool.enqueue_job("steps", 100, 0.05, _job_id="lost")
    await soon(lambda: status("lost").get("state") == "in_progress")
    first.send(signal.SIGKILL)
    await asyncio.to_thread(first.end)
    redis.delete("arq:in-progress:lost")  # instead of waiting until it expires
    port = free_port()
    second = spawn(JOBSTATUS_METRICS_PORT=str(port))
    await soon(lambda: status("lost").get("attempt") == "2")
    await soon(lambda: numbers(port)["jobstatus_worker_attempts_lost_total"] == 1)
    assert numbers(port)["jobstatus_queue_oldest_job_age_seconds|arq:queue"] == 0
    redis.delete("arq:in-progress:lost")  # as if nobody ran it
    await soon(lambda: numbers(port)["jobstatus_queue_oldest_job_age_seconds|arq:queue"] > 0)
    second.send(signal.SIGKILL)
    await asyncio.to_thread(second.end)


async def test_age_behind_jobs_that_run(
    pool: StatusRedis, spawn: Spawn, status: Callable[[str], Status], redis: Any
) -> None:
    """However many jobs run, the age of the first that waits behind them is told."""
    port = free_port()
    worker = spawn(JOBSTATUS_METRICS_PORT=str(port))
    await pool.enqueue_job("add", 1, 1, _job_id="first")
    await soon(lambda: status("first").get("state") == "succeeded")
    worker.send(signal.SIGSTOP)  # or it would take what isn't there
    now = time.time() * 1000
    redis.zadd("arq:queue", {f"runs-{n}": now - 7_200_000 + n for n in range(2500)})
    redis.mset({f"arq:in-progress:runs-{n}": "1" for n in range(2500)})
    redis.zadd("arq:queue", {"waits": now - 3_600_000})
    worker.send(signal.SIGCONT)
    found = await asyncio.to_thread(numbers, port)
    assert 3_600 <= found["jobstatus_queue_oldest_job_age_seconds|arq:queue"] < 3_700
    worker.send(signal.SIGKILL)
    await asyncio.to_thread(worker.end)


async def test_metrics_without_redis(spawn: Spawn, own_valkey: Any) -> None:
    """While Redis is away a worker is alive, and says that Redis is not."""
    port = free_port()
    environ = {"TEST_REDIS_URL": own_valkey.connection_url, "JOBSTATUS_METRICS_PORT": str(port)}
    worker = spawn(**environ)
    await soon(lambda: is_there(port))
    await soon(lambda: numbers(port).get("jobstatus_worker_redis_up") == 1)
    await asyncio.to_thread(own_valkey.terminate)
    await soon(lambda: numbers(port)["jobstatus_worker_redis_up"] == 0)
    assert is_there(port)
    assert not [name for name in numbers(port) if name.startswith("jobstatus_queue")]
    worker.send(signal.SIGKILL)
    await asyncio.to_thread(worker.end)


def test_port_that_is_taken(redis_url: str) -> None:
    """A port that can't be listened on stops the worker at start, with one line that names it."""
    environ = {"TEST_REDIS_URL": redis_url, "JOBSTATUS_METRICS_PORT": "1"}

    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        environ["JOBSTATUS_METRICS_PORT"] = str(taken.getsockname()[1])
        status, output = run("jobstatus-worker", "tests.worker.arq.app.WorkerSettings", **environ)
    assert status == 1
    assert output.splitlines()[-1].startswith("jobstatus-worker: JOBSTATUS_METRICS_PORT: can't")


async def test_json_logs(pool: StatusRedis, spawn: Spawn, status: Callable[[str], Status]) -> None:
    """Every line is a JSON object, and what is about a job names it."""
    worker = spawn(JOBSTATUS_LOG_FORMAT="json")
    await pool.enqueue_job("fail", _job_id="fail")
    await soon(lambda: status("fail").get("state") == "failed")
    worker.send(signal.SIGTERM)
    _, output = await asyncio.to_thread(worker.end)
    lines = [json.loads(line) for line in output.splitlines()]
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    (failure,) = [line for line in lines if "no such customer" in line.get("exception", "")]
    assert failure["job_id"] == "fail"
    assert failure["level"] == "error"


async def test_worker_leaves(
    pool: StatusRedis, spawn: Spawn, status: Callable[[str], Status]
) -> None:
    """On SIGTERM no job is taken any more, what can be completed is, the rest is handed back."""
    worker = spawn(JOBSTATUS_JOB_COMPLETION_WAIT="2")
    await pool.enqueue_job("steps", 20, 0.05, _job_id="short")
    await pool.enqueue_job("steps", 1000, 0.05, _job_id="long")
    await soon(lambda: {status(i).get("state") for i in ("short", "long")} == {"in_progress"})
    worker.send(signal.SIGTERM)
    await soon(lambda: status("short").get("state") == "succeeded")
    await pool.enqueue_job("add", 1, 1, _job_id="late")
    code, output = await asyncio.to_thread(worker.end)
    assert code == 0, output
    assert status("late")["state"] == "pending"
    assert status("long")["state"] == "retrying"
    again = spawn("WorkerSettings", "--burst", JOBSTATUS_JOB_COMPLETION_WAIT="2")
    await soon(lambda: status("late").get("state") == "succeeded")
    await soon(lambda: status("long").get("attempt") == "2")
    again.send(signal.SIGKILL)
    await asyncio.to_thread(again.end)


@pytest.mark.parametrize(
    ("variable", "value", "word"),
    [
        ("JOBSTATUS_METRICS_PORT", "70000", "65535"),
        ("JOBSTATUS_LOG_FORMAT", "xml", "json"),
        ("JOBSTATUS_JOB_COMPLETION_WAIT", "-1", "seconds"),
        ("JOBSTATUS_QUEUE_URL", "redis+cluster://h:1", "Cluster"),
        ("JOBSTATUS_REDIS_CA_FILE", "/nonexistent", "No such file"),
        ("JOBSTATUS_REDIS_URL", "redis://u:DEF/secret@h:1", "percent-encode"),
        ("JOBSTATUS_REDIS_URL", "redis://h/x", "number"),
        ("JOBSTATUS_TRACES", "secretly", "1 or 0"),
    ],
)
def test_settings_that_cannot_be(variable: str, value: str, word: str) -> None:
    """A setting that can't be used is one line that names it."""
    status, output = run("jobstatus-worker", "tests.deploy.app.WorkerSettings", **{variable: value})
    assert status == 1
    assert output.startswith(f"jobstatus-worker: {variable}: ")
    assert word in output
    assert "DEF" not in output
    assert output.count("\n") == 1


def test_light_install_has_no_metrics() -> None:
    """The package itself knows neither Prometheus nor OpenTelemetry."""
    code = "import sys, jobstatus.arq; print(*sys.modules)"

    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    names = {name.partition(".")[0] for name in result.stdout.decode().split()}
    assert not names & {"prometheus_client", "opentelemetry"}
