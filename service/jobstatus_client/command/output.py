"""What the commands print: rows of text, JSON, or the display of a terminal."""

import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Protocol
from uuid import UUID

import msgspec

from jobstatus.details import JobDetails
from jobstatus.status import JobStatus, one_line, parse_uuid, rfc3339
from jobstatus_client.models import ListEvent

Labels = Mapping[UUID, str]
"""The ids by which the user has named the jobs, by UUID."""

PROGRESS_INTERVAL_SECONDS: Final = 1.0
"""Without a terminal, progress alone is printed at most so often for each job."""

_COLUMNS: Final = ("STATE", "PROGRESS", "AGE", "NAME", "ID", "REASON")


class Output(Protocol):
    """Shows jobs while they change."""

    def show(self, status: JobDetails) -> None:
        """Show the new status of a job."""

    def show_event(self, event: ListEvent) -> None:
        """Show what has happened to a list."""


@contextlib.contextmanager
def output(
    labels: Labels,
    *,
    as_json: bool = False,
    is_quiet: bool = False,
    states: Sequence[str] | None = None,
) -> Iterator[Output]:
    """Return what shows jobs during the block.

    Args:
        labels: How the user has named the jobs.
        as_json: Whether to print an object in each line, for programs.
        is_quiet: Whether to show nothing.
        states: Of a list that is followed: the states that it contains, none for all; None: there
            is no list.
    """
    if is_quiet:
        yield _Nothing()
    elif as_json:
        yield _JsonLines(labels)
    elif _is_terminal() and (display := _display()):
        with display.running(labels, states) as live:
            yield live
    else:
        yield _Lines(labels)


def _is_terminal() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in {"dumb", "unknown"}


def _display() -> Any:
    """Return the module of the display; None without rich."""
    try:
        from jobstatus_client.command import display  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        return None
    return display


class _Nothing:
    def show(self, status: JobDetails) -> None:
        """Show nothing."""

    def show_event(self, event: ListEvent) -> None:
        """Show nothing."""


class _JsonLines:
    def __init__(self, labels: Labels) -> None:
        self._labels = labels

    def show(self, status: JobDetails) -> None:
        print(json_line(status, self._labels.get(status.id)), flush=True)

    def show_event(self, event: ListEvent) -> None:
        for job in event.jobs:
            self.show(job)


class _Lines:
    """Prints a line for each change, but progress alone only now and then."""

    def __init__(self, labels: Labels) -> None:
        self._labels = labels
        self._shown: dict[UUID, tuple[JobDetails, float]] = {}

    def show(self, status: JobDetails) -> None:
        last, at = self._shown.get(status.id, (None, 0.0))
        is_same_state = last is not None and last.state is status.state
        now = time.monotonic()
        if is_same_state and now - at < PROGRESS_INTERVAL_SECONDS:
            return
        self._shown[status.id] = (status, now)
        label = self._labels.get(status.id, str(status.id))
        print(f"{datetime.now():%H:%M:%S}  {row(status, label)}", flush=True)  # noqa: DTZ005

    def show_event(self, event: ListEvent) -> None:
        for job in event.jobs:
            self.show(job)
        if event.problem is not None:
            problem = one_line(event.problem, 500)
            print(f"trying again: {problem}", file=sys.stderr, flush=True)


def row(status: JobStatus, label: str) -> str:
    """Return a job in one line; text of jobs can't contain control characters."""
    progress = f"{status.progress:6.2f} %" if status.has_progress else ""
    words = (one_line(label, 120), one_line(status.name, 40), status.state, progress)
    return "  ".join(word for word in (*words, one_line(status.reason, 500)) if word)


def rows(jobs: Sequence[JobDetails]) -> list[str]:
    """Return jobs as the lines of a table."""
    cells = [_COLUMNS, *map(_cells, jobs)]
    widths = [max(len(each[i]) for each in cells) for i in range(len(_COLUMNS))]
    lines = ["  ".join(map(str.ljust, each, widths)).rstrip() for each in cells]
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    return [line[:width] for line in lines]


def _cells(job: JobDetails) -> tuple[str, ...]:
    progress = f"{job.progress:.1f} %" if job.has_progress else ""
    name, reason = one_line(job.name, 40), one_line(job.reason, 500)
    return (str(job.state), progress.rjust(7), age(job), name, str(job.id), reason)


def age(job: JobDetails) -> str:
    """Return how long ago a job was enqueued or has finished, such as 3m or 2d."""
    since = job.finished_at or job.created_at
    seconds = max(0.0, (datetime.now(UTC) - since).total_seconds())
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= length:
            return f"{int(seconds // length)}{unit}"
    return f"{int(seconds)}s"


def json_line(status: JobStatus, label: str | None = None) -> str:
    """Return a status as JSON in one line, and as `key` the id by which the user has named it."""
    is_named = label is not None and parse_uuid(label) is None
    return json_text(({"key": label} if is_named else {}) | plain(status))


def plain(status: JobStatus) -> dict[str, Any]:
    """Return the members of a status as the service sends them."""
    return {
        name: rfc3339(value) if isinstance(value, datetime) else msgspec.to_builtins(value)
        for name, value in msgspec.structs.asdict(status).items()
    }


def json_text(value: Any, *, is_indented: bool = False) -> str:
    """Return JSON in which everything that a terminal could take for a command is escaped."""
    text = json.dumps(value, ensure_ascii=False, indent=2 if is_indented else None)
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)
