"""The console script `jobstatus-report`: status from a shell script."""

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

from jobstatus.errors import JobStatusError
from jobstatus.publishing.attempt import key_of, now_ms
from jobstatus.publishing.publisher import Publisher
from jobstatus.reporting.report import JobReport, Outcome
from jobstatus.settings import PublisherSettings, seconds
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
from jobstatus.storage.store import REDIS_ERRORS, Refusal, Write

_TO_WRAPPER: Final = "JOBSTATUS_REPORT_FILE"
"""Set for the command that is run: where reports for its own job go."""

_HELP: Final = """\
One report:
  jobstatus-report nightly --name backup --progress 40 --reason "copying"
  jobstatus-report nightly --state succeeded
A finished job stays as it is, unless --state pending or --state in_progress begins a new run.
A job that was not heard of for --lease seconds is shown as unknown.

A command as a job: shown in progress while it runs, then by its exit status as succeeded or
failed, or aborted if it was told to stop. Its output and exit status are its own.
  jobstatus-report nightly --name backup -- rsync -a src/ dst/
Within the command, `jobstatus-report "$JOBSTATUS_JOB_ID" --progress 40` reports for the job.

ID is a UUID, or any other text, which becomes one; the first line of --show-id says which.
Redis is at JOBSTATUS_REDIS_URL (default: redis://127.0.0.1:6379/0). A report that can't be
delivered is one line on stderr and exit status 1; a command runs and ends all the same.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="jobstatus-report",
        description="Report the status of a job from a shell script.",
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("-V", "--version", action="version", version=version("jobstatus"))
    top.add_argument("job_id", metavar="ID", help="the job's id")
    top.add_argument("--name", help="what the job is")
    top.add_argument("--progress", type=_percent, help="0..100")
    top.add_argument("--reason", help="what the job is at, or why it ended")
    top.add_argument(
        "--state",
        choices=[state.value for state in JobState if state is not JobState.UNKNOWN],
        help="(in_progress); pending or in_progress begins a new run where the last one is over",
    )
    top.add_argument(
        "--lease",
        type=_lease,
        default=300.0,
        help="seconds until which one report is believed (%(default)g)",
    )
    top.add_argument("--show-id", action="store_true", help="print the job's UUID first")
    return top


def _percent(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 100:  # noqa: PLR2004 - percent
        raise argparse.ArgumentTypeError("must be 0 to 100")
    return value


def _lease(text: str) -> float:
    try:
        return float(seconds(1, 31_536_000)(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


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
            print(key_of(settings, arguments.job_id).rpartition(":")[2], flush=True)
        if command is not None:
            _run(settings, arguments, command)
        _report(settings, arguments)
    except (JobStatusError, *REDIS_ERRORS) as error:
        sys.exit(f"jobstatus-report: {error}")


def _report(settings: PublisherSettings, arguments: argparse.Namespace) -> None:
    """Deliver one report: to the command's wrapper if we run in one, else to Redis."""
    wrapper = os.environ.get(_TO_WRAPPER)
    if wrapper and os.environ.get("JOBSTATUS_JOB_ID") == arguments.job_id:
        if arguments.state or arguments.name:
            sys.exit(
                "jobstatus-report: the command's own end is its job's: only --progress and --reason"
            )
        text = json.dumps({"progress": arguments.progress, "reason": arguments.reason})
        part = Path(f"{wrapper}.{os.getpid()}")
        part.write_text(text, encoding="utf-8")
        part.replace(wrapper)
        return
    store = store_for(settings)
    try:
        (result,) = store.write([_write(store, settings, arguments)])
    finally:
        store.close()
    if isinstance(result, Refusal):
        sys.exit(f"jobstatus-report: {result.why}")
    if result <= 0:
        sys.exit("jobstatus-report: the job is over, or was taken over: nothing was changed")


def _write(store: AnyStore, settings: PublisherSettings, arguments: argparse.Namespace) -> Write:
    """The write of one report: it goes on with the run that stands there, or begins one."""
    key = key_of(settings, arguments.job_id)
    (run,) = store.runs([key])
    if isinstance(run, Refusal):
        raise ConnectionError(run.why)
    state = JobState(arguments.state or JobState.IN_PROGRESS)
    begins = arguments.state in {JobState.PENDING, JobState.IN_PROGRESS}
    if run is not None and run.state in FINAL_STATES and not begins:
        sys.exit(
            f"jobstatus-report: the job is over ({run.state}), nothing was changed: "
            "--state in_progress begins a new run"
        )
    goes_on = run is not None and run.state in UNFINISHED_STATES and state is not JobState.PENDING
    attempt = 0 if state is JobState.PENDING else 1
    if run is not None and goes_on:
        attempt = max(1, run.attempt) + (run.state == "retrying" and state not in FINAL_STATES)
    record = Record(
        name=one_line(arguments.name or (run.name if run and goes_on else ""), NAME_LIMIT),
        state=state,
        created=run.created if run and goes_on else max(now_ms(), run.created + 1 if run else 0),
        attempt=attempt,
        reason=one_line(arguments.reason or "", REASON_LIMIT),
        progress=100.0
        if state is JobState.SUCCEEDED and arguments.progress is not None
        else arguments.progress,
    )
    lease = arguments.lease if state is JobState.IN_PROGRESS else 0
    return Write(key, record, round((settings.retention + lease) * 1000), round(lease * 1000))


def _run(
    settings: PublisherSettings, arguments: argparse.Namespace, command: list[str]
) -> NoReturn:
    """Run the command as the job, and end as it ends."""
    with contextlib.ExitStack() as stack:
        reports: Path | None = None
        with contextlib.suppress(OSError):  # no place to write: the command runs all the same
            folder = tempfile.TemporaryDirectory(prefix="jobstatus-report-")
            reports = Path(stack.enter_context(folder)) / "report"
        environ = {"JOBSTATUS_JOB_ID": arguments.job_id, _TO_WRAPPER: str(reports or "")}
        publisher = Publisher(store_for(settings), settings)
        with publisher.job(arguments.job_id, name=arguments.name or command[0]) as report:
            if arguments.progress is not None:
                report.progress(arguments.progress)
            report.reason = arguments.reason or ""
            if reports is not None:
                report.sample(partial(_delivered, reports, report))
            code = _execute(command, environ, report)
            if reports is not None and not math.isnan(last := _delivered(reports, report)):
                report.progress(100 * last)  # it may have ended before it was sampled
        publisher.close()
    if code < 0:  # end by the same signal, so that our parent sees what it would have seen
        with contextlib.suppress(OSError, ValueError):  # SIGKILL has no handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
        time.sleep(1)
    sys.exit(code)


def _delivered(reports: Path, report: JobReport) -> float:
    """Read what was reported from within the command."""
    try:
        told: dict[str, Any] = json.loads(reports.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return float("nan")
    if told["reason"] is not None:
        report.reason = told["reason"]
    return float("nan") if told["progress"] is None else told["progress"] / 100


def _execute(command: list[str], environ: dict[str, str], report: JobReport) -> int:
    """Run the command to its end; its exit status, negative for a signal."""
    told: list[int] = []
    running: list[subprocess.Popen[bytes]] = []

    def forward(number: int, _: FrameType | None) -> None:
        told.append(number)
        if number == signal.SIGINT and _is_in_the_foreground():
            return  # Ctrl-C has reached the command already
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, forward)
    try:
        process = subprocess.Popen(command, env={**os.environ, **environ})  # noqa: S603 - the point
    except OSError as error:
        report.fail(f"{command[0]}: {error.strerror}")
        print(f"jobstatus-report: {command[0]}: {error.strerror}", file=sys.stderr)
        return 127 if isinstance(error, FileNotFoundError) else 126
    running.append(process)
    for early in told:  # what came before there was anybody to tell
        process.send_signal(early)
    code = process.wait()
    if code:
        outcome = _outcome(code, told)
        (report.abort if outcome.state is JobState.ABORTED else report.fail)(outcome.reason)
    return code


def _is_in_the_foreground() -> bool:
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:  # no terminal
        return False


def _outcome(code: int, told: list[int]) -> Outcome:
    how = f"killed by {_name(-code)}" if code < 0 else f"exit status {code}"
    if told:
        return Outcome(JobState.ABORTED, f"{_name(told[0])} was received; {how}")
    return Outcome(JobState.FAILED, how)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
