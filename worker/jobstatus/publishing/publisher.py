"""The publisher: one thread per process that writes the status of the process's jobs to Redis.

Job code never waits for it. A report is an assignment; the thread reads all reports every
`report_interval`, writes what has changed in one round trip, renews leases, and holds what Redis
does not accept until it does (`delivery`). A change of state wakes it up at once.
"""

import asyncio
import atexit
import contextlib
import logging
import os
import sys
import threading
import time
import weakref
from datetime import datetime, timedelta
from math import isfinite
from typing import Any, Final, Self
from uuid import UUID

from jobstatus.publishing.attempt import Attempt
from jobstatus.publishing.delivery import Delivery
from jobstatus.publishing.enqueued_record import ms_until, pending_write
from jobstatus.publishing.job_context import JobContext
from jobstatus.publishing.sampler_thread import SamplerThread
from jobstatus.publishing.stats import PublisherStats
from jobstatus.reporting.error_text import ErrorText, StatusError
from jobstatus.reporting.hook import hook_of
from jobstatus.reporting.report import Outcome
from jobstatus.settings import PublisherSettings
from jobstatus.status import MAX_TIMESTAMP_MS
from jobstatus.storage.cluster_store import AnyStore, store_for
from jobstatus.storage.refusals import REDIS_ERRORS
from jobstatus.storage.write import Write

_TICK_PAUSE_SECONDS: Final = 0.02
"""Seconds between two deliveries at least, so that a burst of changes shares a few round trips."""

_THREAD_JOIN_SECONDS: Final = 0.5
"""Seconds that `close` waits for the thread to end. It is a daemon, so it can't block the exit."""

_EXIT_FLUSH_SECONDS: Final = 2.0
"""Seconds that the end of the process waits for a publisher that was not closed."""

_MAX_QUEUE_MS: Final = 86_400_000
"""ms that a job is expected to wait in a queue at most; arq's own default."""

_log = logging.getLogger("jobstatus")


class Publisher:
    """Publishes the status of this process's jobs.

    It is thread-safe, and its thread starts with the first report. No method that job code calls
    raises or waits because of Redis; only `flush` and `close` wait, for a given time.
    A forked child begins without any reports: the jobs of the parent remain the parent's.

    Attributes:
        settings: Its settings.
        errors: Describes the exceptions of jobs.
    """

    def __init__(
        self,
        store: AnyStore,
        settings: PublisherSettings | None = None,
        *,
        status_error: StatusError | None = None,
    ) -> None:
        self.settings = settings or PublisherSettings.from_env()
        self.errors = ErrorText(
            self.settings.error_detail, hook_of("status_error", status_error, str)
        )
        self._store = store
        self._is_closed = False
        self._reset()
        _publishers.add(self)

    @classmethod
    def from_url(
        cls,
        url: str | None = None,
        *,
        status_error: StatusError | None = None,
        **settings: Any,
    ) -> Self:
        """Create a publisher for the Redis at `url`. It connects with the first report.

        Args:
            url: As `JOBSTATUS_REDIS_URL` (see `jobstatus.redis_url`). None: the value of that
                variable, or else `redis://127.0.0.1:6379/0`.
            status_error: Returns the message to store of an exception, such as one without
                secrets; if it returns None, only the exception's type. Without this function, the
                exception's own text is stored.
            **settings: Fields of `PublisherSettings`, which override the environment.

        Raises:
            SettingsError: A setting is not valid.
        """
        if url is not None:
            settings["redis_url"] = url
        known = PublisherSettings.from_env(**settings)
        return cls(store_for(known), known, status_error=status_error)

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else f"{self.running} running"
        return f"<Publisher, key prefix {self.settings.key_prefix!r}: {state}>"

    def _reset(self) -> None:
        """Begin without any reports; also called in a forked child."""
        self._delivery = Delivery(self._store, self.settings)
        self._thread: threading.Thread | None = None
        self._is_running = False
        self._sampler = SamplerThread()

    def pending(
        self,
        job_id: str | UUID,
        *,
        name: str,
        defer_until: datetime | None = None,
        created: int | None = None,
    ) -> None:
        """Report a job as enqueued and waiting. Call it before the job is handed to a queue.

        Args:
            job_id: The job's id; an id that is not a UUID is converted by `job_uuid`.
            name: The kind of job; at most 120 characters are kept.
            defer_until: The earliest time at which it may begin; the record is kept until later.
            created: When it was enqueued, ms since the epoch. None: now, and the call changes
                nothing if the job has begun already.

        Raises:
            ValueError: `created` is out of range.
            TypeError: `job_id` is neither a str nor a UUID.
        """
        expires_ms = ms_until(defer_until) + _MAX_QUEUE_MS
        known = None if created is None else _checked(created)
        self.publish(pending_write(self.settings, job_id, name, known, expires_ms))

    def publish(self, write: Write) -> None:
        """Deliver one write."""
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
        timeout: timedelta | float | None = None,
    ) -> JobContext:
        """Report a job as running while a `with` or `async with` block runs.

        The outcome is `succeeded`; `failed` if an exception leaves the block, which propagates;
        `aborted` if the block is cancelled or interrupted; or what the report was given.

        Args:
            job_id: The job's id; an id that is not a UUID is converted by `job_uuid`.
            name: The kind of job; at most 120 characters are kept.
            created: When this run was enqueued, ms since the epoch. None: the run whose record
                waits for this attempt, or else a new run that begins now.
            attempt: 1, 2, ... within the run.
            timeout: Seconds, or a timedelta, that the attempt may take. After that it is shown as
                `unknown`. None or infinity: no limit.

        Raises:
            ValueError: `attempt`, `created` or `timeout` is out of range.
            TypeError: `job_id` is neither a str nor a UUID.
        """
        started = self.attempt(job_id, name, created, attempt, _seconds(timeout))
        return JobContext(started, self.begin, self.end, self.errors)

    def attempt(
        self,
        job_id: str | UUID,
        name: str,
        created: int | None,
        number: int,
        timeout: float | None,
        *,
        is_run: bool = True,
    ) -> Attempt:
        """Create an attempt for `begin` and `end`; the arguments are those of `job`.

        With `is_run` False it is one in which the job ends without being run.
        """
        if number < 1:
            raise ValueError(f"the first attempt has number 1, not {number}")
        if timeout is not None and not timeout > 0:
            raise ValueError(f"the timeout must be above 0, not {timeout}")
        return Attempt(
            self.settings,
            job_id,
            name=name,
            created=None if created is None else _checked(created),
            number=number,
            timeout=timeout if timeout is not None and isfinite(timeout) else None,
            is_run=is_run,
        )

    def begin(self, attempt: Attempt) -> None:
        """Report the attempt as `in_progress`, and renew its lease until it ends."""
        with self._delivery.lock:
            if self._is_open():
                self._delivery.begin(attempt)
        self._wake()

    def end(self, attempt: Attempt, outcome: Outcome) -> None:
        """Report the outcome of the attempt. Only the first call for an attempt counts."""
        with self._delivery.lock:
            if attempt.outcome is not None:
                return
            attempt.outcome = outcome
        attempt.encode_result()
        self._count(attempt, outcome)
        with self._delivery.lock:
            if self._is_open():
                self._delivery.end(attempt)
        self._wake()

    def release(self, attempt: Attempt, outcome: Outcome) -> None:
        """Write nothing more of the attempt: other code has written its outcome."""
        self._count(attempt, outcome)
        self._delivery.release(attempt)

    def _count(self, attempt: Attempt, outcome: Outcome) -> None:
        self.stats.finished_attempts[outcome.state] += 1
        if attempt.result is not None and outcome.state.is_final:
            self.stats.results["dropped" if attempt.result.body is None else "stored"] += 1

    @property
    def stats(self) -> PublisherStats:
        """Counters of what has happened."""
        return self._delivery.stats

    @property
    def running(self) -> int:
        """The number of running attempts."""
        return len(self._delivery.running())

    @property
    def unwritten_final_states(self) -> int:
        """The number of attempts that have ended and whose outcome is not written yet."""
        return self._delivery.final_states

    def refresh(self) -> None:
        """Write the whole record of every running attempt again: Redis may have lost it."""
        self._delivery.refresh()
        self._delivery.wake.set()

    def flush(self, timeout: timedelta | float = 5.0) -> bool:
        """Wait until everything that was reported so far is written to Redis.

        Args:
            timeout: Seconds, or a timedelta, to wait at most.

        Returns:
            Whether everything is written.
        """
        if self._thread is None:
            return self._delivery.is_empty
        return self._delivery.flush(_seconds(timeout))

    def close(self, timeout: timedelta | float = 5.0) -> None:
        """Write what is not written yet, then stop. A second call does nothing.

        Args:
            timeout: Seconds, or a timedelta, to wait at most. What is not written by then is lost;
                the number of lost final states is logged.
        """
        if self._is_closed:
            return
        self.flush(timeout)
        self._is_closed = True
        atexit.unregister(self.close)
        self._sampler.close()
        if self._thread is not None:
            self._delivery.wake.set()
            self._thread.join(_THREAD_JOIN_SECONDS)
        if lost := self._delivery.final_states:
            _log.error("%d final states were not written before the end and are lost", lost)
        with contextlib.suppress(*REDIS_ERRORS):
            self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.close)

    def _wake(self) -> None:
        if not self._delivery.wake.is_set():  # checking costs less than setting
            self._delivery.wake.set()

    def _is_open(self) -> bool:
        """Whether reports are accepted; starts the thread if it does not run."""
        if self._is_closed:
            _log.warning("a report was dropped: the publisher is closed")
            return False
        if not self._is_running:
            self._start()
        return True

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="jobstatus", daemon=True)
        try:
            self._is_running = True
            thread.start()
        except RuntimeError as error:  # no more threads, or the interpreter is shutting down
            self._is_running = False
            _log.error("status can't be published: the thread can't be started: %s", error)
            return
        is_first, self._thread = self._thread is None, thread
        if not is_first:
            _log.error("the publisher's thread had ended unexpectedly; it was started again")
            return
        atexit.register(self.close, _EXIT_FLUSH_SECONDS)
        if "multiprocessing.util" in sys.modules:
            # A child of multiprocessing runs these finalizers at its end, but not atexit's.
            from multiprocessing.util import Finalize  # noqa: PLC0415

            Finalize(self, _close, args=(weakref.ref(self),), exitpriority=10)

    def _run(self) -> None:
        """Deliver until closed. No bug, here or in a job's report, may end this thread."""
        delivery = self._delivery
        try:
            while not self._is_closed:
                try:
                    self._tick()
                except BaseException:
                    _log.exception("status could not be published, it is tried again")
                    delivery.refresh()
                    delivery.back_off()
                if delivery.is_failing or not delivery.has_more_to_send:
                    time.sleep(_TICK_PAUSE_SECONDS)
        finally:
            self._is_running = False

    def _tick(self) -> None:
        delivery = self._delivery
        wait = delivery.seconds_until_due()
        if delivery.is_failing:
            time.sleep(wait or 0.0)
        else:
            delivery.wake.wait(wait)
        delivery.wake.clear()
        if delivery.tick():
            self._sampler.request(delivery.running())


def _seconds(duration: Any) -> Any:
    """Return a duration in seconds; None stays None."""
    return duration.total_seconds() if isinstance(duration, timedelta) else duration


def _checked(created: int) -> int:
    if not 0 <= created <= MAX_TIMESTAMP_MS:
        raise ValueError(f"created must be in ms since the epoch, not {created}")
    return int(created)


def _close(publisher: "weakref.ref[Publisher]") -> None:
    if (known := publisher()) is not None:
        known.close(_EXIT_FLUSH_SECONDS)


_publishers: "weakref.WeakSet[Publisher]" = weakref.WeakSet()


def _after_fork() -> None:
    for publisher in _publishers:
        publisher._reset()  # noqa: SLF001


os.register_at_fork(after_in_child=_after_fork)
