"""Workers of the test application, in the test's process and in processes of their own."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from arq.connections import RedisSettings
from tests.worker.arq import app

from jobstatus import job_uuid
from jobstatus.arq import StatusRedis, StatusWorker, create_pool, create_worker
from jobstatus.settings import PublisherSettings

Status = dict[str, str]
COMMAND = "from jobstatus.worker_command import main; main()"


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("JOBSTATUS_"):
            monkeypatch.delenv(name)


@pytest.fixture
async def pool(redis_url: str) -> AsyncIterator[StatusRedis]:
    """A pool that shows what it enqueues as pending."""
    pool = await create_pool(RedisSettings.from_dsn(redis_url))
    yield pool
    await pool.aclose()


@pytest.fixture
def status(redis: Any) -> Callable[[str], Status]:
    """Reads what stands in Redis about a job."""

    def read(job_id: str) -> Status:
        fields: Status = redis.hgetall(f"job:{job_uuid(job_id)}")
        return fields

    return read


@pytest.fixture
async def work(redis_url: str) -> Callable[..., Any]:
    """Runs a worker in this process until the queue is empty."""

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
        self.process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, f"tests.worker.arq.app.{settings}", *options],
            env={**os.environ, **environ},
            cwd=Path(__file__).parents[3],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def send(self, number: signal.Signals) -> None:
        """Send a signal to it."""
        self.process.send_signal(number)

    def end(self, timeout: float = 15) -> tuple[int, str]:
        """Wait for its end; its exit status and what it printed."""
        output, _ = self.process.communicate(timeout=timeout)
        return self.process.returncode, output


@pytest.fixture
def spawn(redis_url: str) -> Iterator[Callable[..., WorkerProcess]]:
    """Starts worker processes; those that still run at the end are killed."""
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


async def soon(look: Callable[[], Any], timeout: float = 10) -> Any:
    """What `look` returns as soon as that is true, while the event loop runs on."""
    deadline = time.monotonic() + timeout
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {timeout} s; the last look: {found!r}"
        await asyncio.sleep(0.01)
    return found
