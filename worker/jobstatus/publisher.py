"""The publisher: one thread per process that tells Redis how the jobs of the process stand.

Job code never waits for it. A report is an assignment; the thread looks at all reports every
`interval`, writes what has changed in one pipeline, renews leases, and keeps what Redis couldn't
take until it can. A change of state wakes it at once.
"""

import atexit
import contextlib
import logging
import os
import threading
import time
import weakref
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Self

from jobstatus.attempt import (
    Attempt,
    Pending,
    RunningJob,
    ms_until,
    now_ms,
    pending_write,
)
from jobstatus.report import Outcome
from jobstatus.settings import PublisherSettings
from jobstatus.status import Written
from jobstatus.store import OUTAGE, Refused, Store, Write

_PAUSE: Final = 0.01
"""Seconds between two ticks at least, so that a burst of changes shares a few pipelines."""

_RETRY: Final = (0.05, 0.5)
"""Seconds until the next try when Redis can't answer: at first, and at most."""

_STOP: Final = 0.5
"""Seconds that the thread gets to come to its end. It is a daemon: it holds nobody up."""

_QUEUED_FOR: Final = 86_400_000
"""ms that a job is expected to wait in a queue at most; arq's own default."""

_log = logging.getLogger("jobstatus")

Item = Attempt | Pending


class Publisher:
    """Publishes the status of this process's jobs.

    Thread-safe; its thread starts with the first report. Nothing that job code calls raises or
    waits because of Redis; `flush` and `close` wait, as long as they are told to.
    """

    def __init__(self, store: Store, settings: PublisherSettings | None = None) -> None:
        self.settings = settings or PublisherSettings.from_env()
        self._store = store
        self._reset()
        _publishers.add(self)

    @classmethod
    def from_url(cls, url: str | None = None, **settings: Any) -> Self:
        """A publisher to the Redis at `url`. It connects when there is something to report.

        Args:
            url: `redis://`, `rediss://` or `unix://`; None: `JOBSTATUS_REDIS_URL`, else
                `redis://127.0.0.1:6379/0`.
            **settings: Fields of `PublisherSettings` that win over the environment's.

        Raises:
            SettingsError: a setting can't be used.
        """
        if url is not None:
            settings["redis_url"] = url
        known = PublisherSettings.from_env(**settings)
        return cls(Store.from_settings(known), known)

    def _reset(self) -> None:
        """As if nothing had been reported; also what a forked child begins with."""
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._flushed = threading.Condition(self._lock)
        self._items: dict[Item, None] = {}
        self._changed: list[Item] = []
        self._thread: threading.Thread | None = None
        self._closed = False
        self._asked = 0
        self._served = 0
        self._sample_at = 0.0
        self._failures = 0

    def pending(self, job_id: str, *, name: str, defer_until: datetime | None = None) -> None:
        """Show a job as accepted and waiting.

        Args:
            job_id: The job's id; no UUID becomes one by `job_uuid`.
            name: What the job is, at most 120 characters are kept.
            defer_until: When it may start at the earliest; the record outlives it.
        """
        expires = ms_until(defer_until) + _QUEUED_FOR
        self.publish(pending_write(self.settings, job_id, name, now_ms(), expires))

    def publish(self, write: Write) -> None:
        """Send one `pending` record on its way."""
        self._add(Pending(write))

    def job(
        self,
        job_id: str,
        *,
        name: str,
        created: int | None = None,
        attempt: int = 1,
        timeout: float | None = None,
    ) -> RunningJob:
        """Show a job as running while a `with` or `async with` block runs.

        It ends `succeeded`; or `failed` with the exception that leaves the block, which passes;
        or `aborted` when it is cancelled or interrupted; or as the report was told.

        Args:
            job_id: The job's id; no UUID becomes one by `job_uuid`.
            name: What the job is, at most 120 characters are kept.
            created: When this run was enqueued, ms since the epoch. None: the run whose record
                waits for this attempt, or else a new run that begins now.
            attempt: 1, 2, ... within the run.
            timeout: Seconds that the attempt may take. One that takes longer is no longer
                believed to be alive.

        Raises:
            ValueError: `attempt` or `created` is out of range.
        """
        return RunningJob(self, self.attempt(job_id, name, created, attempt, timeout))

    def attempt(
        self, job_id: str, name: str, created: int | None, number: int, timeout: float | None
    ) -> Attempt:
        """An attempt that `begin` and `end` take; `job` says what the arguments are."""
        if number < 1:
            raise ValueError(f"attempt is {number}: the first attempt is 1")
        if created is not None and created < 0:
            raise ValueError(f"created is {created}: it is in ms since the epoch")
        return Attempt(
            self.settings, job_id, name=name, created=created, number=number, timeout=timeout
        )

    def begin(self, attempt: Attempt) -> None:
        """Show the attempt as `in_progress`, and keep it so until it ends."""
        self._add(attempt)

    def end(self, attempt: Attempt, outcome: Outcome) -> None:
        """Show how the attempt ended."""
        attempt.outcome = outcome
        self._add(attempt)

    def forget(self, attempt: Attempt) -> None:
        """Leave the attempt to somebody else: its end is written already, or elsewhere."""
        with self._lock:
            self._items.pop(attempt, None)

    def refresh(self) -> None:
        """Write every attempt's whole record again: what stands in Redis may be gone."""
        with self._lock:
            for item in self._items:
                item.must_be_written_again()
            self._sample_at = 0.0
        self._wake.set()

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until all that was reported so far is in Redis.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            Whether it is.
        """
        with self._lock:
            if self._thread is None:
                return not self._items
            self._asked += 1
            asked = self._asked
            self._wake.set()
            return self._flushed.wait_for(lambda: self._served >= asked, timeout)

    def close(self, timeout: float = 5.0) -> None:
        """Write what is unwritten, then stop. A second call does nothing.

        Args:
            timeout: Seconds to wait at most. What could not be written by then is lost, and the
                log says how much that is.
        """
        if self._closed:
            return
        self.flush(timeout)
        self._closed = True
        atexit.unregister(self.close)
        if self._thread is not None:
            self._wake.set()
            self._thread.join(_STOP)
        lost = sum(item.is_over for item in self._items)
        if lost:
            _log.error("closed with %d final states unwritten: Redis can't be reached", lost)
        with contextlib.suppress(*OUTAGE):
            self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self.close()

    def _add(self, item: Item) -> None:
        with self._lock:
            if self._closed:
                _log.warning("the publisher is closed: a report was dropped")
                return
            self._items[item] = None
            self._changed.append(item)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="jobstatus", daemon=True)
                self._thread.start()
                atexit.register(self.close, 2.0)
        self._wake.set()

    def _run(self) -> None:
        while not self._closed:
            if self._failures:
                time.sleep(max(0.0, self._sample_at - time.monotonic()))
            else:
                self._wake.wait(self._seconds_until_due())
            self._wake.clear()
            try:
                self._tick()
            except Exception:
                # A mistake of ours; the jobs' own reports must go on.
                _log.exception("status could not be published")
                self._back_off()
            time.sleep(_PAUSE)

    def _seconds_until_due(self) -> float | None:
        return max(0.0, self._sample_at - time.monotonic()) if self._items else None

    def _tick(self) -> None:
        now = time.monotonic()
        with self._lock:
            asked = self._asked
            sample = now >= self._sample_at or asked > self._served
            items = list(self._items if sample else dict.fromkeys(self._changed))
            self._changed = []
        if sample:
            self._sample_at = now + self.settings.interval
        try:
            self._publish(items, now, sample=sample)
        except OUTAGE as error:
            self._hold(error)
            return
        if self._failures:
            self._failures = 0
            _log.warning("Redis takes status again")
        with self._lock:
            self._served = max(self._served, asked)
            self._flushed.notify_all()

    def _publish(self, items: list[Item], now: float, *, sample: bool) -> None:
        unknown = [i for i in items if isinstance(i, Attempt) and i.created is None]
        if unknown:
            runs = self._store.runs([i.key for i in unknown])
            for attempt, run in zip(unknown, runs, strict=True):
                attempt.join(run)
        # Whether an item was over is asked before its write is made, never after: it may end
        # meanwhile, and that end is still to be written.
        due = [(i, i.is_over, w) for i in items if (w := i.write(now, sample=sample)) is not None]
        if not due:
            return
        results = self._store.write([write for _, _, write in due])
        refused = None
        for (item, was_over, _), result in zip(due, results, strict=True):
            if isinstance(result, Refused) and not result.is_foreign:
                refused = result  # out of memory, read-only, loading: to be tried again
            else:
                self._settle(item, result, was_over=was_over)
        if refused is not None:
            raise ConnectionError(refused.why)

    def _settle(self, item: Item, result: Written | Refused, *, was_over: bool) -> None:
        """Forget what needs no further writes."""
        if isinstance(result, Refused):
            _log.error("%s can't be written, something else stands there: %s", item.key, result.why)
        elif result is Written.FENCED:
            _log.info("%s was taken over by a later attempt or run", item.key)
        elif not was_over:
            return
        with self._lock:
            self._items.pop(item, None)

    def _hold(self, error: Exception) -> None:
        """Keep everything for the next try: any of it may not have arrived, or be gone."""
        if not self._failures:
            _log.warning("Redis can't take status, reports are held: %s", error)
        self.refresh()
        self._back_off()

    def _back_off(self) -> None:
        first, most = _RETRY
        delay = min(most, first * 2**self._failures)
        self._failures = min(self._failures + 1, 10)
        self._sample_at = time.monotonic() + delay


_publishers: "weakref.WeakSet[Publisher]" = weakref.WeakSet()


def _after_fork() -> None:
    for publisher in _publishers:
        publisher._reset()  # noqa: SLF001


os.register_at_fork(after_in_child=_after_fork)
