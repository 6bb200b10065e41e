"""Sending batches of writes to the store, and settling each write by its result."""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from jobstatus.keys import uuid_of_key
from jobstatus.publishing.attempt import Attempt
from jobstatus.publishing.recent_writes import RecentWrites
from jobstatus.publishing.run_resolver import Due, RunResolver
from jobstatus.publishing.stats import PublisherStats
from jobstatus.status import JobState, WriteResult
from jobstatus.storage.cluster_store import AnyStore
from jobstatus.storage.refusals import REDIS_ERRORS, TIMEOUT_ERRORS, Refusal, RefusalLog
from jobstatus.storage.write import Write
from jobstatus.tracing import record_write

_MAX_BATCH: Final = 1000
"""Writes in one round trip at most; fewer over a slow connection."""

_FIRST_BATCH_AFTER_OUTAGE: Final = 10

_ORDINARY_RESULTS: Final = (WriteResult.CHANGED, WriteResult.RENEWED)
"""The results of nearly every report of a running attempt."""

_NOT_PRIMARY: Final = frozenset({"READONLY", "LOADING", "MASTERDOWN"})
"""Refusals by a server that is not the primary, or not yet: treated like an unavailable Redis."""

_log = logging.getLogger("jobstatus")


class _NotPrimaryError(OSError):
    """Redis answers, but this server can't accept writes at the moment."""


class BatchSender:
    """Sends batches of writes. Used by the publisher's thread only.

    Attributes:
        accepted: How many writes of the last batch Redis has answered with a final result.
        batch_size: The number of writes to send in the next batch.
        sending: The batch that is being sent.
        refused: Writes without an attempt that were refused transiently; the caller takes them.
    """

    def __init__(
        self,
        store: AnyStore,
        timeout: float,
        stats: PublisherStats,
        refusals: RefusalLog,
        runs: RunResolver,
        recent: RecentWrites,
        on_settled: Callable[[Attempt], None],
    ) -> None:
        """Create an exchange with a store.

        Args:
            store: Where to write.
            timeout: Seconds that one round trip may take.
            stats: Counts what has happened.
            refusals: Counts and logs transient refusals.
            runs: Finds out the runs of writes.
            recent: Keeps accepted final states.
            on_settled: Called with a running attempt of which nothing more is to be written.
        """
        self.accepted = 0
        self.batch_size = _MAX_BATCH
        self.sending: Sequence[Due] = ()
        self.refused: list[Write] = []
        self._store = store
        self._timeout = timeout
        self._stats = stats
        self._refusals = refusals
        self._runs = runs
        self._recent = recent
        self._on_settled = on_settled

    def send(self, batch: Sequence[Due], put_back: Callable[[Iterable[Write]], None]) -> bool:
        """Send one batch; return False if every write of it is refused and has to be retried.

        Args:
            batch: At most `batch_size` writes.
            put_back: Called with the writes without an attempt that were not sent, if Redis is
                unavailable.

        Raises:
            RedisError, OSError: Redis is unavailable.
        """
        sent_at, remaining = time.monotonic(), list(batch)
        self.sending, self.accepted = batch, 0
        try:
            due = remaining
            if any(w.happened_at is not None or not w.is_run_known for _, w in batch):
                remaining, due, refused = self._runs.join_writes(batch, sent_at)
                self._retry_later(refused)
            results = self._store.write([write for _, write in due]) if due else []
            not_primary, message = self._settle_all(due, results)
            if not_primary:
                remaining = [remaining[index] for index in not_primary]
                raise _NotPrimaryError(message)  # noqa: TRY301
        except BaseException as error:
            is_outage = isinstance(error, REDIS_ERRORS)
            if isinstance(error, TIMEOUT_ERRORS) or not is_outage:
                self.batch_size = max(1, self.batch_size // 4)
            if not is_outage and len(remaining) == 1:
                self._drop(*remaining[0])
                return False
            put_back(write for attempt, write in remaining if attempt is None)
            raise
        finally:
            self.sending = ()
        if due:
            self._adapt_batch_size(len(due), time.monotonic() - sent_at)
        return self.accepted > 0 or not due

    def shrink(self) -> None:
        """Begin with a small batch after an outage."""
        self.batch_size = min(self.batch_size, _FIRST_BATCH_AFTER_OUTAGE)

    def take_refused(self) -> list[Write]:
        """Return and forget the refused writes."""
        refused, self.refused = self.refused, []
        return refused

    def _settle_all(
        self, due: Sequence[Due], results: Sequence[WriteResult | Refusal]
    ) -> tuple[list[int], str]:
        """Settle each write by its result.

        Returns:
            The indices of the writes that a server has refused that is not the primary, and the
            text of its last refusal.
        """
        not_primary, message = [], ""
        for index, ((attempt, write), result) in enumerate(zip(due, results, strict=True)):
            if isinstance(result, Refusal) and not result.is_permanent:
                self._refusals.add(result)
                if result.code in _NOT_PRIMARY:
                    not_primary.append(index)
                    message = result.message
                else:
                    self._retry_later([(attempt, write)])
                continue
            self.accepted += 1
            is_ordinary = attempt is not None and attempt.changed_at is None
            if not is_ordinary or result not in _ORDINARY_RESULTS:
                self._settle(attempt, write, result)
            elif attempt is not None and attempt.is_refused:
                attempt.was_written()
        return not_primary, message

    def _settle(self, attempt: Attempt | None, write: Write, result: WriteResult | Refusal) -> None:
        """Forget what needs no further writes.

        What was written decides, not the attempt's present state: it may have ended since.
        """
        self._measure_delay(attempt, write)
        if attempt is not None:
            attempt.was_written()
        if self._is_stored(write, result):
            if attempt is not None:
                return
            self._recent.add(write)
        if attempt is not None:
            self._on_settled(attempt)
        if write.record.attempt:
            self._runs.release(write.key, write.record.created, write.record.attempt)

    def _is_stored(self, write: Write, result: WriteResult | Refusal) -> bool:
        """Count and log the result of a write; return whether the record is stored."""
        if isinstance(result, Refusal):
            self._stats.refused_writes += 1
            _log.error(
                "Redis refuses to store the status of %s, it is dropped: %s",
                _job_of(write),
                result.message,
            )
            return False
        if result is WriteResult.SUPERSEDED and write.record.state is not JobState.PENDING:
            # A `pending` report may arrive after its job has begun; that is not worth a warning.
            self._stats.superseded_writes += 1
            if not write.is_rewrite:
                _log.warning(
                    "%s: a later attempt or run has begun; this attempt's reports are ignored",
                    _job_of(write),
                )
        self._stats.lost_attempts += result is WriteResult.TOOK_OVER
        return result > 0

    def _measure_delay(self, attempt: Attempt | None, write: Write) -> None:
        since, span = write.happened_at, write.span
        if attempt is not None:
            since, span = attempt.changed_at, attempt.span
            attempt.changed_at = None
        if since is None or write.is_rewrite:
            return
        delay = time.monotonic() - since
        self._stats.write_delays.observe(delay)
        if span is not None:
            record_write(span, write.record.state, delay)

    def _retry_later(self, refused: Iterable[Due]) -> None:
        for attempt, write in refused:
            if attempt is None:
                self.refused.append(write)
            else:
                attempt.was_refused(time.monotonic())

    def _adapt_batch_size(self, writes: int, seconds: float) -> None:
        """Size the next batch so that it takes half of the timeout, judging by the last one."""
        fitting = int(writes / max(seconds, 1e-6) * self._timeout / 2)
        size = max(1, min(fitting, 2 * self.batch_size, _MAX_BATCH))
        if size > self.batch_size or writes == self.batch_size:
            self.batch_size = size

    def _drop(self, attempt: Attempt | None, write: Write) -> None:
        """Give up a write that can't be sent because of a bug: it must not stop other writes."""
        _log.exception("the status of %s can't be written and is dropped", _job_of(write))
        self._stats.refused_writes += 1
        self._runs.release(write.key, write.record.created, write.record.attempt)
        if attempt is not None:
            attempt.is_released = True
            self._on_settled(attempt)


def _job_of(write: Write) -> str:
    """Return how the log names the job of a write."""
    return f"job {uuid_of_key(write.key)}"
