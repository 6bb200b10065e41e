"""The console script `jobstatus-report`: report the status of a job from a shell script."""

import argparse
import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn

from jobstatus.command_arguments import argument
from jobstatus.errors import JobStatusError
from jobstatus.keys import uuid_of_key
from jobstatus.publishing.attempt import HOST_NAME
from jobstatus.publishing.enqueued_record import key_of_job, now_ms
from jobstatus.publishing.publisher import Publisher
from jobstatus.reporting.report import JobReport, Outcome
from jobstatus.settings import PublisherSettings, number
from jobstatus.status import (
    FINAL_STATES,
    NAME_LIMIT,
    REASON_LIMIT,
    UNFINISHED_STATES,
    JobState,
    Record,
    one_line,
)
from jobstatus.storage.cluster_store import AnyStore, store_for
from jobstatus.storage.refusals import REDIS_ERRORS, Refusal
from jobstatus.storage.write import Write

_REPORT_FILE: Final = "JOBSTATUS_REPORT_FILE"
"""Set for a wrapped command: the file into which it writes reports for its own job."""

_SIGNAL_DELIVERY_SECONDS: Final = 1
"""Seconds within which a signal to this process is handled."""

_HELP: Final = """\
One report:
  jobstatus-report nightly --name backup --progress 40 --reason "copying"
  jobstatus-report nightly --state succeeded
A job that has finished stays as it is, unless --state pending or --state in_progress begins a new
run. A job without a report for --lease seconds is shown as unknown.

A command as a job: it is shown as in progress while it runs; then, by its exit status, as succeeded
or failed; or as aborted if it was stopped by a signal. Its output and exit status are unchanged.
  jobstatus-report nightly --name backup -- rsync -a src/ dst/
Within the command, `jobstatus-report "$JOBSTATUS_JOB_ID" --progress 40` reports for the job.

ID is a UUID, or any other text, from which a UUID is made; --show-id prints it.
Redis is at JOBSTATUS_REDIS_URL (default: redis://127.0.0.1:6379/0). If a single report can't be
delivered, one line on stderr says so, and the exit status is 1. A command runs in any case.
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(
        prog="jobstatus-report",
        description="Report the status of a job from a shell script.",
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("-V", "--version", action="version", version=version("jobstatus"))
    top.add_argument("job_id", metavar="ID", help="the job's id")
    top.add_argument("--name", help="the kind of job")
    top.add_argument("--progress", type=argument(number(0, 100, "percent")), help="0..100")
    top.add_argument("--reason", help="what the job is doing, or why it has ended")
    top.add_argument(
        "--state",
        choices=[state.value for state in JobState if state is not JobState.UNKNOWN],
        help="in_progress by default; pending or in_progress begins a new run if the last one "
        "has finished",
    )
    top.add_argument(
        "--lease",
        type=argument(number(1, 31_536_000)),
        default=300.0,
        help="seconds for which the report is valid (%(default)g)",
    )
    top.add_argument("--show-id", action="store_true", help="print the job's UUID first")
    return top


_SWEPT_ENTRIES: Final = 100
"""Expired jobs that one report removes from the index at most: perhaps no other process does."""


def main() -> None:
    """Run `jobstatus-report`."""
    words = sys.argv[1:]
    command: list[str] | None = None
    if "--" in words:
        at = words.index("--")
        words, command = words[:at], words[at + 1 :]
    top = parser()
    arguments = top.parse_args(words)
    if command is not None and not command:
        top.error("there is no command after --")
    try:
        settings = PublisherSettings.from_env()
        if arguments.show_id:
            print(uuid_of_key(key_of_job(settings, arguments.job_id)), flush=True)
        if command is not None:
            _run_command(settings, arguments, command)
        _report(settings, arguments)
    except (JobStatusError, *REDIS_ERRORS) as error:
        sys.exit(f"jobstatus-report: {error}")


def _report(settings: PublisherSettings, arguments: argparse.Namespace) -> None:
    """Deliver one report: to the wrapper of this command if there is one, else to Redis."""
    file = os.environ.get(_REPORT_FILE)
    if file and os.environ.get("JOBSTATUS_JOB_ID") == arguments.job_id:
        _report_to_wrapper(Path(file), arguments)
        return
    store = store_for(settings)
    try:
        write = _write(store, settings, arguments)
        (result,) = store.write([write])
        with contextlib.suppress(*REDIS_ERRORS):  # the report itself has been delivered
            start = write.key.removesuffix(uuid_of_key(write.key))
            store.sweep(start, write.key, "", 0, _SWEPT_ENTRIES)
    finally:
        store.close()
    if isinstance(result, Refusal):
        sys.exit(f"jobstatus-report: Redis refuses the report: {result.message}")
    if result <= 0:
        sys.exit(
            "jobstatus-report: nothing was changed: the job has finished, or a later attempt or "
            "run has reported"
        )


def _report_to_wrapper(file: Path, arguments: argparse.Namespace) -> None:
    if arguments.state or arguments.name:
        sys.exit(
            "jobstatus-report: within the command of a job only --progress and --reason can be "
            "reported; its state is that of the command"
        )
    text = json.dumps({"progress": arguments.progress, "reason": arguments.reason})
    part = Path(f"{file}.{os.getpid()}")
    part.write_text(text, encoding="utf-8")
    part.replace(file)


def _write(store: AnyStore, settings: PublisherSettings, arguments: argparse.Namespace) -> Write:
    """Return the write of one report: it continues the stored run, or begins a new one."""
    key = key_of_job(settings, arguments.job_id)
    (run,) = store.runs([key])
    if isinstance(run, Refusal):
        raise ConnectionError(f"Redis refuses to read the record: {run.message}")
    state = JobState(arguments.state or JobState.IN_PROGRESS)
    begins = arguments.state in {JobState.PENDING, JobState.IN_PROGRESS}
    if run is not None and run.state in FINAL_STATES and not begins:
        sys.exit(
            f"jobstatus-report: nothing was changed: the job has finished (state: {run.state}); "
            "--state in_progress begins a new run"
        )
    continues = run is not None and run.state in UNFINISHED_STATES and state is not JobState.PENDING
    attempt = 0 if state is JobState.PENDING else 1
    if run is not None and continues:
        is_next_attempt = run.state == JobState.RETRYING and not state.is_final
        attempt = max(1, run.attempt) + is_next_attempt
    record = Record(
        name=one_line(arguments.name or (run.name if run and continues else ""), NAME_LIMIT),
        state=state,
        created=(
            run.created if run and continues else max(now_ms(), run.created + 1 if run else 0)
        ),
        attempt=attempt,
        reason=one_line(arguments.reason or "", REASON_LIMIT),
        progress=(
            100.0
            if state is JobState.SUCCEEDED and arguments.progress is not None
            else arguments.progress
        ),
        worker="" if state is JobState.PENDING else HOST_NAME,
    )
    lease = arguments.lease if state is JobState.IN_PROGRESS else 0
    return Write(key, record, round((settings.retention + lease) * 1000), round(lease * 1000))


def _run_command(
    settings: PublisherSettings, arguments: argparse.Namespace, command: list[str]
) -> NoReturn:
    """Run the command as the job, then exit with its status."""
    with contextlib.ExitStack() as stack:
        file: Path | None = None
        with contextlib.suppress(OSError):  # without a writable folder the command still runs
            folder = tempfile.TemporaryDirectory(prefix="jobstatus-report-")
            file = Path(stack.enter_context(folder)) / "report"
        environ = {"JOBSTATUS_JOB_ID": arguments.job_id, _REPORT_FILE: str(file or "")}
        publisher = Publisher(store_for(settings), settings)
        with publisher.job(arguments.job_id, name=arguments.name or command[0]) as report:
            if arguments.progress is not None:
                report.progress(arguments.progress)
            report.reason = arguments.reason or ""
            if file is not None:
                report.sample(partial(_read_report, file, report))
            code = _execute(command, environ, report)
            if file is not None and not math.isnan(percent := _read_report(file, report)):
                report.progress(percent)  # the command may have ended before the next sample
        publisher.close()
    if code < 0:  # end by the same signal, so that our parent sees the same status
        with contextlib.suppress(OSError, ValueError):  # SIGKILL has no handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
        time.sleep(_SIGNAL_DELIVERY_SECONDS)
    sys.exit(code)


def _read_report(file: Path, report: JobReport) -> float:
    """Read what the command has reported; return its percent, or NaN if there is none."""
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return math.nan
    if found["reason"] is not None:
        report.reason = found["reason"]
    return math.nan if found["progress"] is None else float(found["progress"])


def _execute(command: list[str], environ: dict[str, str], report: JobReport) -> int:
    """Run the command to its end; return its exit status, negative for a signal."""
    received: list[int] = []
    running: list[subprocess.Popen[bytes]] = []

    def forward(number: int, _: FrameType | None) -> None:
        received.append(number)
        if number == signal.SIGINT and _is_in_foreground():
            return  # the terminal has sent Ctrl-C to the command as well
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)

    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(each) is not signal.SIG_IGN:  # ignored, for example, under nohup
            signal.signal(each, forward)
    try:
        process = subprocess.Popen(command, env={**os.environ, **environ})  # noqa: S603
    except OSError as error:
        report.fail(f"{command[0]}: {error.strerror}")
        print(f"jobstatus-report: {command[0]}: {error.strerror}", file=sys.stderr)
        return 127 if isinstance(error, FileNotFoundError) else 126
    running.append(process)
    for early in received:  # signals that came before the command was started
        process.send_signal(early)
    code = _wait(process)
    if code:
        outcome = _outcome(code, received)
        (report.abort if outcome.state is JobState.ABORTED else report.fail)(outcome.reason)
    return code


def _wait(process: "subprocess.Popen[bytes]") -> int:
    """Wait for the process, and let the signal handlers of this one run meanwhile.

    A signal that arrives just before a wait without a timeout would be handled only after it.
    """
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(_SIGNAL_DELIVERY_SECONDS)


def _is_in_foreground() -> bool:
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:  # there is no terminal
        return False


def _outcome(code: int, received: list[int]) -> Outcome:
    how = f"killed by {_signal_name(-code)}" if code < 0 else f"exit status {code}"
    if received:
        return Outcome(JobState.ABORTED, f"{_signal_name(received[0])} was received; {how}")
    return Outcome(JobState.FAILED, how)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
