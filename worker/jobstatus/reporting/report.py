"""The report of a running attempt, which job code writes, and its steps.

A report is a few attributes that job code assigns. The publisher reads them from its own thread
(`report_reader`), so reporting neither waits nor talks to Redis.
"""

import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from contextvars import ContextVar, Token
from datetime import timedelta
from typing import Self, TypeVar, overload

import msgspec

from jobstatus.reporting import loop_position, sanitize
from jobstatus.reporting.loop_position import CountingPosition, LoopPosition, ProgressFunction
from jobstatus.status import NAME_LIMIT, REASON_LIMIT, JobState, one_line

T = TypeVar("T")

CURRENT_REPORT: ContextVar["JobReport"] = ContextVar("jobstatus.current_job")
"""The report of the attempt, or of the step, in which the code of this context runs."""


class Outcome(msgspec.Struct, frozen=True):
    """How an attempt ended.

    Attributes:
        state: `succeeded`, `failed`, `aborted` or `retrying`.
        reason: Why, for people.
        delay: Seconds until the next attempt, if that is known.
    """

    state: JobState
    reason: str = ""
    delay: float | None = None


class JobReport:
    """The report of one attempt at a job.

    No method waits, talks to Redis or raises because of it. If several sources report progress,
    the highest counts; progress never decreases within an attempt.
    """

    def __init__(self) -> None:
        self._percent: float | None = None
        self._name: str | None = None
        self._reason = ""
        self._loops: list[LoopPosition] = []
        self._steps: list[Step] = []
        self._progress_function: ProgressFunction | None = None
        self._sampled_percent: float | None = None
        self._needs_sampling = False
        self._outcome: Outcome | None = None
        self._result: object = None
        self._on_outcome: Callable[[Outcome], None] | None = None
        self._report_count = 0

    def __repr__(self) -> str:
        outcome = "" if self._outcome is None else f", {self._outcome.state}"
        return f"<JobReport: progress {self._percent}, reason {self._reason!r}{outcome}>"

    def progress(self, percent: float, reason: str | None = None) -> None:
        """Report how much of the job is done.

        Args:
            percent: 0..100; a value outside counts as the nearer bound.
            reason: What the job is doing, one line of at most 500 characters; None keeps the last.
        """
        self._percent = percent
        self._report_count += 1
        if reason is not None:
            self._reason = reason

    @property
    def name(self) -> str | None:
        """The kind of job that is shown, at most 120 characters; None: the name that it began with.

        For jobs that find out only while they run what they are, such as those of a dispatcher.
        """
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        self._name = one_line(name, NAME_LIMIT)
        self._report_count += 1

    @property
    def reason(self) -> str:
        """What the job is doing, for people: one line, of which 500 characters are shown."""
        return self._reason

    @reason.setter
    def reason(self, reason: str) -> None:
        self._reason = reason
        self._report_count += 1

    @property
    def result(self) -> object:
        """What the job has made, for pollers: stored as JSON when the job finishes.

        Anything that msgspec can encode, and models of pydantic; None: no result. A value that
        can't be encoded, or that is larger than `JOBSTATUS_RESULT_LIMIT`, is dropped with a reason
        and never fails the job.
        """
        return self._result

    @result.setter
    def result(self, value: object) -> None:
        self._result = value

    @overload
    def track(
        self, iterable: Iterable[T], total: int | None = None, reason: str | None = None
    ) -> Iterator[T]: ...
    @overload
    def track(
        self, iterable: AsyncIterable[T], total: int | None = None, reason: str | None = None
    ) -> AsyncIterator[T]: ...

    def track(
        self,
        iterable: Iterable[T] | AsyncIterable[T],
        total: int | None = None,
        reason: str | None = None,
    ) -> Iterator[T] | AsyncIterator[T]:
        """Iterate over `iterable`, and report the position as progress.

        A loop over a list, tuple, range, dict or set costs nothing per step; over anything else a
        few nanoseconds. A loop inside another tracked loop counts as one step of the outer loop.

        Args:
            iterable: What to iterate over; an async iterable gives an async iterator.
            total: The number of steps if `len()` does not give it; without either, only the
                reason is reported and no progress.
            reason: What the job is doing; `{done}` and `{total}` in it are replaced by the number
                of complete steps and of all steps.
        """
        total = sanitize.step_count(total)
        reason = None if reason is None else one_line(reason, REASON_LIMIT)
        loop: Iterator[T] | AsyncIterator[T]
        if isinstance(iterable, AsyncIterable):
            position: LoopPosition = (counting := CountingPosition(total, reason))
            loop = counting.over_async(iterable)
        else:
            loop, position = loop_position.track(iterable, total, reason)
        self._follow(position)
        return loop

    def sample(self, percent: ProgressFunction) -> None:
        """Have the publisher ask how much is done, ten times a second.

        Args:
            percent: Returns 0..100, such as `lambda: 100 * file.tell() / size`. It is called in
                another thread until the attempt ends. If it raises, it is not called again, and
                the last progress is kept.
        """
        self._progress_function = percent
        self._need_sampling()

    def step(self, name: str, weight: float = 1.0) -> "Step":
        """Add a step to the job: a part whose own 0..100 percent counts by its weight.

        Create all steps of a job before the first one begins, so that their weights are known.
        Progress never decreases, so a step that is added later shows only once it has caught up.

        Args:
            name: The name of the step, shown before its own reason.
            weight: Its share of the job, relative to the weights of the other steps; above 0.

        Raises:
            ValueError: The weight is not above 0.
        """
        if not weight > 0:
            raise ValueError(f"the weight of a step must be above 0, not {weight}")
        step = self._new_step(name, weight)
        self._steps.append(step)
        return step

    def succeed(self) -> None:
        """End the attempt as `succeeded`, as returning from the job does."""
        self._end(Outcome(JobState.SUCCEEDED))

    def fail(self, reason: str) -> None:
        """End the attempt as `failed`, without raising."""
        self._end(Outcome(JobState.FAILED, one_line(reason, REASON_LIMIT)))

    def abort(self, reason: str) -> None:
        """End the attempt as `aborted`: it stops because someone has asked for that."""
        self._end(Outcome(JobState.ABORTED, one_line(reason, REASON_LIMIT)))

    def retry(self, reason: str, delay: timedelta | float | None = None) -> None:
        """End the attempt as `retrying`: another attempt follows.

        Under arq, the job is run again when its function returns, as if it had raised
        `arq.Retry(defer=delay)`; after the last attempt that arq allows it has `failed`. With a
        `Publisher` alone, the caller runs the job again, in `publisher.job(…, attempt=2)`.

        Args:
            reason: Why this attempt was not enough.
            delay: Seconds, or a timedelta, until the next attempt; None: as soon as possible.
        """
        seconds = sanitize.delay_seconds(delay)
        self._end(Outcome(JobState.RETRYING, one_line(reason, REASON_LIMIT), seconds))

    @property
    def outcome(self) -> Outcome | None:
        """How the job has reported that the attempt ended; None if it has not."""
        return self._outcome

    def _end(self, outcome: Outcome) -> None:
        if self._outcome is None:
            self._outcome = outcome
            if self._on_outcome is not None:
                self._on_outcome(outcome)

    def _follow(self, position: LoopPosition) -> None:
        """Count a loop whose position is known, such as that of a progress bar."""
        self._report_count += sum(loop.done() for loop in self._loops if loop.has_ended)
        self._loops = [*(loop for loop in self._loops if not loop.has_ended), position]

    def _need_sampling(self) -> None:
        self._needs_sampling = True

    def _new_step(self, name: str, weight: float) -> "Step":
        return Step(self, name, weight)


class Step(JobReport):
    """A part of a job: a report of its own, whose 0..100 percent counts by its weight.

    `with step:` makes it the `current_job()` of the block, and complete when the block ends
    without an error.
    """

    def __init__(self, parent: JobReport, name: str, weight: float) -> None:
        super().__init__()
        self._name = name
        self.weight = weight
        self._is_running = False
        self._parent = parent
        self._token: Token[JobReport] | None = None

    def __repr__(self) -> str:
        return f"<Step {self._name!r}: progress {self._percent}, reason {self._reason!r}>"

    @property
    def name(self) -> str:
        """The name of the step, shown before its own reason."""
        return self._name or ""

    @name.setter
    def name(self, name: str) -> None:
        self._name = name
        self._report_count += 1

    def __enter__(self) -> Self:
        self._is_running = True
        self._token = CURRENT_REPORT.set(self)
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._is_running = False
        if error is None:
            self.progress(100)
        if self._token is not None:
            with contextlib.suppress(ValueError):  # left in another context than entered
                CURRENT_REPORT.reset(self._token)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.__exit__(kind, error, trace)

    @property
    def result(self) -> object:
        """The result of the job, which a step may set as well."""
        return self._parent.result

    @result.setter
    def result(self, value: object) -> None:
        self._parent.result = value

    def _need_sampling(self) -> None:
        super()._need_sampling()
        self._parent._need_sampling()

    def _end(self, outcome: Outcome) -> None:
        self._parent._end(outcome)
