"""Worker processes that are stopped by signals, hooks and exits."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from arq.jobs import Job
from tests.processes import ROOT
from tests.worker.arq.conftest import ReadStatus, Spawn, enqueue, soon

from jobstatus.arq import StatusRedis


async def until_running(status: ReadStatus, job_id: str) -> None:
    """Wait until the job is in progress."""
    await soon(lambda: status(job_id).get("state") == "in_progress", 20)


async def test_sigterm(pool: StatusRedis, status: ReadStatus, spawn: Spawn) -> None:
    """The job of a worker that stops is retrying, then it is run by another worker."""
    job_id = await enqueue(pool, "sleep", 1.5)
    worker = spawn()
    await until_running(status, job_id)
    code, _ = await worker.stop()
    assert code == 0
    record = status(job_id)
    assert (record["state"], record["reason"]) == (
        "retrying",
        "attempt 1 of 5 was cut short: its worker is shutting down; next at once",
    )
    spawn()
    await soon(lambda: status(job_id)["state"] == "succeeded", 20)
    assert status(job_id)["attempt"] == "2"


async def test_sigterm_with_completion_wait(
    pool: StatusRedis, status: ReadStatus, spawn: Spawn
) -> None:
    """A worker with a completion wait finishes its job before it stops."""
    job_id = await enqueue(pool, "sleep", 1)
    worker = spawn("Patient")
    await until_running(status, job_id)
    code, _ = await worker.stop()
    assert code == 0
    assert status(job_id)["state"] == "succeeded"


async def test_sigterm_in_a_start_hook(
    pool: StatusRedis, redis: Any, status: ReadStatus, spawn: Spawn, tmp_path: Path
) -> None:
    """A worker can be stopped in a start hook; its job is still pending."""
    job_id = await enqueue(pool, "add", 1, 2)
    mark = tmp_path / "mark"
    worker = spawn("SlowStart", TEST_MARK=str(mark))
    await soon(mark.exists, 20)
    await worker.stop()
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
    status: ReadStatus,
    spawn: Spawn,
    settings: str,
    state: str,
    reason: str | None,
) -> None:
    """A hook that raises stops the worker, as in arq, and the record contains the cause."""
    job_id = await enqueue(pool, "add", 1, 2)
    code, output = await asyncio.to_thread(spawn(settings).end, 20)
    assert code == 1, output
    assert "RuntimeError: hook" in output
    record = status(job_id)
    assert (record["state"], record.get("reason")) == (state, reason)


async def test_system_exit(pool: StatusRedis, status: ReadStatus, spawn: Spawn) -> None:
    """A job that exits its process is retrying, because arq runs it again."""
    job_id = await enqueue(pool, "exit_now")
    code, _ = await asyncio.to_thread(spawn().end, 20)
    assert code == 3
    record = status(job_id)
    assert (record["state"], record["reason"]) == (
        "retrying",
        "attempt 1 was cut short: SystemExit: 3 stopped its worker; next within 45 s",
    )


async def test_worker_that_was_frozen(
    pool: StatusRedis, redis: Any, status: ReadStatus, spawn: Spawn
) -> None:
    """A worker that was frozen while its job was run elsewhere changes nothing after that."""
    job_id = await enqueue(pool, "sleep", 0.8)
    frozen = spawn("Quick", JOBSTATUS_LEASE="1")
    await until_running(status, job_id)
    frozen.send(signal.SIGSTOP)
    # arq lets other workers run the job when this key has expired, after 1 + 10 s.
    await soon(lambda: not redis.exists(f"arq:in-progress:{job_id}"), 15)
    spawn("Quick", JOBSTATUS_LEASE="1")
    await soon(lambda: status(job_id)["attempt"] == "2", 20)
    seen = {status(job_id)["state"]}
    frozen.send(signal.SIGCONT)

    def has_finished() -> bool:
        record = status(job_id)
        assert record["attempt"] == "2"
        seen.add(record["state"])
        return record["state"] != "in_progress"

    await soon(has_finished, 20)
    assert status(job_id)["state"] == "succeeded"
    assert seen == {"in_progress", "succeeded"}
    assert await Job(job_id, pool).result(timeout=5) == "awake"
    result = await Job(job_id, pool).result_info()
    assert result is not None
    assert result.job_try == 2
    _, output = await frozen.stop()
    assert "the outcome of this run is discarded" in output


async def test_jobs_after_sigterm(pool: StatusRedis, spawn: Spawn, status: ReadStatus) -> None:
    """After SIGTERM no job is claimed, jobs may complete, and the rest is returned to the queue."""
    worker = spawn(JOBSTATUS_JOB_COMPLETION_WAIT="2")
    short = await enqueue(pool, "steps", 20, 0.05)
    long = await enqueue(pool, "steps", 1000, 0.05)
    await until_running(status, short)
    await until_running(status, long)
    worker.send(signal.SIGTERM)
    await soon(lambda: status(short).get("state") == "succeeded")
    late = await enqueue(pool, "add", 1, 1)
    code, output = await asyncio.to_thread(worker.end)
    assert code == 0, output
    assert status(late)["state"] == "pending"
    assert status(long)["state"] == "retrying"
    second = spawn("WorkerSettings", "--burst", JOBSTATUS_JOB_COMPLETION_WAIT="2")
    await soon(lambda: status(late).get("state") == "succeeded")
    await soon(lambda: status(long).get("attempt") == "2")
    await second.stop(signal.SIGKILL)


async def test_sigterm_that_nobody_handles(
    pool: StatusRedis, status: ReadStatus, spawn: Spawn
) -> None:
    """A worker without signal handlers ends at once, and its job is shown as retrying."""
    job_id = await enqueue(pool, "sleep", 30)
    worker = spawn("Unsignalled")
    await until_running(status, job_id)
    code, output = await worker.stop()
    assert code == -signal.SIGTERM
    assert "SIGTERM ends the process at once" in output
    record = status(job_id)
    assert (record["state"], record["reason"]) == (
        "retrying",
        "attempt 1 was cut short: its worker stopped; next within 45 s",
    )


async def test_worker_that_is_not_closed(
    pool: StatusRedis, status: ReadStatus, redis_url: str
) -> None:
    """If the application ends without closing its worker, its job is shown as retrying."""
    job_id = await enqueue(pool, "sleep", 30)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", "from tests.worker.arq import app; app.serve()"),
        cwd=ROOT,
        env={**os.environ, "TEST_REDIS_URL": redis_url},
        stderr=subprocess.PIPE,
    )
    try:
        await until_running(status, job_id)
        process.send_signal(signal.SIGTERM)
        _, output = await asyncio.wait_for(process.communicate(), 20)
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, output
    assert b"without calling worker.close()" in output
    assert status(job_id)["state"] == "retrying"
