"""The context manager around a job, and how the end of its block becomes an outcome."""

import asyncio
import contextlib
import os
from collections.abc import Callable
from contextvars import Token

from jobstatus.publishing.attempt import Attempt
from jobstatus.reporting.error_text import ErrorText
from jobstatus.reporting.report import CURRENT_REPORT, JobReport, Outcome
from jobstatus.status import JobState


class JobContext:
    """`with publisher.job(...) as report:`, or `async with`: the job of the block.

    The outcome is that which the report was given, or else that of the block: `succeeded`, `failed`
    with its exception, or `aborted` if it was cancelled or interrupted. Exceptions propagate.
    """

    def __init__(
        self,
        attempt: Attempt,
        begin: Callable[[Attempt], None],
        end: Callable[[Attempt, Outcome], None],
        errors: ErrorText,
    ) -> None:
        """Create the context of one attempt; the functions are those of the publisher."""
        self._attempt = attempt
        self._begin_attempt = begin
        self._end_attempt = end
        self._errors = errors
        self._token: Token[JobReport] | None = None

    def __repr__(self) -> str:
        return f"<JobContext {self._attempt.job_id!r}, attempt {self._attempt.number}>"

    def __enter__(self) -> JobReport:
        self._token = CURRENT_REPORT.set(self._attempt.report)
        self._attempt.report._on_outcome = self._end  # noqa: SLF001
        self._begin_attempt(self._attempt)
        return self._attempt.report

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if self._token is not None:
            with contextlib.suppress(ValueError):  # left in another context than entered
                CURRENT_REPORT.reset(self._token)
        if self._attempt.outcome is None:
            outcome = outcome_of(error, self._errors)
            if error is not None and outcome.state is JobState.FAILED:
                self._attempt.note_error(error, self._errors)
            self._end(outcome)

    async def __aenter__(self) -> JobReport:
        return self.__enter__()

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.__exit__(kind, error, trace)

    def _end(self, outcome: Outcome) -> None:
        # A forked child also leaves the block; the job itself goes on in the parent.
        if self._attempt.pid == os.getpid():
            self._end_attempt(self._attempt, outcome)


def outcome_of(error: BaseException | None, errors: ErrorText) -> Outcome:
    """Return the outcome of a job that has ended with `error`, or without one."""
    match error:
        case None | SystemExit(code=None | 0):
            return Outcome(JobState.SUCCEEDED)
        case asyncio.CancelledError():
            return Outcome(JobState.ABORTED, "cancelled")
        case KeyboardInterrupt():
            return Outcome(JobState.ABORTED, "interrupted")
        case _:
            return Outcome(JobState.FAILED, errors.of(error))
