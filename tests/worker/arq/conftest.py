"""Workers of the test application, in the test's process and in processes of their own."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from arq.connections import RedisSettings
from tests.processes import ROOT, SCRIPTS
from tests.worker.arq import app

from jobstatus import job_uuid
from jobstatus.arq import StatusRedis, StatusWorker, create_pool, create_worker
from jobstatus.settings import PublisherSettings
from jobstatus.status import full_reason

Status = dict[str, str]
ReadStatus = Callable[[str], Status]
Work = Callable[..., Any]


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("JOBSTATUS_"):
            monkeypatch.delenv(name)


@pytest.fixture
async def pool(redis_url: str) -> AsyncIterator[StatusRedis]:
    """Return a pool that publishes what it enqueues as pending."""
    pool = await create_pool(RedisSettings.from_dsn(redis_url))
    yield pool
    await pool.aclose()


async def enqueue(pool: StatusRedis, function: str, *args: Any, **kwargs: Any) -> str:
    """Enqueue a job; return its id."""
    job = await pool.enqueue_job(function, *args, **kwargs)
    assert job is not None
    return job.job_id


async def enqueue_many(pool: StatusRedis, count: int, function: str, *args: Any) -> list[str]:
    """Enqueue equal jobs; return their ids."""
    return [await enqueue(pool, function, *args) for _ in range(count)]


@pytest.fixture
def status(redis: Any) -> ReadStatus:
    """Return a function that reads the record of a job."""

    def read(job_id: str) -> Status:
        fields: Status = redis.hgetall(f"job:{job_uuid(job_id)}")
        return {name: full_reason(value) for name, value in fields.items()}

    return read


def all_are(redis: Any, job_ids: list[str], state: str) -> bool:
    """Return whether all jobs are in the state, in their first attempt."""
    pipe = redis.pipeline()
    for job_id in job_ids:
        pipe.hmget(f"job:{job_uuid(job_id)}", "state", "attempt")
    return {tuple(fields) for fields in pipe.execute()} == {(state, "1")}


@pytest.fixture
async def work(redis_url: str) -> Work:
    """Return a function that runs a worker in this process until the queue is empty."""

    async def run(settings: Any = app.WorkerSettings, **kwargs: Any) -> StatusWorker:
        worker = create_worker(
            settings,
            **{
                "redis_settings": RedisSettings.from_dsn(redis_url),
                "burst": True,
                "poll_delay": 0.02,
                "handle_signals": False,
                "status": PublisherSettings(report_interval=0.02),
                **kwargs,
            },
        )
        try:
            await asyncio.wait_for(worker.main(), 20)
        finally:
            await worker.close()
        return worker

    return run


class WorkerProcess:
    """`jobstatus-worker` in a process of its own."""

    def __init__(self, settings: str, environ: dict[str, str], *options: str) -> None:
        command = SCRIPTS["jobstatus-worker"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", command, f"tests.worker.arq.app.{settings}", *options],
            env={**os.environ, **environ},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        self.process.send_signal(number)

    def end(self, timeout: float = 15) -> tuple[int, str]:
        """Wait until the process exits; return its exit status and its output."""
        output, _ = self.process.communicate(timeout=timeout)
        return self.process.returncode, output

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal and wait until the process exits; return its exit status and output."""
        self.send(number)
        return await asyncio.to_thread(self.end, 25)


Spawn = Callable[..., WorkerProcess]


@pytest.fixture
def spawn(redis_url: str) -> Iterator[Spawn]:
    """Return a function that starts worker processes; they are killed after the test."""
    started: list[WorkerProcess] = []

    def start(settings: str = "WorkerSettings", *options: str, **environ: str) -> WorkerProcess:
        worker = WorkerProcess(settings, {"TEST_REDIS_URL": redis_url, **environ}, *options)
        started.append(worker)
        return worker

    yield start
    for worker in started:
        if worker.process.poll() is None:
            worker.process.send_signal(signal.SIGCONT)
            worker.process.kill()
        worker.process.communicate()


async def soon(check: Callable[[], Any], timeout: float = 10) -> Any:
    """Return the result of `check` as soon as it is true, while the event loop keeps running."""
    deadline = time.monotonic() + timeout
    while not (result := check()):
        assert time.monotonic() < deadline, f"not within {timeout} s; last result: {result!r}"
        await asyncio.sleep(0.01)
    return result
