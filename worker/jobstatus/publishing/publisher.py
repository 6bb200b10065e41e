"""The publisher: one thread per process that tells Redis how the jobs of the process stand.

Job code never waits for it. A report is an assignment; the thread looks at all reports every
`interval`, writes what has changed in one pipeline, renews leases, and keeps what Redis couldn't
take until it can (`delivery`). A change of state wakes it at once. A second thread, started when
first needed, calls what was given to `sample`, so that one that blocks holds up no lease.
"""

import atexit
import contextlib
import logging
import os
import sys
import threading
import time
import weakref
from datetime import datetime
from math import isfinite
from types import TracebackType
from typing import Any, Final, Self
from uuid import UUID

from jobstatus.publishing.attempt import Attempt, JobContext, ms_until, pending_write
from jobstatus.publishing.delivery import Delivery
from jobstatus.publishing.sampler import SamplerThread
from jobstatus.publishing.stats import PublisherStats
from jobstatus.reporting.report import Outcome
from jobstatus.settings import PublisherSettings
from jobstatus.storage.cluster_store import AnyStore, store_for
from jobstatus.storage.store import REDIS_ERRORS, Write

_PAUSE: Final = 0.02
"""Seconds between two ticks at least, so that a burst of changes shares a few pipelines."""

_STOP: Final = 0.5
"""Seconds that the thread gets to come to its end. It is a daemon: it holds nobody up."""

_AT_EXIT: Final = 2.0
"""Seconds for which the process's end waits for a publisher that nobody has closed."""

_QUEUED_FOR: Final = 86_400_000
"""ms that a job is expected to wait in a queue at most; arq's own default."""

_LAST_CREATED: Final = 253_402_300_799_999
"""The latest `created` that a time can say, ms since the epoch."""

_log = logging.getLogger("jobstatus")


class Publisher:
    """Publishes the status of this process's jobs.

    Thread-safe; its thread starts with the first report. Nothing that job code calls raises or
    waits because of Redis; `flush` and `close` wait, as long as they are told to. In a forked
    child it is as if nothing had been reported: the jobs of the parent stay the parent's.
    """

    def __init__(self, store: AnyStore, settings: PublisherSettings | None = None) -> None:
        self.settings = settings or PublisherSettings.from_env()
        self._store = store
        self._closed = False
        self._reset()
        _publishers.add(self)

    @classmethod
    def from_url(cls, url: str | None = None, **settings: Any) -> Self:
        """A publisher to the Redis at `url`. It connects when there is something to report.

        Args:
            url: As `JOBSTATUS_REDIS_URL` (see `jobstatus.redis_url`); None: what that says, else
                `redis://127.0.0.1:6379/0`.
            **settings: Fields of `PublisherSettings` that win over the environment's.

        Raises:
            SettingsError: a setting can't be used.
        """
        if url is not None:
            settings["redis_url"] = url
        known = PublisherSettings.from_env(**settings)
        return cls(store_for(known), known)

    def _reset(self) -> None:
        """As if nothing had been reported; also what a forked child begins with."""
        self._delivery = Delivery(self._store, self.settings)
        self._thread: threading.Thread | None = None
        self._is_running = False
        self._sampling = SamplerThread()

    def pending(
        self,
        job_id: str | UUID,
        *,
        name: str,
        defer_until: datetime | None = None,
        created: int | None = None,
    ) -> None:
        """Show a job as accepted and waiting. Say it before the job is handed over.

        Args:
            job_id: The job's id; no UUID becomes one by `job_uuid`.
            name: What the job is, at most 120 characters are kept.
            defer_until: When it may start at the earliest; the record outlives it.
            created: When it was enqueued, ms since the epoch; None: now, and if the job has
                begun already this changes nothing.

        Raises:
            ValueError: `created` is out of range.
            TypeError: `job_id` is no str and no UUID.
        """
        expires = ms_until(defer_until) + _QUEUED_FOR
        known = None if created is None else _checked(created)
        self.publish(pending_write(self.settings, job_id, name, known, expires))

    def publish(self, write: Write) -> None:
        """Deliver one record."""
        with self._delivery.lock:
            if self._is_open():
                self._delivery.add(write)
        self._wake()

    def job(
        self,
        job_id: str | UUID,
        *,
        name: str,
        created: int | None = None,
        attempt: int = 1,
        timeout: float | None = None,
    ) -> JobContext:
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
                believed to be alive. None, or infinity: no limit.

        Raises:
            ValueError: `attempt`, `created` or `timeout` is out of range.
            TypeError: `job_id` is no str and no UUID.
        """
        return JobContext(self, self.attempt(job_id, name, created, attempt, timeout))

    def attempt(
        self,
        job_id: str | UUID,
        name: str,
        created: int | None,
        number: int,
        timeout: float | None,
    ) -> Attempt:
        """An attempt that `begin` and `end` take; `job` says what the arguments are."""
        if number < 1:
            raise ValueError(f"attempt is {number}: the first attempt is 1")
        if timeout is not None and not timeout > 0:
            raise ValueError(f"timeout is {timeout}: it must be above 0")
        return Attempt(
            self.settings,
            job_id,
            name=name,
            created=None if created is None else _checked(created),
            number=number,
            timeout=timeout if timeout is not None and isfinite(timeout) else None,
        )

    def begin(self, attempt: Attempt) -> None:
        """Show the attempt as `in_progress`, and keep it so until it ends."""
        with self._delivery.lock:
            if self._is_open():
                self._delivery.begin(attempt)
        self._wake()

    def end(self, attempt: Attempt, outcome: Outcome) -> None:
        """Show how the attempt ended. It ends once; what is said later changes nothing."""
        with self._delivery.lock:
            if attempt.outcome is not None:
                return
            attempt.outcome = outcome
        self.stats.finished_attempts[outcome.state] += 1
        with self._delivery.lock:
            if self._is_open():
                self._delivery.end(attempt)
        self._wake()

    def forget(self, attempt: Attempt, outcome: Outcome) -> None:
        """Leave the attempt to somebody else, who has written how it ended."""
        self.stats.finished_attempts[outcome.state] += 1
        self._delivery.forget(attempt)

    @property
    def stats(self) -> PublisherStats:
        """What has happened."""
        return self._delivery.stats

    @property
    def running(self) -> int:
        """How many attempts run now."""
        return len(self._delivery.running())

    @property
    def unwritten_final_states(self) -> int:
        """How many attempts have ended whose end is still to be written."""
        return self._delivery.final_states

    def refresh(self) -> None:
        """Write every attempt's whole record again: what stands in Redis may be gone."""
        self._delivery.refresh()
        self._delivery.wake.set()

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until all that was reported so far is in Redis.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            Whether it is.
        """
        delivery = self._delivery
        with delivery.lock:
            if self._thread is None:
                return delivery.is_empty
            delivery.asked += 1
            asked = delivery.asked
            delivery.wake.set()
            return delivery.flushed.wait_for(lambda: delivery.served >= asked, timeout)

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
        self._sampling.close()
        if self._thread is not None:
            self._delivery.wake.set()
            self._thread.join(_STOP)
        lost = self._delivery.final_states
        if lost:
            _log.error("closed with %d final states unwritten", lost)
        with contextlib.suppress(*REDIS_ERRORS):
            self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self.close()

    def _wake(self) -> None:
        if not self._delivery.wake.is_set():  # setting it costs more than looking
            self._delivery.wake.set()

    def _is_open(self) -> bool:
        """Whether reports are taken; the thread is started, or restarted, if it doesn't run."""
        if self._closed:
            _log.warning("the publisher is closed: a report was dropped")
            return False
        if not self._is_running:
            self._start()
        return True

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="jobstatus", daemon=True)
        try:
            self._is_running = True
            thread.start()
        except RuntimeError as error:  # no more threads, or the interpreter ends
            self._is_running = False
            _log.error("status can't be published: %s", error)
            return
        is_first, self._thread = self._thread is None, thread
        if not is_first:
            _log.error("the publisher's thread had ended, it was started again")
            return
        atexit.register(self.close, _AT_EXIT)
        if "multiprocessing.util" in sys.modules:
            # A child of multiprocessing ends without atexit, but not without this.
            from multiprocessing.util import Finalize  # noqa: PLC0415

            Finalize(self, _close, args=(weakref.ref(self),), exitpriority=10)

    def _run(self) -> None:
        """Deliver until closed. Nothing ends this thread: no mistake of ours or of a job's."""
        delivery = self._delivery
        try:
            while not self._closed:
                try:
                    self._tick()
                except BaseException:
                    _log.exception("status could not be published, it is tried again")
                    delivery.refresh()
                    delivery.back_off()
                if delivery.failures or not delivery.has_backlog:
                    time.sleep(_PAUSE)
        finally:
            self._is_running = False

    def _tick(self) -> None:
        delivery = self._delivery
        wait = delivery.seconds_until_due()
        if delivery.failures:
            time.sleep(wait or 0.0)
        else:
            delivery.wake.wait(wait)
        delivery.wake.clear()
        if delivery.tick():
            self._sampling.ask(delivery.running())


def _checked(created: int) -> int:
    if not 0 <= created <= _LAST_CREATED:
        raise ValueError(f"created is {created}: it is in ms since the epoch")
    return int(created)


def _close(publisher: "weakref.ref[Publisher]") -> None:
    if (known := publisher()) is not None:
        known.close(_AT_EXIT)


_publishers: "weakref.WeakSet[Publisher]" = weakref.WeakSet()


def _after_fork() -> None:
    for publisher in _publishers:
        publisher._reset()  # noqa: SLF001


os.register_at_fork(after_in_child=_after_fork)
