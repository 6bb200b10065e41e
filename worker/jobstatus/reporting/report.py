"""What job code holds: the report of one running attempt."""

import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from contextvars import ContextVar, Token
from datetime import timedelta
from typing import Self, TypeVar, overload

import msgspec

from jobstatus.reporting import progress, sanitize
from jobstatus.reporting.progress import CountingPosition, LoopPosition, ProgressFunction
from jobstatus.status import REASON_LIMIT, JobState, one_line, raise_interrupt

T = TypeVar("T")

RUNNING: ContextVar["JobReport"] = ContextVar("jobstatus.current_job")
"""The report of the attempt, or of the step, that the code of this context runs in."""


class Outcome(msgspec.Struct, frozen=True):
    """How an attempt ended.

    Attributes:
        state: `succeeded`, `failed`, `aborted` or `retrying`.
        reason: The cause, for people.
        delay: Seconds until the next attempt, where that is known.
    """

    state: JobState
    reason: str = ""
    delay: float | None = None


class JobReport:
    """The report of one attempt at a job.

    Nothing here waits, talks to Redis or raises: a report is an assignment, which the publisher
    reads ten times a second. Where several sources speak of progress the furthest counts, and
    progress never falls within an attempt.
    """

    def __init__(self) -> None:
        self._percent: float | None = None
        self._reason = ""
        self._tracks: list[LoopPosition] = []
        self.wants_sampling = False
        self._sampler: ProgressFunction | None = None
        self._sampled: float | None = None
        self._steps: list[Step] = []
        self._outcome: Outcome | None = None
        self._on_end: Callable[[Outcome], None] | None = None
        self._shown: tuple[str, str] = ("", "")
        self._said = 0
        self._is_odd = False

    def progress(self, percent: float, reason: str | None = None) -> None:
        """Say how far the job has come.

        Args:
            percent: 0..100; what lies outside counts as the nearer end.
            reason: What the job is at, one line of at most 500 characters; None keeps the last.
        """
        self._percent = percent
        self._said += 1
        if reason is not None:
            self._reason = reason

    @property
    def reason(self) -> str:
        """What the job is at, for people: one line, at most 500 characters are shown."""
        return self._reason

    @reason.setter
    def reason(self, reason: str) -> None:
        self._reason = reason
        self._said += 1

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
        """Iterate, with progress.

        A loop over a list, tuple, range, dict or set costs nothing per step; over anything else
        some nanoseconds. A track that begins while another one runs counts for one step of it.

        Args:
            iterable: What to iterate over; an async iterable gives an async iterator.
            total: How many steps there will be, where `len()` can't say; without either there
                is no progress, only a reason.
            reason: What the job is at; `{done}` and `{total}` in it become the steps complete
                and in all.
        """
        total = sanitize.step_count(total)
        reason = None if reason is None else one_line(reason, REASON_LIMIT)
        loop: Iterator[T] | AsyncIterator[T]
        if isinstance(iterable, AsyncIterable):
            position: LoopPosition = (count := CountingPosition(total, reason))
            loop = count.over_async(iterable)
        else:
            loop, position = progress.track(iterable, total, reason)
        self.follow(position)
        return loop

    def sample(self, fraction: ProgressFunction) -> None:
        """Let the publisher ask how far the job is, ten times a second.

        Args:
            fraction: Returns what is done, 0..1, such as `lambda: file.tell() / size`. It is
                called in another thread until the attempt ends; when it raises, it isn't
                called again and the last progress stands.
        """
        self._sampler = fraction
        self._want_sampling()

    def _want_sampling(self) -> None:
        self.wants_sampling = True

    def succeed(self) -> None:
        """End the attempt as `succeeded`, as returning from the job does."""
        self._end(Outcome(JobState.SUCCEEDED))

    def fail(self, reason: str) -> None:
        """End the attempt as `failed`, without raising."""
        self._end(Outcome(JobState.FAILED, one_line(reason, REASON_LIMIT)))

    def abort(self, reason: str) -> None:
        """End the attempt as `aborted`: somebody wanted it to stop."""
        self._end(Outcome(JobState.ABORTED, one_line(reason, REASON_LIMIT)))

    def retry(self, reason: str, delay: float | timedelta | None = None) -> None:
        """End the attempt as `retrying`: another one will follow.

        Args:
            reason: Why this attempt was not enough.
            delay: Seconds (or a timedelta) until the next attempt, where that is known.
        """
        self._end(
            Outcome(
                JobState.RETRYING, one_line(reason, REASON_LIMIT), sanitize.delay_seconds(delay)
            )
        )

    @property
    def outcome(self) -> Outcome | None:
        """How the job said that the attempt ended, if it did."""
        return self._outcome

    def _end(self, outcome: Outcome) -> None:
        if self._outcome is None:
            self._outcome = outcome
            if self._on_end is not None:
                self._on_end(outcome)

    def step(self, name: str, weight: float = 1.0) -> "Step":
        """A part of this job, whose own 0..100 counts for its weight.

        Make all steps of a job before the first one begins, so that their weights are known;
        progress never falls, so a step that is made later shows only once it has caught up.

        Args:
            name: What the step is; it stands before the step's own reason.
            weight: Its share, beside the weights of its siblings; above 0.

        Raises:
            ValueError: the weight is not above 0.
        """
        if not weight > 0:
            raise ValueError(f"weight is {weight}: it must be above 0")
        step = Step(self, name, weight)
        self._steps.append(step)
        return step

    def follow(self, track: LoopPosition) -> None:
        """Count a loop whose position `track` tells, such as that of a progress bar."""
        self._said += sum(t.done() for t in self._tracks if t.has_ended)
        self._tracks = [*(t for t in self._tracks if not t.has_ended), track]

    @property
    def made(self) -> int:
        """How many reports were made, each step of a loop one; about."""
        return self._guarded(self._count, 0)

    def _count(self) -> int:
        own = self._said + sum(track.done() for track in self._tracks)
        return own + sum(step.made for step in self._steps)

    @property
    def has_progress(self) -> bool:
        """Whether anything speaks of progress, even if it has told nothing yet."""
        return self.wants_sampling or self._guarded(self.fraction, None) is not None

    def _guarded(self, look: Callable[[], T], otherwise: T) -> T:
        """What `look` returns, which may call job code; `otherwise` if that raises anything."""
        try:
            return look()
        except BaseException as error:
            raise_interrupt(error)
            if not self._is_odd:
                self._is_odd = True
                sanitize.log_ignored_error("a report can't be read", error)
            return otherwise

    def take_samples(self) -> None:
        """Call what was given to `sample`. For the publisher: it may block, and may raise."""
        for step in self._steps:
            step.take_samples()
        if self._sampler is None:
            return
        try:
            self._sampled = sanitize.clamp_fraction(float(self._sampler()))
        except BaseException as error:  # SystemExit too: it would end the publisher's thread
            self._sampler = None
            sanitize.log_ignored_error("sampling has ended", error)

    def read(self) -> tuple[float | None, str]:
        """Progress (0..100, or None) and reason as they are now. For the publisher.

        Where job code that this calls raises, the progress or reason before that is kept.
        """
        fraction = self._guarded(self.fraction, None)
        if fraction is not None:
            fraction = sanitize.clamp_fraction(fraction)
        reason = self._guarded(self.reason_now, self._shown[0])
        if reason is not self._shown[0]:
            self._shown = (reason, one_line(reason, REASON_LIMIT))
        return (None if fraction is None else 100 * fraction), self._shown[1]

    def fraction(self) -> float | None:
        """How much is done, 0..1; None where nothing was said of it."""
        if not (self._tracks or self._steps or self.wants_sampling):
            return self._explicit()
        sources = [self._explicit(), self._tracked(), self._sampled, self._stepped()]
        return max((f for f in sources if f is not None), default=None)

    def _explicit(self) -> float | None:
        if self._percent is None:
            return None
        try:
            fraction = float(self._percent) / 100
        except BaseException as error:
            raise_interrupt(error)
            self._percent = None
            sanitize.log_ignored_error("progress can't be read", error)
            return None
        return sanitize.clamp_fraction(fraction)

    def _tracked(self) -> float | None:
        fraction, share = None, 1.0
        for track in self._tracks:
            if not track.total:
                break
            fraction = (fraction or 0.0) + share * min(1.0, track.done() / track.total)
            share /= track.total
        return fraction

    def _stepped(self) -> float | None:
        steps = self._steps
        if not steps:
            return None
        done = sum(step.weight * (step.fraction() or 0.0) for step in steps)
        return done / sum(step.weight for step in steps)

    def reason_now(self) -> str:
        """What the job is at: of a step or a loop that runs, or else its own."""
        for step in reversed(self._steps):
            if step.is_running:
                inner = step.reason_now()
                return f"{step.name}: {inner}" if inner else step.name
        for track in reversed(self._tracks):
            if track.reason and not track.has_ended:
                total = "?" if track.total is None else str(track.total)
                reason = track.reason.replace("{done}", str(track.done()))
                return reason.replace("{total}", total)
        return self._reason


class Step(JobReport):
    """A part of a job: a report of its own, whose 0..100 counts for its weight.

    `with step:` makes it the `current_job()` of the block, and complete when the block ends
    without an error.
    """

    def __init__(self, parent: JobReport, name: str, weight: float) -> None:
        super().__init__()
        self.name = name
        self.weight = weight
        self.is_running = False
        self._parent = parent
        self._token: Token[JobReport] | None = None

    def __enter__(self) -> Self:
        self.is_running = True
        self._token = RUNNING.set(self)
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self.is_running = False
        if error is None:
            self.progress(100)
        if self._token is not None:
            with contextlib.suppress(ValueError):  # left in another context than entered
                RUNNING.reset(self._token)

    def _want_sampling(self) -> None:
        super()._want_sampling()
        self._parent._want_sampling()  # noqa: SLF001 - a report's own kin

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.__exit__(kind, error, trace)

    def _end(self, outcome: Outcome) -> None:
        self._parent._end(outcome)  # noqa: SLF001 - a report's own kin
