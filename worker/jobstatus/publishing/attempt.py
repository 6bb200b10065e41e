"""One attempt at a job, from its start until its outcome is written."""

import functools
import os
import socket
import time
from typing import Any, Final
from uuid import UUID

from jobstatus.publishing.backoff import REFUSAL_RETRY_SECONDS, Backoff
from jobstatus.publishing.enqueued_record import key_of_job, new_run_ms
from jobstatus.reporting.error_text import ErrorText
from jobstatus.reporting.eta import EtaEstimator
from jobstatus.reporting.report import JobReport, Outcome
from jobstatus.reporting.report_reader import ReportReader
from jobstatus.reporting.result import Result, encode_result, traceback_result
from jobstatus.reporting.sanitize import MAX_DURATION_SECONDS
from jobstatus.settings import PublisherSettings
from jobstatus.status import (
    NAME_LIMIT,
    WORKER_LIMIT,
    JobState,
    Record,
    one_line,
    stored_reason,
)
from jobstatus.storage.write import Run, Write

HOST_NAME: Final = one_line(socket.gethostname(), WORKER_LIMIT)
"""The name of this host; under Kubernetes that of the pod."""


class Attempt:
    """What the publisher knows about one attempt, and what it has last written.

    Attributes:
        key: The key of the record.
        job_id: The job's id.
        number: 1, 2, ... within the run.
        created: Identifies the run, ms since the epoch; None until `join` finds it out.
        report: The report that job code writes.
        reader: Reads the report.
        pid: The process that runs the attempt.
        outcome: How the attempt ended; None while it runs.
        result: What is stored as the job's result; None if it has none (yet).
        changed_at: When the state changed that is still to be written, on the monotonic clock;
            None if the state is written.
        ended_at: When the attempt ended, on the monotonic clock; None while it runs.
        is_released: Whether no more writes are made of it: the last one is already queued, or
            other code has written it.
        span: The trace span that becomes the parent of the writes' spans, if any.
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
        is_run: bool = True,
    ) -> None:
        """Create an attempt that begins now.

        Args:
            settings: The publisher's settings.
            job_id: The job's id.
            name: The kind of job.
            created: Identifies the run, ms since the epoch; None: `join` finds it out.
            number: 1, 2, ... within the run.
            timeout: Seconds that it may take; None: no limit.
            is_run: Whether the job's code is run; otherwise the job ends without that.
        """
        self.key = key_of_job(settings, job_id)
        self.job_id = str(job_id)
        self.number = number
        self.created = created
        self.report = JobReport()
        self.reader = ReportReader(self.report)
        self.pid = os.getpid()
        self.outcome: Outcome | None = None
        self.result: Result | None = None
        self.changed_at: float | None = None
        self.ended_at: float | None = None
        self.is_released = False
        self.span: Any = None
        self._settings = settings
        self._name = one_line(name, NAME_LIMIT)
        self._new_run_ms = new_run_ms(self.key) if created is None else 0
        self._began_at = time.monotonic()
        self._timeout = min(timeout or 0.0, MAX_DURATION_SECONDS)
        self._deadline = None if timeout is None else self._began_at + timeout
        self._running_ttl_ms = self._ttl_ms(JobState.IN_PROGRESS, None)
        self._worker = HOST_NAME if is_run else ""
        self._eta_estimator: EtaEstimator | None = None
        self._eta: float | None = None
        self._last_read: tuple[float | None, str] = (None, "")
        self._is_last_read_counted = True
        self._counted_reports = 0
        self._renew_at = 0.0
        self._not_before = 0.0
        self._refusals = Backoff(*REFUSAL_RETRY_SECONDS)

    @property
    def has_ended(self) -> bool:
        """Whether the attempt has an outcome, which may still have to be written."""
        return self.outcome is not None

    @property
    def has_finished_run(self) -> bool:
        """Whether its outcome is final, so that no other attempt of the run follows."""
        return self.outcome is not None and self.outcome.state.is_final

    @property
    def is_run_known(self) -> bool:
        """Whether it is known which run the attempt belongs to."""
        return self.created is not None

    @property
    def is_refused(self) -> bool:
        """Whether Redis has refused the last write, which is to be sent again."""
        return self._refusals.failures > 0

    @property
    def not_before(self) -> float:
        """The earliest time for the next write, on the monotonic clock."""
        return self._not_before

    @property
    def is_past_deadline(self) -> bool:
        """Whether it has run longer than its timeout allows; its lease is not renewed then."""
        return self._deadline is not None and time.monotonic() > self._deadline

    def run_before(self, number: int) -> Run | None:
        """Return its run if attempt `number` continues it; else None.

        A queue may begin the next attempt before this one has ended: some announce a retry after
        they have enqueued it.
        """
        if self.created is None or self.has_finished_run or number <= self.number:
            return None
        state = JobState.IN_PROGRESS if self.outcome is None else self.outcome.state
        return Run(self.created, self.number, state, self._name)

    def is_later_than(self, write: Write) -> bool:
        """Whether `write` reports an earlier attempt that this one has followed."""
        began_at, number = write.began_at, write.record.attempt
        return began_at is not None and began_at < self._began_at and 0 < number < self.number

    def join(self, stored: Run | None, own: int | None = None) -> Run:
        """Find out which run the attempt belongs to; return that run.

        Args:
            stored: The run of the stored record; None if there is no well-formed record.
            own: `created` of the run of this process's latest attempt at the job, if its outcome
                is not stored yet.
        """
        if self.outcome is None:
            # It runs at this moment, so it is newer than the record that was just read.
            self._began_at = time.monotonic()
        joined = self._write(JobState.IN_PROGRESS, None, "", 0).join(stored, own)
        assert joined is not None  # noqa: S101 - only a `pending` write can come too late
        self.created, self._name = joined.record.created, joined.record.name
        return Run.of(joined.record)

    def write(self, now: float, *, is_reading_due: bool) -> Write | None:
        """Return the write that is due while the attempt runs; None if none is due.

        Args:
            now: `time.monotonic()`.
            is_reading_due: Whether to read the job's report; otherwise only the first write of
                the attempt, or one that has to be repeated, is due.
        """
        if self.is_past_deadline or now < self._not_before:
            return None
        is_first = self._renew_at == 0
        if not (is_reading_due or is_first):
            return None
        read = self.reader.read()
        if (name := self.report.name) is not None and name != self._name:
            self._name = name
            self._renew_at = 0.0
        if read == self._last_read and now < self._renew_at:
            return None
        if read != self._last_read and read[0] is not None:
            self._estimate(read[0], now)
        self._last_read = read
        self._is_last_read_counted = False
        self._renew_at = now + self._settings.lease / 3
        lease = self._settings.lease
        return self._write(JobState.IN_PROGRESS, *read, lease, may_change_state=is_first)

    def _estimate(self, percent: float, now: float) -> None:
        if self._eta_estimator is None:
            self._eta_estimator = EtaEstimator()
        self._eta = self._eta_estimator.update(percent, now)

    def encode_result(self) -> None:
        """Encode what the job has set as its result, if it has."""
        value = self.report.result
        if value is not None:
            self.result = encode_result(value, self._settings.result_limit)

    def note_error(self, error: BaseException, errors: ErrorText) -> None:
        """Take the traceback of a failed attempt as its result, if the settings say so."""
        if self._settings.tracebacks and self.report.result is None:
            self.result = traceback_result(error, errors, self._settings.result_limit)

    def final_write(self, outcome: Outcome) -> Write:
        """Return the write of the attempt's outcome."""
        read = (self._last_read[0], self.reader.read()[0])
        percent = max((p for p in read if p is not None), default=None)
        if outcome.state is JobState.SUCCEEDED and self.reader.has_progress:
            percent = 100.0
        reason = stored_reason(outcome.reason)
        self._name = self.report.name or self._name
        return self._write(outcome.state, percent, reason, 0, outcome.delay)

    def count_reports(self) -> tuple[int, bool]:
        """Return the reports since the last call, and whether the last of them is written."""
        before, self._counted_reports = self._counted_reports, self.reader.report_count
        is_written, self._is_last_read_counted = not self._is_last_read_counted, True
        return self._counted_reports - before, is_written

    def write_again(self) -> None:
        """Have the record written again: the last write may not have arrived, or may be lost."""
        self._renew_at = 0.0

    def was_written(self) -> None:
        """Note that the last write was accepted."""
        self._refusals.reset()
        self._not_before = 0.0

    def was_refused(self, now: float) -> None:
        """Note that the last write was refused: it is due again after a growing delay.

        Args:
            now: `time.monotonic()`.
        """
        self._not_before = now + self._refusals.fail()
        self._renew_at = 0.0

    def _write(
        self,
        state: JobState,
        percent: float | None,
        reason: str,
        lease: float,
        delay: float | None = None,
        *,
        may_change_state: bool = True,
    ) -> Write:
        record = Record(
            name=self._name,
            state=state,
            created=self._new_run_ms if self.created is None else self.created,
            attempt=self.number,
            reason=reason,
            progress=percent,
            worker=self._worker,
            eta=self._eta if state is JobState.IN_PROGRESS else None,
            result=self.result.state if self.result is not None and state.is_final else "",
        )
        if state is JobState.IN_PROGRESS:
            lease_ms = round(1000 * lease)
            return Write(
                self.key,
                record,
                self._running_ttl_ms,
                lease_ms,
                began_at=self._began_at,
                may_change_state=may_change_state,
            )
        return Write(
            self.key,
            record,
            self._ttl_ms(state, delay),
            began_at=self._began_at,
            happened_at=time.monotonic() if self.ended_at is None else self.ended_at,
            is_run_known=self.created is not None,
            span=self.span,
            result=self.result.body if self.result is not None and state.is_final else None,
        )

    def _ttl_ms(self, state: JobState, delay: float | None) -> int:
        """Return the TTL: an unfinished record outlives lease, timeout and the delay of a retry."""
        seconds = self._settings.retention
        if not state.is_final:
            wait = min(max(delay or 0.0, 0.0), MAX_DURATION_SECONDS)
            seconds += self._settings.lease + wait + self._timeout
        return _ms(seconds)


@functools.lru_cache(64)
def _ms(seconds: float) -> int:
    """Return whole ms: one shared object for the many held records with the same TTL."""
    return round(1000 * seconds)
