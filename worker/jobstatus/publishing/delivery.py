"""Delivery: holds everything that was reported until Redis has accepted it.

Job threads add attempts and writes. One thread, the publisher's, calls `tick`, which does all the
rest: reports of running attempts and recent changes first, then the backlog of an outage.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import Final

from jobstatus.publishing.attempt import Attempt
from jobstatus.publishing.backlog import Backlog
from jobstatus.publishing.backoff import OUTAGE_RETRY_SECONDS, REFUSAL_RETRY_SECONDS, Backoff
from jobstatus.publishing.batch_sender import BatchSender
from jobstatus.publishing.recent_writes import RecentWrites
from jobstatus.publishing.run_resolver import Due, RunResolver
from jobstatus.publishing.stats import PublisherStats
from jobstatus.publishing.sweeper import Sweeper
from jobstatus.settings import PublisherSettings
from jobstatus.status import FINAL_STATES, JobState
from jobstatus.storage.cluster_store import AnyStore
from jobstatus.storage.refusals import REDIS_ERRORS, RefusalLog, refusal_of
from jobstatus.storage.write import Write

_COMPACT_INTERVAL_SECONDS: Final = 0.1
"""Seconds after which an attempt that ends during an outage is reduced to its final write."""

_BACKLOG_SECONDS: Final = 0.2
"""Seconds that one tick spends on the backlog before it looks at new reports again."""

_DROP_LOG_INTERVAL_SECONDS: Final = 60.0

_OUTCOME_STATES: Final = FINAL_STATES | {JobState.RETRYING}

_log = logging.getLogger("jobstatus")


class Delivery:
    """Holds what was reported, and delivers it in few round trips however many jobs there are.

    Attributes:
        lock: Held while the queues change.
        wake: Set when there is something to deliver at once.
        stats: Counts what has happened.
    """

    def __init__(self, store: AnyStore, settings: PublisherSettings) -> None:
        # Reentrant, since a signal handler may report while its own thread is reporting.
        self.lock = threading.RLock()
        self.wake = threading.Event()
        self.stats = PublisherStats()
        self._refusals = RefusalLog(
            "Redis refuses to store status, it is held and retried", self.stats.refusals
        )
        self._store = store
        self._settings = settings
        self._flushed = threading.Condition(self.lock)
        self._flushes_requested = 0
        self._flushes_done = 0
        self._running: dict[Attempt, None] = {}
        self._changed: list[Attempt | Write] = []
        self._new_writes: deque[Write] = deque()
        self._recent = RecentWrites(store)
        self._sweeper = Sweeper(store, settings)
        self._runs = RunResolver(store, self._refusals.add)
        self._sender = BatchSender(
            store,
            settings.timeout,
            self.stats,
            self._refusals,
            self._runs,
            self._recent,
            self._stop_reporting,
        )
        self._backlog = Backlog(settings.max_held_records)
        self._backlog_at = 0.0
        self._backlog_retry = Backoff(*REFUSAL_RETRY_SECONDS)
        self._outage_retry = Backoff(*OUTAGE_RETRY_SECONDS)
        self._is_unavailable = False
        self._read_at = 0.0
        self._drop_logged_at = float("-inf")

    # ── called by job threads ────────────────────────────────────────────────────────────────

    def begin(self, attempt: Attempt) -> None:
        """Deliver the reports of an attempt from now on."""
        with self.lock:
            attempt.changed_at = time.monotonic()
            self._running[attempt] = None
            self._changed.append(attempt)

    def end(self, attempt: Attempt) -> None:
        """Deliver the outcome of an attempt."""
        with self.lock:
            attempt.changed_at = attempt.ended_at = time.monotonic()
            self._running.pop(attempt, None)
            self._changed.append(attempt)

    def add(self, write: Write) -> None:
        """Deliver a write."""
        with self.lock:
            self._changed.append(write)

    def release(self, attempt: Attempt) -> None:
        """Deliver nothing more of an attempt."""
        with self.lock:
            attempt.is_released = True
            self._running.pop(attempt, None)
        self._runs.release(attempt.key, attempt.created, attempt.number)

    def refresh(self) -> None:
        """Write the whole record of every running attempt again: Redis may have lost it."""
        with self.lock:
            for attempt in self._running:
                attempt.write_again()
            self._read_at = 0.0

    def flush(self, timeout: float) -> bool:
        """Wait until everything that was reported so far is written; return whether it is.

        Args:
            timeout: Seconds to wait at most.
        """
        with self.lock:
            self._flushes_requested += 1
            requested = self._flushes_requested
            self.wake.set()
            return self._flushed.wait_for(lambda: self._flushes_done >= requested, timeout)

    def running(self) -> list[Attempt]:
        """Return the running attempts."""
        with self.lock:
            return list(self._running)

    @property
    def final_states(self) -> int:
        """The number of outcomes that are not written yet."""
        with self.lock:
            # An attempt that has begun and ended since the last tick is in the list twice.
            changed = {i for i in self._changed if isinstance(i, Attempt) and i.has_ended}
            # Copies, since the publisher's thread changes these meanwhile.
            writes = [*list(self._new_writes), *(write for _, write in self._sender.sending)]
            outcomes = sum(write.record.state in _OUTCOME_STATES for write in writes)
            return len(changed) + outcomes + self._backlog.final_states

    @property
    def is_empty(self) -> bool:
        """Whether no attempt runs and nothing is left to write."""
        return not (self._running or self._changed or self._new_writes or self._backlog)

    # ── called by the publisher's thread ─────────────────────────────────────────────────────

    @property
    def is_failing(self) -> bool:
        """Whether Redis was unavailable at the last try."""
        return self._outage_retry.failures > 0

    @property
    def has_more_to_send(self) -> bool:
        """Whether the backlog has writes that may be sent now."""
        return bool(self._backlog) and time.monotonic() >= self._backlog_at

    def seconds_until_due(self) -> float | None:
        """Return for how long there is nothing to do; None: until something is reported."""
        now = time.monotonic()
        if self.is_failing:
            return min(max(0.0, self._read_at - now), _COMPACT_INTERVAL_SECONDS)
        due = []
        if self._running:
            due.append(self._read_at)
        if self._backlog:
            due.append(self._backlog_at)
        if (check_at := self._recent.check_at) is not None:
            due.append(check_at)
        if (sweep_at := self._sweeper.due_at) is not None:
            due.append(sweep_at)
        if self._changed:
            due.append(now)
        return max(0.0, min(due) - now) if due else None

    def tick(self) -> bool:
        """Deliver what is due.

        Returns:
            Whether all reports were read, not only those of attempts that have changed state.
        """
        now = time.monotonic()
        if self.is_failing and now < self._read_at:
            self._add_to_backlog(self._writes_of_changes(self._take_changed()))
            return False
        with self.lock:
            requested = self._flushes_requested
            is_reading_due = now >= self._read_at or requested > self._flushes_done
            changed = self._take_changed()
            running = (
                list(self._running)
                if is_reading_due
                else [i for i in changed if isinstance(i, Attempt) and i in self._running]
            )
        self._new_writes.extend(self._writes_of_changes(changed))
        if is_reading_due:
            self._read_at = now + self._settings.report_interval
        try:
            self._send_new(dict.fromkeys(running), now, is_reading_due=is_reading_due)
            self._send_backlog(now)
            self._rewrite_what_is_lost(now)
            self._sweeper.sweep(now)
        except REDIS_ERRORS as error:
            self._hold(error)
            return is_reading_due
        if self.is_empty:
            self._outage_retry.reset()
        if not (self._backlog or any(attempt.is_refused for attempt in running)):
            with self.lock:
                self._flushes_done = max(self._flushes_done, requested)
                self._flushed.notify_all()
        return is_reading_due

    def back_off(self) -> None:
        """Delay the next try; the delay grows with each failure."""
        self._read_at = time.monotonic() + self._outage_retry.fail()

    def _take_changed(self) -> list[Attempt | Write]:
        with self.lock:
            changed, self._changed = self._changed, []
        return changed

    def _writes_of_changes(self, changed: Iterable[Attempt | Write]) -> Iterator[Write]:
        """Yield the writes among the changes; an attempt that has ended becomes its final write."""
        for item in {id(item): item for item in changed}.values():  # it may have begun as well
            if isinstance(item, Write):
                yield item
            elif item.outcome is not None and not item.is_released:
                item.is_released = True  # from now on only the write is left
                made, is_written = item.count_reports()
                self.stats.count_reports(made, is_written=is_written)
                try:
                    yield item.final_write(item.outcome)
                except BaseException:  # a bug, which must not stop the writes of other jobs
                    _log.exception("the final state of %s can't be built, it is dropped", item.key)

    def _send_new(self, running: Iterable[Attempt], now: float, *, is_reading_due: bool) -> None:
        """Send recent changes, and what is due of the running attempts."""
        unknown = [attempt for attempt in running if not attempt.is_run_known]
        if unknown:
            # The `pending` record of the same run must be stored before the attempt looks for it.
            self._send_all(self._take_new_writes())
            self._runs.join_attempts(unknown, self._sender.batch_size)
        due = self._due(running, now, is_reading_due=is_reading_due)
        self._send_all(chain(self._take_new_writes(), due))
        self._hold_refused()

    def _send_all(self, due: Iterator[Due]) -> None:
        while batch := list(islice(due, self._sender.batch_size)):
            self._send(batch, self._add_to_backlog)

    def _take_new_writes(self) -> Iterator[Due]:
        while self._new_writes:
            yield None, self._new_writes.popleft()

    def _due(
        self, running: Iterable[Attempt], now: float, *, is_reading_due: bool
    ) -> Iterator[Due]:
        for attempt in running:
            if not attempt.is_run_known or attempt.has_ended:
                continue
            try:
                write = attempt.write(now, is_reading_due=is_reading_due)
            except BaseException:  # a malformed report of one job must not stop those of others
                _log.exception("the report of %s can't be read", attempt.key)
                continue
            if is_reading_due:
                made, is_written = attempt.count_reports()
                self.stats.count_reports(made, is_written=is_written)
            if write is not None:
                yield attempt, write

    def _send_backlog(self, now: float) -> None:
        """Send the backlog for a limited time."""
        until = time.monotonic() + _BACKLOG_SECONDS
        while self._backlog and time.monotonic() < until and now >= self._backlog_at:
            batch = self._backlog.take(self._sender.batch_size)
            due: list[Due] = [(None, write) for write in batch]
            has_progress = self._send(due, self._backlog.put_back)
            self._hold_refused()
            if not has_progress:
                # Redis refuses them all. Writes behind them may be accepted in the next tick.
                self._backlog_at = time.monotonic() + self._backlog_retry.fail()
                return
            self._backlog_retry.reset()

    def _send(self, batch: list[Due], put_back: Callable[[Iterable[Write]], None]) -> bool:
        """Send one batch; `put_back` takes the writes that were not sent, in their order of age."""
        has_progress = self._sender.send(batch, put_back)
        if self._sender.accepted:
            self._sweeper.written(batch[0][1].key)
            self._outage_retry.reset()
            if self._is_unavailable:
                self._is_unavailable = False
                _log.warning("Redis is available again, the held reports are being written")
                self._rewrite_recent()
        return has_progress

    def _stop_reporting(self, attempt: Attempt) -> None:
        with self.lock:
            self._running.pop(attempt, None)

    def _hold_refused(self) -> None:
        """Put refused writes behind the backlog."""
        refused = self._sender.take_refused()
        if refused:
            if not self._backlog:
                self._backlog_at = time.monotonic() + REFUSAL_RETRY_SECONDS[0]
            self._add_to_backlog(refused)

    def _add_to_backlog(self, writes: Iterable[Write]) -> None:
        now = time.monotonic()
        dropped = self._backlog.add(writes)
        for write in dropped:
            self._runs.release(write.key, write.record.created, write.record.attempt)
        if dropped and now >= self._drop_logged_at + _DROP_LOG_INTERVAL_SECONDS:
            self._drop_logged_at = now
            _log.error(
                "more than %d records are held while Redis is unavailable: the oldest final "
                "states are dropped, %d so far (JOBSTATUS_MAX_HELD_RECORDS is the limit)",
                self._settings.max_held_records,
                self._backlog.dropped,
            )
        self.stats.dropped_final_states = self._backlog.dropped

    def _hold(self, error: Exception) -> None:
        """Keep everything for the next try: any write may not have arrived, or may be lost."""
        self.stats.outages += 1
        if (refusal := refusal_of(error)) is not None:  # of SCRIPT LOAD
            self.stats.refusals[refusal.code] += 1
        self._sender.shrink()
        new_writes, self._new_writes = self._new_writes, deque()
        self._add_to_backlog(new_writes)
        self._hold_refused()
        if not self._is_unavailable:
            self._is_unavailable = True
            _log.warning("Redis is unavailable, reports are held and written later: %s", error)
            self._rewrite_recent()
        self.refresh()
        self.back_off()

    def _rewrite_what_is_lost(self, now: float) -> None:
        """Write again what Redis has lost although it was never unavailable."""
        if self._store.is_replaced:
            self._store.is_replaced = False
            self._rewrite_recent()
        if self._recent.are_lost(now):
            _log.warning("Redis has lost records that it had accepted, they are written again")
            self._rewrite_recent()

    def _rewrite_recent(self) -> None:
        self._add_to_backlog(self._recent.take())
        self._backlog_at = 0.0
