"""The command `jobstatus-worker`: its options, settings, logs and errors."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from tests.processes import run
from tests.worker.arq.conftest import ReadStatus, Spawn, enqueue, soon

from jobstatus.arq import StatusRedis

SETTINGS = "tests.worker.arq.app.WorkerSettings"


def test_help() -> None:
    """`--help` describes the options and environment variables."""
    code, output = run("jobstatus-worker", "--help")
    assert code == 0
    assert all(word in output for word in ("--burst", "--watch", "--check", "JOBSTATUS_LEASE"))


async def test_check(redis: Any, redis_url: str, spawn: Spawn) -> None:
    """`--check` exits with 0 if a worker is healthy, otherwise with 1."""
    before, _ = await asyncio.to_thread(
        run, "jobstatus-worker", SETTINGS, "--check", TEST_REDIS_URL=redis_url
    )
    assert before == 1
    spawn()
    await soon(lambda: redis.exists("arq:queue:health-check"), 20)
    after, _ = await asyncio.to_thread(
        run, "jobstatus-worker", SETTINGS, "--check", TEST_REDIS_URL=redis_url
    )
    assert after == 0


async def test_burst(redis_url: str, pool: StatusRedis, status: ReadStatus) -> None:
    """`--burst` exits when the queue is empty; inherited settings are used."""
    job_id = await enqueue(pool, "add", 1, 2)
    code, output = await asyncio.to_thread(
        run, "jobstatus-worker", SETTINGS, "--burst", TEST_REDIS_URL=redis_url
    )
    assert code == 0, output
    assert status(job_id)["state"] == "succeeded"


async def test_watch(pool: StatusRedis, status: ReadStatus, spawn: Spawn, tmp_path: Path) -> None:
    """`--watch` restarts the worker when a file changes, and the worker still publishes."""
    worker = spawn("WorkerSettings", "--watch", str(tmp_path))
    first = await enqueue(pool, "add", 1, 2)
    await soon(lambda: status(first)["state"] == "succeeded", 20)
    interrupted = await enqueue(pool, "sleep", 1)
    await soon(lambda: status(interrupted)["state"] == "in_progress", 20)
    (tmp_path / "new.py").write_text("x = 1\n")
    await soon(lambda: status(interrupted)["attempt"] == "2", 20)
    await soon(lambda: status(interrupted)["state"] == "succeeded", 20)
    await worker.stop()


async def test_json_logs(pool: StatusRedis, spawn: Spawn, status: ReadStatus) -> None:
    """Every line of the log is a JSON object, and names the job that it is about."""
    worker = spawn(JOBSTATUS_LOG_FORMAT="json")
    job_id = await enqueue(pool, "fail")
    await soon(lambda: status(job_id).get("state") == "failed")
    _, output = await worker.stop()
    lines = [json.loads(line) for line in output.splitlines()]
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    (failure,) = [line for line in lines if "no such customer" in line.get("exception", "")]
    assert failure["job_id"] == job_id
    assert failure["level"] == "error"


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
def test_invalid_settings(variable: str, value: str, word: str) -> None:
    """An invalid setting stops the worker with one line that names the variable."""
    status, output = run("jobstatus-worker", "tests.deploy.app.WorkerSettings", **{variable: value})
    assert status == 1
    assert output.startswith(f"jobstatus-worker: {variable}")
    assert word in output
    assert "DEF" not in output
    assert output.count("\n") == 1


@pytest.mark.parametrize(
    "path", ["WorkerSettings", "nowhere.WorkerSettings", "tests.worker.arq.app.Nothing"]
)
def test_settings_that_do_not_exist(path: str) -> None:
    """A path that can't be imported stops the worker with one line that contains the path."""
    status, output = run("jobstatus-worker", path)
    assert status == 1
    assert output.startswith(f"jobstatus-worker: can't import {path}: ")
    assert output.count("\n") == 1
