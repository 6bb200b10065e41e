"""Run the recipes for other queues: their modules, the queue's own worker, and a client.

The jobs of the tests, and their clients, wait for gates: files that the test creates.
"""

import contextlib
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from tests.processes import ROOT, environment, stopping
from tests.records import key, read
from tests.waiting import eventually

from jobstatus.status import JobState, Record

T = TypeVar("T")

MODULES: Final[dict[str, str]] = dict(
    re.findall(
        r"<!-- a worker runs this: (\S+) -->\n```python\n(.*?)```",
        (ROOT / "worker" / "README.md").read_text(encoding="utf-8"),
        re.DOTALL,
    )
)
"""The code of the recipes by file name."""

_BROKER_URL: Final = "redis://127.0.0.1:6379/1"
"""The broker of the recipes."""

_GATES: Final = """
import asyncio
import time
from pathlib import Path


def wait_for(gate):
    while not (Path(gate).exists() or Path("end").exists()):
        time.sleep(0.01)


async def wait_async(gate):
    while not (Path(gate).exists() or Path("end").exists()):
        await asyncio.sleep(0.01)
"""

_START_SECONDS: Final = 60.0
"""Seconds within which a process that was started must do something, on a busy machine."""


class QueueRecipe:
    """The recipe for one queue in a folder of its own, with the processes that run it.

    Attributes:
        environ: The environment variables of the processes.
    """

    def __init__(self, folder: Path, redis: Any, broker_url: str, redis_url: str) -> None:
        self.environ = environment(JOBSTATUS_REDIS_URL=redis_url, PYTHONPATH=str(folder))
        self._folder = folder
        self._redis = redis
        self._broker_url = broker_url
        self._processes = contextlib.ExitStack()
        self._logs: list[Path] = []
        self._add("gates.py", _GATES)

    def write(self, status: str, app: str, jobs: str) -> None:
        """Write the modules of the recipe.

        Args:
            status: The name of the module that reports.
            app: The name of the application.
            jobs: Jobs to add to the application.
        """
        self._add(status, MODULES[status])
        self._add(app, MODULES[app].replace(_BROKER_URL, self._broker_url) + jobs)

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start `python` with arguments; it is stopped at the end of the test."""
        log = self._folder / f"{len(self._logs)}.log"
        self._logs.append(log)
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=self._folder,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
            )
        self._processes.enter_context(stopping(process))
        return process

    def open(self, gate: str) -> None:
        """Let the processes continue that wait for a gate; `end` opens all gates."""
        (self._folder / gate).touch()

    def record(self, job_id: str) -> Record:
        """Return the record of a job."""
        record = read(self._redis, job_id)
        assert record is not None
        return record

    def has_one_run(self, job_id: str) -> bool:
        """Whether all attempts at a job that was enqueued once belong to one run."""
        return self._redis.hget(key(job_id), "previous") is None

    def until(self, job_id: str, state: str, progress: float | None = None) -> Record:
        """Wait until a job has a state and, unless it is None, a progress; return its record."""

        def found() -> Record | None:
            record = read(self._redis, job_id)
            if record is None or record.state != state:
                return None
            return record if progress in {None, record.progress} else None

        return found_by(found)

    def stop(self) -> None:
        """Stop all processes, and print what they have logged."""
        self.open("end")
        self._processes.close()
        for log in self._logs:
            print(log.read_text())

    def _add(self, name: str, code: str) -> None:
        (self._folder / name).write_text(code, encoding="utf-8")


def found_by(search: Callable[[], T | None]) -> T:
    """Call `search` until it finds something, and return that."""
    found = eventually(search, _START_SECONDS)
    assert found is not None
    return found


def lines_of(process: "subprocess.Popen[str]", number: int = 1) -> list[str]:
    """Return the next lines that a process prints."""
    assert process.stdout is not None
    lines = [process.stdout.readline().strip() for _ in range(number)]
    assert all(lines), "the process has ended; its log is printed below"
    return lines


def check_flow(recipe: QueueRecipe, jobs: list[str]) -> None:
    """Follow jobs from the queue to their outcomes, in a worker that runs two at once.

    Args:
        recipe: The recipe; its gate `retry` is closed.
        jobs: Jobs in the order of the queue. The first reports 30 percent and fails. The second
            reports 50 percent, waits for the gate `retry`, fails, and succeeds when it is tried
            again. The third and the fourth report 20 and 70 percent and wait for the gate `both`.
            The fifth succeeds.
    """
    failing, retried, first, second, waiting = jobs
    failed = recipe.until(failing, "failed")
    assert (failed.reason, failed.progress) == ("ValueError: no such customer", 30)
    before = recipe.until(retried, "in_progress", 50)
    recipe.until(first, "in_progress", 20)
    assert recipe.record(second).state is JobState.PENDING
    recipe.open("retry")
    retrying = recipe.until(retried, "retrying")
    assert "slow" in retrying.reason
    assert (retrying.attempt, retrying.progress, retrying.created) == (1, 50, before.created)
    recipe.until(second, "in_progress", 70)
    assert recipe.record(first).progress == 20
    assert recipe.record(waiting).state is JobState.PENDING
    recipe.open("both")
    for job in (first, second, waiting):
        assert recipe.until(job, "succeeded").progress == 100
    succeeded = recipe.until(retried, "succeeded")
    assert (succeeded.attempt, succeeded.created) == (2, before.created)
