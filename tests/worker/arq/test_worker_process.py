"""Real worker processes: signals, crashes, and the command line."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from arq.jobs import Job
from tests.processes import ROOT
from tests.worker.arq.conftest import WorkerProcess, soon

from jobstatus.arq import StatusRedis

Read = Callable[[str], dict[str, str]]
Spawn = Callable[..., WorkerProcess]


async def start(pool: StatusRedis, function: str, *args: Any) -> str:
    job = await pool.enqueue_job(function, *args)
    assert job is not None
    return job.job_id


async def running(status: Read, job_id: str) -> None:
    await soon(lambda: status(job_id).get("state") == "in_progress", 20)


async def test_sigterm(pool: StatusRedis, status: Read, spawn: Spawn) -> None:
    """A worker that is told to stop hands its job back: it is retrying, then runs elsewhere."""
    job_id = await start(pool, "sleep", 1.5)
    worker = spawn()
    await running(status, job_id)
    worker.send(signal.SIGTERM)
    code, _ = await asyncio.to_thread(worker.end)
    assert code == 0
    shown = status(job_id)
    assert (shown["state"], shown["reason"]) == (
        "retrying",
        "attempt 1 of 5 was cut short: its worker is shutting down; next at once",
    )
    spawn()
    await soon(lambda: status(job_id)["state"] == "succeeded", 20)
    assert status(job_id)["attempt"] == "2"


async def test_sigterm_with_completion_wait(pool: StatusRedis, status: Read, spawn: Spawn) -> None:
    """A worker that waits for completion finishes its job before it stops."""
    job_id = await start(pool, "sleep", 1)
    worker = spawn("Patient")
    await running(status, job_id)
    worker.send(signal.SIGTERM)
    code, _ = await asyncio.to_thread(worker.end)
    assert code == 0
    assert status(job_id)["state"] == "succeeded"


async def test_sigterm_in_a_start_hook(
    pool: StatusRedis, redis: Any, status: Read, spawn: Spawn, tmp_path: Path
) -> None:
    """A worker that is told to stop in a start hook stops; the job is as pending as it was."""
    job_id = await start(pool, "add", 1, 2)
    mark = tmp_path / "mark"
    worker = spawn("SlowStart", TEST_MARK=str(mark))
    await soon(mark.exists, 20)
    worker.send(signal.SIGTERM)
    await asyncio.to_thread(worker.end)
    assert status(job_id)["state"] == "pending"
    redis.delete(f"arq:in-progress:{job_id}")
    spawn()
    await soon(lambda: status(job_id)["state"] == "succeeded", 20)


@pytest.mark.parametrize(
    ("settings", "state", "reason"),
    [
        ("BadStart", "pending", None),
        (
            "BadEnd",
            "retrying",
            "attempt 1 was cut short: RuntimeError: hook stopped its worker; next within 45 s",
        ),
        ("BadAfter", "succeeded", None),
    ],
)
async def test_hook_that_raises(
    pool: StatusRedis,
    status: Read,
    spawn: Spawn,
    settings: str,
    state: str,
    reason: str | None,
) -> None:
    """A user's hook that raises stops the worker, as in arq, and the record tells the truth."""
    job_id = await start(pool, "add", 1, 2)
    code, output = await asyncio.to_thread(spawn(settings).end, 20)
    assert code == 1, output
    assert "RuntimeError: hook" in output
    shown = status(job_id)
    assert (shown["state"], shown.get("reason")) == (state, reason)


async def test_system_exit(pool: StatusRedis, status: Read, spawn: Spawn) -> None:
    """A job that ends its process is retrying: arq runs it again."""
    job_id = await start(pool, "exit_now")
    code, _ = await asyncio.to_thread(spawn().end, 20)
    assert code == 3
    shown = status(job_id)
    assert (shown["state"], shown["reason"]) == (
        "retrying",
        "attempt 1 was cut short: SystemExit: 3 stopped its worker; next within 45 s",
    )


async def test_zombie(pool: StatusRedis, redis: Any, status: Read, spawn: Spawn) -> None:
    """A worker that was frozen while its job ran elsewhere changes nothing when it comes back."""
    job_id = await start(pool, "sleep", 0.8)
    zombie = spawn("Quick", JOBSTATUS_LEASE="1")
    await running(status, job_id)
    zombie.send(signal.SIGSTOP)
    # arq lets others run the job when this key expires: 1 + 10 s after it was taken.
    await soon(lambda: not redis.exists(f"arq:in-progress:{job_id}"), 15)
    spawn("Quick", JOBSTATUS_LEASE="1")
    await soon(lambda: status(job_id)["attempt"] == "2", 20)
    seen = {status(job_id)["state"]}
    zombie.send(signal.SIGCONT)

    def over() -> bool:
        shown = status(job_id)
        assert shown["attempt"] == "2"
        seen.add(shown["state"])
        return shown["state"] != "in_progress"

    await soon(over, 20)
    assert status(job_id)["state"] == "succeeded"
    assert seen == {"in_progress", "succeeded"}
    assert await Job(job_id, pool).result(timeout=5) == "awake"
    result = await Job(job_id, pool).result_info()
    assert result is not None
    assert result.job_try == 2
    zombie.send(signal.SIGTERM)
    _, output = await asyncio.to_thread(zombie.end)
    assert "this outcome is discarded" in output


def arq(*arguments: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", "from jobstatus.worker_command import main; main()", *arguments],
        env={**os.environ, **environ},
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )


async def test_check(redis: Any, redis_url: str, spawn: Spawn) -> None:
    """`--check` says by its exit status whether a worker is well."""
    settings = "tests.worker.arq.app.WorkerSettings"
    before = await asyncio.to_thread(arq, settings, "--check", TEST_REDIS_URL=redis_url)
    assert before.returncode == 1
    spawn()
    await soon(lambda: redis.exists("arq:queue:health-check"), 20)
    after = await asyncio.to_thread(arq, settings, "--check", TEST_REDIS_URL=redis_url)
    assert after.returncode == 0


async def test_burst(redis_url: str, pool: StatusRedis, status: Read) -> None:
    """`--burst` ends when the queue is empty; inherited settings count."""
    job_id = await start(pool, "add", 1, 2)
    result = await asyncio.to_thread(
        arq, "tests.worker.arq.app.WorkerSettings", "--burst", TEST_REDIS_URL=redis_url
    )
    assert result.returncode == 0, result.stderr
    assert status(job_id)["state"] == "succeeded"


async def test_watch(pool: StatusRedis, status: Read, spawn: Spawn, tmp_path: Path) -> None:
    """`--watch` reloads when a file changes, and goes on showing status."""
    worker = spawn("WorkerSettings", "--watch", str(tmp_path))
    first = await start(pool, "add", 1, 2)
    await soon(lambda: status(first)["state"] == "succeeded", 20)
    running_job = await start(pool, "sleep", 1)
    await running(status, running_job)
    (tmp_path / "new.py").write_text("x = 1\n")
    await soon(lambda: status(running_job)["attempt"] == "2", 20)
    await soon(lambda: status(running_job)["state"] == "succeeded", 20)
    worker.send(signal.SIGTERM)
    await asyncio.to_thread(worker.end)
    assert status(first)["state"] == "succeeded"
