"""Delivery: holds everything that was reported until it is written to Redis.

Job threads add items; one thread, the publisher's, calls `tick` and does all the rest. What runs
and what has just changed is written first, what is held since an outage (`backlog`) after that, in
exchanges of bounded size, each of which is settled by itself.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Final

from jobstatus.publishing.attempt import Attempt
from jobstatus.publishing.backlog import Backlog
from jobstatus.publishing.recent_writes import Recent
from jobstatus.publishing.stats import PublisherStats
from jobstatus.settings import PublisherSettings
from jobstatus.status import FINAL_STATES, JobState, WriteResult
from jobstatus.storage.cluster_store import AnyStore
from jobstatus.storage.store import REDIS_ERRORS, TIMEOUT_ERRORS, Refusal, Run, Write, refusal_of
from jobstatus.tracing import told

_RETRY_SECONDS: Final = (0.05, 0.5)
"""Seconds until the next attempt when Redis is unavailable: the first, and the longest."""

_ABSORB_SECONDS: Final = 0.1
"""Seconds after which a job that ended while Redis is unavailable is reduced to its record."""

_REFUSAL_RETRY_SECONDS: Final = (0.05, 1.0)
"""The same for single writes that Redis refuses while it accepts others."""

_MAX_EXCHANGE: Final = 1000
"""Writes in one exchange with Redis at most. Fewer where a slow link needs it."""

_PROBE: Final = 10
"""Writes in the first exchange after a failed one."""

_BACKLOG_SECONDS: Final = 0.2
"""Seconds for which one tick writes what is held, before it looks at what has changed since."""

_SAME_REFUSAL_SECONDS: Final = 60.0
"""Seconds within which a kind of refusal is logged once."""

_FINAL: Final = FINAL_STATES | {JobState.RETRYING}
"""How an attempt ends."""

_WRITTEN: Final = (WriteResult.CHANGED, WriteResult.RENEWED)
"""What becomes of nearly every report of a running attempt."""

_OTHER_SERVER: Final = frozenset({"READONLY", "LOADING", "MASTERDOWN"})
"""Refusals by a server that isn't the primary, or not yet: an outage, as if there were none."""

_log = logging.getLogger("jobstatus")

Due = tuple[Attempt | None, Write]
"""A write, and the running attempt that it is of; None where nothing but the write is left."""


class _UnavailableError(OSError):
    """Redis answers, but from a server that can't take writes now."""


class Delivery:
    """Holds what was reported and delivers it, in few exchanges however many jobs there are.

    Attributes:
        wake: Set when there is something to be delivered at once.
        failures: How often in a row Redis was unavailable.
        asked: How many flushes were asked for.
        served: How many of them are done.
        flushed: Notified when `served` moves.
        stats: What has happened.
    """

    def __init__(self, store: AnyStore, settings: PublisherSettings) -> None:
        self._store = store
        self._settings = settings
        # Reentrant: a signal handler may report while its own thread is reporting.
        self.lock = threading.RLock()
        self.flushed = threading.Condition(self.lock)
        self.wake = threading.Event()
        self.failures = 0
        self.asked = 0
        self.served = 0
        self.stats = PublisherStats()
        self._running: dict[Attempt, None] = {}
        self._taken: dict[str, Attempt] = {}
        """By key: the attempt that found out its run last, until its end is settled. Before that
        the stored record may seem to wait for the job's next attempt."""
        self._changed: list[Attempt | Write] = []
        self._fresh: deque[Write] = deque()
        self._backlog = Backlog(settings.max_held_records)
        self._backlog_at = 0.0
        self._backlog_refusals = 0
        self._refused: list[Write] = []
        self._settled = 0
        self._why_unavailable = ""
        self._sending: Sequence[Due] = ()
        self._exchange_size = _MAX_EXCHANGE
        self._sample_at = 0.0
        self._recent = Recent(store)
        self._is_unavailable = False
        self._refusal_logged: dict[str, float] = {}
        self._drop_logged_at = float("-inf")

    # ── what job threads call ────────────────────────────────────────────────────────────────

    def begin(self, attempt: Attempt) -> None:
        """Deliver what an attempt reports, from now on."""
        with self.lock:
            attempt.changed = time.monotonic()
            self._running[attempt] = None
            self._changed.append(attempt)

    def end(self, attempt: Attempt) -> None:
        """Deliver how an attempt ended."""
        with self.lock:
            attempt.changed = attempt.ended = time.monotonic()
            self._running.pop(attempt, None)
            self._changed.append(attempt)

    def add(self, write: Write) -> None:
        """Deliver a record."""
        with self.lock:
            self._changed.append(write)

    def forget(self, attempt: Attempt) -> None:
        """Deliver no more of an attempt."""
        with self.lock:
            attempt.is_forgotten = True
            self._running.pop(attempt, None)
            self._release(attempt.key, attempt.created)

    def _release(self, key: str, created: int | None) -> None:
        with self.lock:
            taken = self._taken.get(key)
            if taken is not None and taken.created == created:
                del self._taken[key]

    def running(self) -> list[Attempt]:
        """The attempts that run."""
        with self.lock:
            return list(self._running)

    @property
    def final_states(self) -> int:
        """How many final states are still to be written."""
        with self.lock:
            changed = [i for i in self._changed if isinstance(i, Attempt) and i.has_ended]
            # Copies: the publisher's thread goes on meanwhile.
            writes = [*list(self._fresh), *(write for _, write in self._sending)]
            final = sum(write.record.state in _FINAL for write in writes)
            return len(changed) + final + self._backlog.final_states

    @property
    def has_backlog(self) -> bool:
        """Whether more is held than one tick has written, and may be written now."""
        return bool(self._backlog) and time.monotonic() >= self._backlog_at

    @property
    def is_empty(self) -> bool:
        """Whether nothing runs, and nothing is left to be written."""
        return not (self._running or self._changed or self._fresh or self._backlog)

    def refresh(self) -> None:
        """Write every running attempt's whole record again: what is stored may be gone."""
        with self.lock:
            for attempt in self._running:
                attempt.must_be_written_again()
            self._sample_at = 0.0

    # ── what the publisher's thread calls ────────────────────────────────────────────────────

    def seconds_until_due(self) -> float | None:
        """For how long there is nothing to do; None: until something is reported."""
        now = time.monotonic()
        if self.failures:
            return min(max(0.0, self._sample_at - now), _ABSORB_SECONDS)
        due = []
        if self._running:
            due.append(self._sample_at)
        if self._backlog:
            due.append(self._backlog_at)
        if (check_at := self._recent.check_at) is not None:
            due.append(check_at)
        if self._changed:
            due.append(now)
        return max(0.0, min(due) - now) if due else None

    def tick(self) -> bool:
        """Deliver what is due.

        Returns:
            Whether this was the time to look at every report, not only at changes of state.
        """
        now = time.monotonic()
        if self.failures and now < self._sample_at:
            self._absorb()
            return False
        with self.lock:
            asked = self.asked
            sample = now >= self._sample_at or asked > self.served
            changed, self._changed = self._changed, []
            running = (
                list(self._running)
                if sample
                else [i for i in changed if isinstance(i, Attempt) and i in self._running]
            )
        self._fresh.extend(self._ended(changed))
        if sample:
            self._sample_at = now + self._settings.report_interval
        try:
            self._deliver(dict.fromkeys(running), now, sample=sample)
            self._deliver_backlog(now)
            self._check(now)
        except REDIS_ERRORS as error:
            self._hold(error)
            return sample
        if self.is_empty:
            self.failures = 0
        if not (self._backlog or any(attempt.is_refused for attempt in running)):
            with self.lock:
                self.served = max(self.served, asked)
                self.flushed.notify_all()
        return sample

    def _absorb(self) -> None:
        """Keep of what has changed only what is to be written, while Redis is unavailable."""
        with self.lock:
            changed, self._changed = self._changed, []
        self._add_to_backlog(self._ended(changed))

    def back_off(self) -> None:
        """Make the next attempt later than the last one."""
        first, longest = _RETRY_SECONDS
        delay = min(longest, first * 2**self.failures)
        self.failures = min(self.failures + 1, 10)
        self._sample_at = time.monotonic() + delay

    def _ended(self, changed: Iterable[Attempt | Write]) -> Iterator[Write]:
        """The writes among what has changed: attempts that have ended become one each."""
        for item in {id(item): item for item in changed}.values():  # it may have begun, too
            if isinstance(item, Write):
                yield item
            elif item.outcome is not None and not item.is_forgotten:
                item.is_forgotten = True  # from here on there is only the write
                self.stats.reports(*item.take_reports())
                try:
                    yield item.final_write(item.outcome)
                except BaseException:  # a mistake of ours, which must stop no others
                    _log.exception("%s: its final state can't be made, it is dropped", item.key)

    def _deliver(self, running: Iterable[Attempt], now: float, *, sample: bool) -> None:
        """Write what has changed and what is due of the running attempts."""
        self._join_attempts([attempt for attempt in running if not attempt.is_run_known])
        due = self._due(running, now, sample=sample)
        while batch := list(islice(chain(self._take_fresh(), due), self._exchange_size)):
            self._exchange(batch)
        self._hold_refused()

    def _take_fresh(self) -> Iterator[Due]:
        while self._fresh:
            yield None, self._fresh.popleft()

    def _deliver_backlog(self, now: float) -> None:
        """Write what is held, for a bounded time."""
        until = time.monotonic() + _BACKLOG_SECONDS
        while self._backlog and time.monotonic() < until and now >= self._backlog_at:
            batch = self._backlog.take(self._exchange_size)
            if self._exchange([(None, write) for write in batch]):
                self._backlog_refusals = 0
                self._hold_refused()
            else:
                # All of them were refused: perhaps others behind them will not be.
                self._hold_refused()
                first, longest = _REFUSAL_RETRY_SECONDS
                delay = min(longest, first * 2**self._backlog_refusals)
                self._backlog_refusals = min(self._backlog_refusals + 1, 10)
                self._backlog_at = time.monotonic() + delay
                return

    def _exchange(self, batch: Sequence[Due]) -> bool:
        """Write one batch; False if all that was left of it was refused for now.

        Raises:
            RedisError, OSError: Redis is unavailable; what is left of the batch is held.
        """
        began_at, left, self._settled = time.monotonic(), list(batch), 0
        self._sending = batch
        try:
            due = left
            if any(w.happened is not None or not w.is_run_known for _, w in batch):
                left, due = self._joined(batch, began_at)
            results = self._store.write([write for _, write in due]) if due else []
            left = self._settle_all(left, due, results)
            if left:
                raise _UnavailableError(self._why_unavailable)  # noqa: TRY301
        except BaseException as error:
            is_outage = isinstance(error, REDIS_ERRORS)
            if isinstance(error, TIMEOUT_ERRORS) or not is_outage:
                self._exchange_size = max(1, self._exchange_size // 4)
            if not is_outage and len(left) == 1:
                self._drop(*left[0])
                return False
            self._backlog.put_back(write for attempt, write in left if attempt is None)
            raise
        finally:
            self._sending = ()
        if due:
            self._fit(len(due), time.monotonic() - began_at)
        if self._settled:
            self._is_available()
        return self._settled > 0 or not due

    def _settle_all(
        self, left: Sequence[Due], due: Sequence[Due], results: Sequence[WriteResult | Refusal]
    ) -> list[Due]:
        """Settle each write.

        Args:
            left: What is to be held where a write can't be settled.
            due: The same writes as they were sent.
            results: What became of them.

        Returns:
            What the server can't take, since it isn't the primary, or not yet.
        """
        refused, unavailable = 0, []
        for original, (attempt, write), result in zip(left, due, results, strict=True):
            if isinstance(result, Refusal) and not result.is_permanent:
                self._note(result)
                if result.kind in _OTHER_SERVER:
                    self._why_unavailable = result.why
                    unavailable.append(original)
                else:
                    refused += 1
                    self._was_refused(attempt, write)
            elif attempt is None or attempt.changed is not None or result not in _WRITTEN:
                self._settle(attempt, write, result)
            elif attempt.is_refused:
                attempt.was_written()
        self._settled = len(due) - refused - len(unavailable)
        return unavailable

    def _fit(self, writes: int, seconds: float) -> None:
        """Make the next exchange as large as takes half of the timeout, as this one went."""
        fitting = int(writes / max(seconds, 1e-6) * self._settings.timeout / 2)
        size = max(1, min(fitting, 2 * self._exchange_size, _MAX_EXCHANGE))
        if size > self._exchange_size or writes == self._exchange_size:
            self._exchange_size = size

    def _drop(self, attempt: Attempt | None, write: Write) -> None:
        """Give up a write that can't even be sent: a mistake of ours, which must stop no others."""
        _log.exception("%s can't be sent, it is dropped", write.key)
        self.stats.refused_writes += 1
        self._release(write.key, write.record.created)
        if attempt is not None:
            self.forget(attempt)

    def _is_available(self) -> None:
        """Redis has answered."""
        self.failures = 0
        if self._is_unavailable:
            self._is_unavailable = False
            _log.warning("Redis accepts status again")
            self._repeat()

    def _joined(self, batch: Sequence[Due], now: float) -> tuple[list[Due], list[Due]]:
        """The batch without writes that are of no use any more, or whose run can't be read now.

        Args:
            batch: What is to be written.
            now: `time.monotonic()`.

        Returns:
            What is left of it, and the same with every write's run known.
        """
        runs = self._runs([write for _, write in batch if not write.is_run_known])
        left, due = [], []
        for attempt, original in batch:
            write: Write | None = original
            if original.is_expired(now):
                write = None
                self._release(original.key, original.record.created)
            elif not original.is_run_known:
                run = runs[original.key]
                if isinstance(run, Refusal):
                    self._note(run)
                    self._was_refused(attempt, original)
                    continue
                taken = self._taken.get(original.key)
                write = original.join(
                    run,
                    None if taken is None else taken.created,
                    is_taken_over=taken is not None and taken.has_ended,
                )
                if write is not None:
                    runs[original.key] = Run.of(write.record)
            if write is not None:
                left.append((attempt, original))
                due.append((attempt, write))
        return left, due

    def _runs(self, writes: Sequence[Write]) -> dict[str, Run | Refusal | None]:
        keys = list(dict.fromkeys(write.key for write in writes))
        return dict(zip(keys, self._store.runs(keys), strict=True)) if keys else {}

    def _join_attempts(self, attempts: Sequence[Attempt]) -> None:
        """Find out to which runs the attempts belong; of one job, in the order they came in."""
        ready = [a for a in attempts if time.monotonic() >= a.not_before]
        for start in range(0, len(ready), self._exchange_size):
            some = ready[start : start + self._exchange_size]
            keys = list(dict.fromkeys(attempt.key for attempt in some))
            runs = dict(zip(keys, self._store.runs(keys), strict=True))
            for attempt in some:
                run = runs[attempt.key]
                if isinstance(run, Refusal):
                    self._note(run)
                    attempt.was_refused(time.monotonic(), _REFUSAL_RETRY_SECONDS)
                else:
                    taken = self._taken.get(attempt.key)
                    runs[attempt.key] = attempt.join(run, None if taken is None else taken.created)
                    self._taken[attempt.key] = attempt

    def _due(self, running: Iterable[Attempt], now: float, *, sample: bool) -> Iterator[Due]:
        for attempt in running:
            if not attempt.is_run_known or attempt.has_ended:
                continue
            try:
                write = attempt.write(now, sample=sample)
            except BaseException:  # whatever the job has reported, the other jobs' go on
                _log.exception("%s: its report can't be read", attempt.key)
                continue
            if sample:
                self.stats.reports(*attempt.take_reports())
            if write is not None:
                yield attempt, write

    def _was_refused(self, attempt: Attempt | None, write: Write) -> None:
        if attempt is None:
            self._refused.append(write)
        else:
            attempt.was_refused(time.monotonic(), _REFUSAL_RETRY_SECONDS)

    def _hold_refused(self) -> None:
        """Have writes that were refused tried again behind everything else that is held."""
        refused, self._refused = self._refused, []
        if refused:
            if not self._backlog:
                self._backlog_at = time.monotonic() + _REFUSAL_RETRY_SECONDS[0]
            self._add_to_backlog(refused)

    def _add_to_backlog(self, writes: Iterable[Write]) -> None:
        now = time.monotonic()
        dropped = self._backlog.add(writes)
        for write in dropped:
            self._release(write.key, write.record.created)
        if dropped and now >= self._drop_logged_at + _SAME_REFUSAL_SECONDS:
            self._drop_logged_at = now
            _log.error(
                "more than %d records are held: the oldest final states are dropped, %d so far "
                "(JOBSTATUS_MAX_HELD_RECORDS is the limit)",
                self._settings.max_held_records,
                self._backlog.dropped,
            )
        self.stats.dropped_final_states = self._backlog.dropped

    def _note(self, refused: Refusal) -> None:
        """Count a refusal, and log one of its kind once a minute."""
        self.stats.refusals[refused.kind] += 1
        now = time.monotonic()
        if now - self._refusal_logged.get(refused.kind, float("-inf")) >= _SAME_REFUSAL_SECONDS:
            self._refusal_logged[refused.kind] = now
            _log.warning("Redis refuses status for now, it is held and retried: %s", refused.why)

    def _settle(self, attempt: Attempt | None, write: Write, result: WriteResult | Refusal) -> None:
        """Forget what needs no further writes.

        An attempt may have ended after its write was made, so what was written decides, never what
        the attempt is by now.
        """
        self._measure(attempt, write)
        if attempt is not None:
            attempt.was_written()
        if self._is_stored(write, result):
            if attempt is not None:
                return
            self._recent.add(write)
        if attempt is not None:
            with self.lock:
                self._running.pop(attempt, None)
        if write.record.attempt:
            self._release(write.key, write.record.created)

    def _is_stored(self, write: Write, result: WriteResult | Refusal) -> bool:
        """Count and log what became of a write; whether the record says now what it says."""
        if isinstance(result, Refusal):
            self.stats.refused_writes += 1
            _log.error("%s can't be written: %s", write.key, result.why)
            return False
        if result is WriteResult.SUPERSEDED and write.record.state is not JobState.PENDING:
            # That a job waits may be reported after it has begun.
            self.stats.superseded_writes += 1
            if not write.is_rewrite:
                _log.warning("%s was taken over by a later attempt or run", write.key)
        self.stats.lost_attempts += result is WriteResult.TOOK_OVER
        return result > 0

    def _measure(self, attempt: Attempt | None, write: Write) -> None:
        since, span = write.happened, write.span
        if attempt is not None:
            since, span = attempt.changed, attempt.span
            attempt.changed = None
        if since is None or write.is_rewrite:
            return
        lag = time.monotonic() - since
        self.stats.write_delays.observe(lag)
        if span is not None:
            told(span, write.record.state, lag)

    def _check(self, now: float) -> None:
        """Write again what Redis has lost, though it was never unavailable."""
        if self._store.is_replaced:
            self._store.is_replaced = False
            self._repeat()
        if self._recent.are_lost(now):
            _log.warning("Redis has lost what it had accepted: it is written again")
            self._repeat()

    def _hold(self, error: Exception) -> None:
        """Keep everything for the next attempt: any of it may not have arrived, or be gone."""
        self.stats.outages += 1
        if (refused := refusal_of(error)) is not None:  # to SCRIPT LOAD
            self.stats.refusals[refused.kind] += 1
        self._exchange_size = min(self._exchange_size, _PROBE)
        fresh, self._fresh = self._fresh, deque()
        self._add_to_backlog(fresh)
        self._hold_refused()
        if not self._is_unavailable:
            self._is_unavailable = True
            _log.warning("Redis can't take status, reports are held: %s", error)
            self._repeat()
        self.refresh()
        self.back_off()

    def _repeat(self) -> None:
        """Write the last final states again: Redis may have lost them."""
        self._add_to_backlog(self._recent.take())
        self._backlog_at = 0.0
