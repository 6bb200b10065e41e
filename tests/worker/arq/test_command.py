"""The command `jobstatus-worker`: its options, settings, logs and errors."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.processes import run
from tests.worker.arq.conftest import ReadStatus, Spawn, enqueue, soon

from jobstatus.arq import StatusRedis
from jobstatus.arq.command import cli

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
    assert status == 2
    assert output.startswith(f"jobstatus-worker: {variable}")
    assert word in output
    assert "DEF" not in output
    assert output.count("\n") == 1


BROKEN = {
    "no_such_module": "import nowhere\n",
    "raises": "def fail():\n    raise RuntimeError('no licence')\n\nfail()\n",
    "syntax": "class WorkerSettings(\n",
    "fine": "class Empty: pass\n\nclass Wrong:\n    functions = ['fine.nothing']\n",
}


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("WorkerSettings", "can't import WorkerSettings: "),
        ("nowhere.WorkerSettings", "can't import nowhere.WorkerSettings: No module named"),
        ("fine.Nothing", 'can\'t import fine.Nothing: Module "fine" does not define a "Nothing"'),
        ("fine:Empty", "can't import fine:Empty: write the path with dots only, as fine.Empty"),
        ("fine.Empty", "fine.Empty can't be used: at least one function or cron_job must be"),
        ("fine.Wrong", 'fine.Wrong can\'t be used: Module "fine" does not define a "nothing"'),
        ("no_such_module.Settings", "ModuleNotFoundError: No module named 'nowhere' ("),
        ("raises.Settings", "RuntimeError: no licence ("),
        ("syntax.WorkerSettings", "SyntaxError: '(' was never closed ("),
    ],
)
async def test_settings_that_can_not_be_used(
    path: str, error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings that can't be imported or used stop the worker with one line; 2 is its status."""
    for name, text in BROKEN.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("logging.config.dictConfig", lambda _: None)
    result = CliRunner().invoke(cli, [path])
    for name in BROKEN:
        sys.modules.pop(name, None)
    assert result.exit_code == 2
    assert result.output.startswith("jobstatus-worker: ")
    assert error in result.output
    assert result.output.count("\n") == 1


def test_verbose(tmp_path: Path) -> None:
    """`--verbose` shows the traceback before the line."""
    (tmp_path / "raises.py").write_text(BROKEN["raises"])
    environ = {"PYTHONPATH": str(tmp_path)}
    status, output = run("jobstatus-worker", "raises.Settings", "--verbose", **environ)
    assert status == 2
    assert output.startswith("Traceback")
    assert "    raise RuntimeError('no licence')" in output
    assert output.splitlines()[-1].startswith("jobstatus-worker: can't import raises.Settings: ")


def wrong_url(url: str, what: str) -> str:
    """Return a URL at which nobody listens, or with a login that does not exist."""
    return "redis://127.0.0.1:1" if what == "address" else url.replace("worker:worker", "no:no")


@pytest.mark.parametrize("what", ["address", "password"])
def test_queue_that_can_not_be_used(redis_url: str, what: str) -> None:
    """A wrong address or password of the queue is one line that names the settings."""
    url = wrong_url(redis_url, what)
    app = "tests.worker.arq.app.NoPatience"
    status, output = run("jobstatus-worker", app, TEST_REDIS_URL=url)
    assert status == 2
    line = output.splitlines()[-1]
    assert line.startswith("jobstatus-worker: can't use the queue's Redis at 127.0.0.1:")
    assert f"(named by the settings of {app})" in line
    assert "Traceback" not in output


async def test_status_that_can_not_be_used(pool: StatusRedis, redis_url: str, spawn: Spawn) -> None:
    """A wrong password of the status's Redis is a warning that names the setting; jobs are run."""
    url = wrong_url(redis_url, "password")
    job = await pool.enqueue_job("add", 1, 2)
    assert job is not None
    worker = spawn(JOBSTATUS_REDIS_URL=url)
    assert await job.result(timeout=20) == 3
    _, output = await worker.stop()
    warning = "can't use the Redis of the status, which JOBSTATUS_REDIS_URL names"
    assert output.count(warning) == 1


def test_module() -> None:
    """`python -m jobstatus.arq` is the same command."""
    result = subprocess.run(
        [sys.executable, "-m", "jobstatus.arq", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.startswith("Usage: python -m jobstatus.arq [OPTIONS] WORKER_SETTINGS")
