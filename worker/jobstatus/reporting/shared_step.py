"""A step of a job that runs in another process.

The two processes share a small memory-mapped file. Where the step runs, a thread writes its
progress into the file; where the job runs, the publisher reads it as a progress function.
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

from jobstatus.reporting.report import CURRENT_REPORT, JobReport, Step
from jobstatus.reporting.report_reader import ReportReader
from jobstatus.reporting.sanitize import log_ignored_error
from jobstatus.status import one_line

_MAX_REASON_BYTES: Final = 240

_FORMAT: Final = struct.Struct(f"=dH{_MAX_REASON_BYTES}s")
"""Percent, or NaN for none; size of the reason in bytes; reason in UTF-8."""

_WRITE_INTERVAL_SECONDS: Final = 0.1


class SharedStep:
    """A step that can be pickled and sent to another process.

    There, `with shared_step as report:` makes the step the `current_job()` of the block, and
    complete when the block ends without an error.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._stop = threading.Event()
        self._token: Token[JobReport] | None = None

    def __repr__(self) -> str:
        return f"<SharedStep {self._path!r}>"

    def __reduce__(self) -> tuple[type["SharedStep"], tuple[str]]:
        return SharedStep, (self._path,)

    def __enter__(self) -> JobReport:
        self._report = JobReport()
        self._thread = threading.Thread(target=self._run, name="jobstatus-step", daemon=True)
        self._token = CURRENT_REPORT.set(self._report)
        self._thread.start()
        return self._report

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is None:
            self._report.progress(100)
        self._stop.set()
        self._thread.join()
        if self._token is not None:
            with contextlib.suppress(ValueError):  # left in another context than entered
                CURRENT_REPORT.reset(self._token)

    def _run(self) -> None:
        reader = ReportReader(self._report)
        with (
            contextlib.suppress(OSError),  # the job has ended already, and its file is removed
            Path(self._path).open("r+b") as file,
            mmap.mmap(file.fileno(), _FORMAT.size) as memory,
        ):
            is_stopped = False
            while not is_stopped:
                is_stopped = self._stop.wait(_WRITE_INTERVAL_SECONDS)
                reader.take_samples()
                _write(memory, *reader.read())


def share(step: Step) -> SharedStep:
    """Return a handle of the step with which another process reports its progress.

    If no temporary file can be created, the handle can be used, but nothing is reported.
    """
    try:
        descriptor, path = tempfile.mkstemp(prefix="jobstatus-step-")
        os.truncate(descriptor, _FORMAT.size)
        memory = mmap.mmap(descriptor, _FORMAT.size)
    except OSError as error:
        log_ignored_error("a step can't be shared with another process", error)
        return SharedStep("")
    os.close(descriptor)
    _write(memory, None, "")
    weakref.finalize(step, _remove, path, os.getpid())

    def read_percent() -> float:
        percent, size, reason = _FORMAT.unpack_from(memory)
        if size:
            step.reason = reason[:size].decode("utf-8", "ignore")
            step._is_running = percent < 100  # noqa: PLR2004
        return float(percent)

    step.sample(read_percent)
    return SharedStep(path)


def _write(memory: mmap.mmap, percent: float | None, reason: str) -> None:
    text = one_line(reason, _MAX_REASON_BYTES).encode()[:_MAX_REASON_BYTES]
    _FORMAT.pack_into(memory, 0, float("nan") if percent is None else percent, len(text), text)


def _remove(path: str, pid: int) -> None:
    if os.getpid() == pid:  # not in a forked child
        with contextlib.suppress(OSError):
            Path(path).unlink()
