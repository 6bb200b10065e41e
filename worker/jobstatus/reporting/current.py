"""`current_job()`: the report of the job in which the calling code runs."""

from collections.abc import AsyncIterable
from typing import Any, Final

from jobstatus.reporting.loop_position import LoopPosition, ProgressFunction
from jobstatus.reporting.report import CURRENT_REPORT, JobReport, Outcome, Step


class _NoJobReport(JobReport):
    """The report outside a job: it accepts every report and keeps none."""

    def __repr__(self) -> str:
        return "<JobReport: no job is running>"

    def progress(self, percent: float, reason: str | None = None) -> None:
        pass

    @property
    def reason(self) -> str:
        return ""

    @reason.setter
    def reason(self, reason: str) -> None:
        pass

    def track(self, iterable: Any, total: int | None = None, reason: str | None = None) -> Any:  # noqa: ARG002
        return aiter(iterable) if isinstance(iterable, AsyncIterable) else iter(iterable)

    def sample(self, percent: ProgressFunction) -> None:
        pass

    def step(self, name: str, weight: float = 1.0) -> Step:
        return Step(self, name, weight)

    def _end(self, outcome: Outcome) -> None:
        pass

    def _follow(self, position: LoopPosition) -> None:
        pass

    def _need_sampling(self) -> None:
        pass


_NO_JOB: Final = _NoJobReport()


def current_job() -> JobReport:
    """Return the report of the running attempt; outside a job, a report that does nothing.

    It is found through `contextvars`: at any depth of calls, in tasks that the job starts, in
    `asyncio.to_thread`, and under `jobstatus-worker` in every `loop.run_in_executor` with threads.
    """
    return CURRENT_REPORT.get(_NO_JOB)
