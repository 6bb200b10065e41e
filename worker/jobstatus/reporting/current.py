"""`current_job()`: the report of whatever job the code runs in."""

from collections.abc import AsyncIterable
from typing import Any, Final

from jobstatus.reporting.progress import LoopPosition, ProgressFunction
from jobstatus.reporting.report import RUNNING, JobReport, Outcome, Step


class _NoReport(JobReport):
    """Outside a job: takes every report and keeps none."""

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

    def sample(self, fraction: ProgressFunction) -> None:
        pass

    def _want_sampling(self) -> None:
        pass

    def follow(self, track: LoopPosition) -> None:
        pass

    def step(self, name: str, weight: float = 1.0) -> Step:
        return Step(self, name, weight)

    def _end(self, outcome: Outcome) -> None:
        pass


_NOWHERE: Final = _NoReport()


def current_job() -> JobReport:
    """The report of the attempt that this code runs in; outside a job, one that does nothing.

    It follows the context (`contextvars`): any depth of calls, tasks that the job starts,
    `asyncio.to_thread`; under `jobstatus-worker` every `loop.run_in_executor` with threads too.
    """
    return RUNNING.get(_NOWHERE)
