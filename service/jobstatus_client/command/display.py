"""The display of a terminal: a table of jobs with their progress bars, drawn by rich."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from jobstatus.details import JobDetails
from jobstatus.status import JobState, one_line
from jobstatus_client.command.output import Labels, age
from jobstatus_client.models import JobCounts, ListEvent

_COLOURS: Final = {
    JobState.PENDING: "blue",
    JobState.IN_PROGRESS: "cyan",
    JobState.RETRYING: "yellow",
    JobState.SUCCEEDED: "green",
    JobState.ABORTED: "magenta",
    JobState.FAILED: "red",
    JobState.UNKNOWN: "bright_black",
}
_ROWS_OF_A_LIST: Final = 50
_OTHER_LINES: Final = 3
_GAP: Final = 2
_BAR_WIDTH: Final = 20
_REASON: Final = 6
"""The number of the column that takes the rest of the width."""
_LEAST_WIDTH: Final = 8
"""A column that would be narrower is left out."""


@contextlib.contextmanager
def running(labels: Labels, states: Sequence[str] | None) -> Iterator["Display"]:
    """Draw the display during the block; afterwards it stays, or, of a list, disappears."""
    is_list = states is not None
    display = Display(labels, states)
    with Live(
        console=display.console,
        get_renderable=display.draw,
        refresh_per_second=8,
        screen=is_list,
        redirect_stderr=False,
    ) as live:
        yield display
        live.refresh()


class Display:
    """What is shown.

    Attributes:
        console: The terminal.
    """

    def __init__(self, labels: Labels, states: Sequence[str] | None) -> None:
        self.console = Console(highlight=False)
        self._labels = labels
        self._states = states
        self._jobs: dict[UUID, JobDetails] = {}
        self._counts: JobCounts | None = None
        self._problem = ""

    def show(self, status: JobDetails) -> None:
        """Show the new status of a job."""
        self._jobs[status.id] = status

    def show_event(self, event: ListEvent) -> None:
        """Show what has happened to a list."""
        if event.kind == "list":
            self._jobs = {}
        self._counts = event.counts or self._counts
        self._problem = (
            "" if event.problem is None else f"trying again: {one_line(event.problem, 200)}"
        )
        for job in event.jobs:
            self.show(job)
        newest = sorted(self._jobs.values(), key=_time_of, reverse=True)
        listed = [job for job in newest if not self._states or job.state in self._states]
        self._jobs = {job.id: job for job in listed[:_ROWS_OF_A_LIST]}

    def draw(self) -> RenderableType:
        """Return the table of the jobs that fit, unfinished ones first, and a line below it."""
        jobs = list(self._jobs.values())
        if self._states is None:
            order = {uuid: number for number, uuid in enumerate(self._labels)}
            jobs.sort(key=lambda job: (job.state.is_final, order.get(job.id, 0)))
        room = max(1, self.console.height - _OTHER_LINES)
        rows = [self._cells(job) for job in jobs[:room]]
        table = Table(box=None, padding=(0, _GAP, 0, 0), show_header=False)
        for width in self._widths(rows):
            table.add_column(no_wrap=True, overflow="ellipsis", width=width)
        for row in rows:
            table.add_row(*row[: len(table.columns)])
        hidden = f", {len(jobs) - room} jobs are not shown" if len(jobs) > room else ""
        return Group(table, Text(self._footer() + hidden, style="bright_black", no_wrap=True))

    def _cells(self, job: JobDetails) -> list[Text | ProgressBar]:
        """Return the columns of a job, in the order in which a narrow terminal drops the last."""
        label = self._labels.get(job.id, str(job.id))
        seconds = job.eta_seconds
        left = "" if seconds is None else f"{seconds:.0f} s left"
        bar: Text | ProgressBar = Text("")
        if job.has_progress:
            bar = ProgressBar(total=100, completed=job.progress, width=_BAR_WIDTH)
        # Text, so that nothing in the words of a job is taken for markup.
        return [
            Text(str(job.state), style=_COLOURS[job.state]),
            Text(f"{job.progress:3.0f} %" if job.has_progress else ""),
            Text(one_line(label, 40)),
            Text(one_line(job.name, 24)),
            bar,
            Text(age(job) if self._states is not None else left),
            Text(one_line(job.reason, 200)),
        ]

    def _widths(self, rows: Sequence[list[Text | ProgressBar]]) -> list[int]:
        """Return the widths of the columns that fit."""
        widths: list[int] = []
        free = self.console.width - _GAP
        for cells in zip(*rows, strict=True):
            wanted = max(map(_width, cells)) if len(widths) < _REASON else free
            if free < min(wanted, _LEAST_WIDTH):
                break
            widths.append(min(wanted, free))
            free -= widths[-1] + _GAP
        return widths

    def _footer(self) -> str:
        if self._problem:
            return self._problem
        if self._counts is not None:
            counts = {state: getattr(self._counts, state, 0) for state in JobState}
        else:
            counts = Counter(job.state for job in self._jobs.values())
            missing = len(self._labels) - len(self._jobs)
            if not self._jobs and missing:
                return "connecting"
        return ", ".join(f"{counts[state]} {state}" for state in JobState if counts.get(state))


def _time_of(job: JobDetails) -> datetime:
    return job.finished_at or job.created_at


def _width(cell: Text | ProgressBar) -> int:
    return cell.cell_len if isinstance(cell, Text) else _BAR_WIDTH
