"""A step of a job that runs in another process.

The two processes share a small file in memory: where the step runs, a thread writes into it how
far it is; where the job runs, the publisher reads it like any other sample.
"""

import contextlib
import mmap
import os
import struct
import tempfile
import threading
import weakref
from contextvars import Token
from pathlib import Path
from typing import Final

from jobstatus.reporting.report import RUNNING, JobReport, Step
from jobstatus.reporting.sanitize import log_ignored_error
from jobstatus.status import one_line

_REASON: Final = 240
"""Bytes of a reason that fit in."""

_FORMAT: Final = struct.Struct(f"=dH{_REASON}s")  # percent or NaN, the reason's length, the reason

_INTERVAL: Final = 0.1
"""Seconds between two samples."""


class SharedStep:
    """A handle of a step, to be pickled and given to another process.

    There, `with handle as report:` makes the step the `current_job()` of the block, and complete
    when the block ends without an error.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._stop = threading.Event()
        self._token: Token[JobReport] | None = None

    def __reduce__(self) -> tuple[type["SharedStep"], tuple[str]]:
        return SharedStep, (self._path,)

    def __enter__(self) -> JobReport:
        self._report = JobReport()
        self._thread = threading.Thread(target=self._run, name="jobstatus-step", daemon=True)
        self._token = RUNNING.set(self._report)
        self._thread.start()
        return self._report

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is None:
            self._report.progress(100)
        self._stop.set()
        self._thread.join()
        if self._token is not None:
            with contextlib.suppress(ValueError):  # left in another context than entered
                RUNNING.reset(self._token)

    def _run(self) -> None:
        # The job may be over, and its file gone; nobody asks then.
        with (
            contextlib.suppress(OSError),
            Path(self._path).open("r+b") as file,
            mmap.mmap(file.fileno(), _FORMAT.size) as memory,
        ):
            stopped = False
            while not stopped:
                stopped = self._stop.wait(_INTERVAL)
                self._report.take_samples()
                _write(memory, *self._report.read())


def share(step: Step) -> SharedStep:
    """A handle of the step for another process, which reports for it from there.

    Where no temporary file can be made the handle works all the same, but nothing is reported.
    """
    try:
        descriptor, path = tempfile.mkstemp(prefix="jobstatus-step-")
        os.truncate(descriptor, _FORMAT.size)
        memory = mmap.mmap(descriptor, _FORMAT.size)
    except OSError as error:
        log_ignored_error("a step can't be shared", error)
        return SharedStep("")
    os.close(descriptor)
    _write(memory, None, "")
    weakref.finalize(step, _remove, path, os.getpid())

    def fraction() -> float:
        percent, length, reason = _FORMAT.unpack_from(memory)
        if length:
            step.reason = reason[:length].decode("utf-8", "ignore")
            step.is_running = percent < 100  # noqa: PLR2004 - percent
        return float(percent) / 100

    step.sample(fraction)
    return SharedStep(path)


def _write(memory: mmap.mmap, percent: float | None, reason: str) -> None:
    text = one_line(reason, _REASON).encode()[:_REASON]
    _FORMAT.pack_into(memory, 0, float("nan") if percent is None else percent, len(text), text)


def _remove(path: str, pid: int) -> None:
    if os.getpid() == pid:  # not in a forked child
        with contextlib.suppress(OSError):
            Path(path).unlink()
