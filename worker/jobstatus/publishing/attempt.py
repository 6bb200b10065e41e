"""One attempt at a job, from its start until its end is written."""

import asyncio
import contextlib
import functools
import os
import time
from contextvars import Token
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from jobstatus.reporting.report import RUNNING, JobReport, Outcome
from jobstatus.reporting.sanitize import MAX_DURATION_SECONDS
from jobstatus.settings import PublisherSettings
from jobstatus.status import (
    NAME_LIMIT,
    REASON_LIMIT,
    JobState,
    Record,
    job_uuid_text,
    one_line,
)
from jobstatus.storage.store import Run, Write

_MS = 1000


def now_ms() -> int:
    """The time in ms since the epoch, by this machine's clock."""
    return time.time_ns() // 1_000_000


def key_of(settings: PublisherSettings, job_id: str | UUID) -> str:
    """The key under which a job's record stands."""
    return f"{settings.key_prefix}:{job_uuid_text(job_id)}"


_last_run_ms = 0


def new_run_ms() -> int:
    """A `created` for a run that begins now: the time in ms, and never the same twice here."""
    global _last_run_ms  # noqa: PLW0603
    _last_run_ms = max(now_ms(), _last_run_ms + 1)
    return _last_run_ms


def pending_write(
    settings: PublisherSettings,
    job_id: str | UUID,
    name: str,
    created: int | None,
    expires: int,
) -> Write:
    """The record of a job that is enqueued now and waits.

    Args:
        settings: Says where and for how long.
        job_id: The job's id.
        name: What it is.
        created: When it was enqueued, ms since the epoch; None: now, unless a run is unfinished.
        expires: ms from now until which it may wait; the record outlives that.
    """
    record = Record(
        name=one_line(name, NAME_LIMIT),
        state=JobState.PENDING,
        created=new_run_ms() if created is None else created,
        attempt=0,
    )
    ttl = min(max(0, expires), round(MAX_DURATION_SECONDS * _MS)) + round(settings.retention * _MS)
    now = time.monotonic()
    return Write(
        key_of(settings, job_id),
        record,
        ttl,
        began_at=now,
        happened=now,
        is_run_known=created is not None,
    )


class Attempt:
    """What the publisher knows of one attempt, and what it last wrote of it.

    Attributes:
        key: Where its record stands.
        job_id: The job.
        number: 1, 2, ... within the run.
        created: When the run was enqueued, ms since the epoch; None until `join` finds out.
        report: What the job's code says.
        pid: The process that runs it.
        outcome: How it ended; None while it runs.
        changed: Since when its state waits to be written, on the monotonic clock; None: not.
        ended: When it ended, on the monotonic clock; None while it runs.
        is_forgotten: Whether nothing more is to be written of it: its last write is on its way, or
            was made by somebody else.
        span: What its writes are children of, where there are traces.
    """

    def __init__(
        self,
        settings: PublisherSettings,
        job_id: str | UUID,
        *,
        name: str,
        created: int | None,
        number: int,
        timeout: float | None,
    ) -> None:
        self.key = key_of(settings, job_id)
        self.job_id = str(job_id)
        self.number = number
        self.created = created
        self.report = JobReport()
        self.pid = os.getpid()
        self.outcome: Outcome | None = None
        self.changed: float | None = None
        self.ended: float | None = None
        self.is_forgotten = False
        self.span: Any = None
        self._settings = settings
        self._name = one_line(name, NAME_LIMIT)
        self._begun_ms = new_run_ms() if created is None else 0
        self._begun = time.monotonic()
        self._limit = min(timeout or 0.0, MAX_DURATION_SECONDS)
        self._deadline = None if timeout is None else self._begun + timeout
        self._running_ttl = self._ttl(JobState.IN_PROGRESS, None)
        self._last: tuple[float | None, str] = (None, "")
        self._made = 0
        self._taken: tuple[float | None, str] = self._last
        self._renew_at = 0.0
        self._not_before = 0.0
        self._refusals = 0

    @property
    def has_ended(self) -> bool:
        """Whether its end is known. Its end may still have to be written."""
        return self.outcome is not None

    @property
    def is_run_known(self) -> bool:
        """Whether it is known which run it belongs to."""
        return self.created is not None

    @property
    def is_refused(self) -> bool:
        """Whether Redis has refused its last write, which is to be tried again."""
        return self._refusals > 0

    @property
    def not_before(self) -> float:
        """When it may be tried again, on the monotonic clock."""
        return self._not_before

    @property
    def is_past_its_limit(self) -> bool:
        """Whether it has run longer than it may: it is not renewed then."""
        return self._deadline is not None and time.monotonic() > self._deadline

    def join(self, run: Run | None, taken: int | None = None) -> Run:
        """Find out which run this is, from what is stored; the run that it belongs to.

        Args:
            run: The run of the stored record, if there is a readable one.
            taken: The run of an earlier attempt of this process, whose end isn't stored yet.
        """
        if self.outcome is None:
            self._begun = time.monotonic()  # it runs now: it is newer than what was just read
        joined = self._write(JobState.IN_PROGRESS, None, "", 0).join(run, taken)
        assert joined is not None  # noqa: S101 - only `pending` can come too late
        self.created, self._name = joined.record.created, joined.record.name
        return Run.of(joined.record)

    def write(self, now: float, *, sample: bool) -> Write | None:
        """The write that is due while the attempt runs, or None.

        Args:
            now: `time.monotonic()`.
            sample: Whether to look at the job's report; otherwise only its beginning is due.
        """
        if self.is_past_its_limit or now < self._not_before:
            return None
        if not (sample or self._renew_at == 0):
            return None
        seen = self.report.read()
        if seen == self._last and now < self._renew_at:
            return None
        self._last = seen
        self._renew_at = now + self._settings.lease / 3
        return self._write(JobState.IN_PROGRESS, seen[0], seen[1], self._settings.lease)

    def final_write(self, outcome: Outcome) -> Write:
        """The write that ends the attempt."""
        seen = (self._last[0], self.report.read()[0])
        percent = max((p for p in seen if p is not None), default=None)
        if outcome.state is JobState.SUCCEEDED and self.report.has_progress:
            percent = 100.0
        reason = one_line(outcome.reason, REASON_LIMIT)
        return self._write(outcome.state, percent, reason, 0, outcome.delay)

    def take_reports(self) -> tuple[int, bool]:
        """How many reports were made since the last time; whether the last is being written."""
        made, self._made = self._made, self.report.made
        taken, self._taken = self._taken, self._last
        return self._made - made, taken is not self._last

    def must_be_written_again(self) -> None:
        """What was last written may not have arrived, or may be gone."""
        self._renew_at = 0.0

    def was_written(self) -> None:
        """The last write was accepted."""
        self._refusals, self._not_before = 0, 0.0

    def was_refused(self, now: float, delays: tuple[float, float]) -> None:
        """The last write was refused, and is due again after a growing delay.

        Args:
            now: `time.monotonic()`.
            delays: Seconds: the first, and the longest.
        """
        first, longest = delays
        self._not_before = now + min(longest, first * 2**self._refusals)
        self._refusals = min(self._refusals + 1, 10)
        self._renew_at = 0.0

    def _write(
        self,
        state: JobState,
        percent: float | None,
        reason: str,
        lease: float,
        delay: float | None = None,
    ) -> Write:
        record = Record(
            name=self._name,
            state=state,
            created=self._begun_ms if self.created is None else self.created,
            attempt=self.number,
            reason=reason,
            progress=percent,
        )
        if state is JobState.IN_PROGRESS:
            return Write(
                self.key, record, self._running_ttl, round(lease * _MS), began_at=self._begun
            )
        happened = time.monotonic() if self.ended is None else self.ended
        return Write(
            self.key,
            record,
            self._ttl(state, delay),
            began_at=self._begun,
            happened=happened,
            is_run_known=self.created is not None,
            span=self.span,
        )

    def _ttl(self, state: JobState, delay: float | None) -> int:
        """In ms. What isn't over outlives lease, attempt and the wait for the next one."""
        seconds = self._settings.retention
        if not state.is_final:
            wait = min(max(delay or 0.0, 0.0), MAX_DURATION_SECONDS)
            seconds += self._settings.lease + wait + self._limit
        return _ms(seconds)


@functools.lru_cache(64)
def _ms(seconds: float) -> int:
    """Whole ms; the same object for the same seconds, since many records are held with it."""
    return round(seconds * _MS)


class Publishes(Protocol):
    """What an attempt's context needs of the publisher."""

    def begin(self, attempt: Attempt) -> None:
        """Show the attempt as `in_progress`."""

    def end(self, attempt: Attempt, outcome: Outcome) -> None:
        """Show how it ended."""


class JobContext:
    """`with publisher.job(...) as report:` or `async with`; ends as the block ends."""

    def __init__(self, publisher: Publishes, attempt: Attempt) -> None:
        self._publisher = publisher
        self._attempt = attempt
        self._token: Token[JobReport] | None = None

    def __enter__(self) -> JobReport:
        self._token = RUNNING.set(self._attempt.report)
        self._attempt.report._on_end = self._end  # noqa: SLF001
        self._publisher.begin(self._attempt)
        return self._attempt.report

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if self._token is not None:
            with contextlib.suppress(ValueError):  # left in another context than entered
                RUNNING.reset(self._token)
        if self._attempt.outcome is None:
            self._end(outcome_of(error))

    async def __aenter__(self) -> JobReport:
        return self.__enter__()

    async def __aexit__(self, *args: object) -> None:
        self.__exit__(*args)  # type: ignore[arg-type]

    def _end(self, outcome: Outcome) -> None:
        if self._attempt.pid != os.getpid():
            return  # a forked child leaves its parent's block: the job goes on in the parent
        self._publisher.end(self._attempt, outcome)


def outcome_of(error: BaseException | None) -> Outcome:
    """How a job has ended that ended with `error`, or without one."""
    match error:
        case None:
            return Outcome(JobState.SUCCEEDED)
        case SystemExit(code=None | 0):
            return Outcome(JobState.SUCCEEDED)
        case asyncio.CancelledError():
            return Outcome(JobState.ABORTED, "cancelled")
        case KeyboardInterrupt():
            return Outcome(JobState.ABORTED, "interrupted")
        case _:
            return Outcome(JobState.FAILED, describe(error))


def describe(error: BaseException) -> str:
    """An exception as one line: its type, and its message where it has one."""
    kind = type(error).__name__
    message = one_line(error, REASON_LIMIT)
    return f"{kind}: {message}" if message not in {"", f"<{kind}>"} else kind


def ms_until(moment: datetime | None) -> int:
    """How many ms until `moment`; 0 for None and the past. Naive times are local."""
    return 0 if moment is None else max(0, round(moment.timestamp() * _MS) - now_ms())
