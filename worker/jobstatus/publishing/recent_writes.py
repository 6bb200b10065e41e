"""Final states that were accepted recently, to be written again if Redis has lost them.

Replication is asynchronous, and a server may not save to disk. A replica that was promoted, or a
server that was restarted, may lack the last writes. Writing a record twice changes nothing.
"""

import time
from collections import deque
from itertools import islice
from typing import Final

from msgspec.structs import replace

from jobstatus.status import UNFINISHED_STATES, JobState
from jobstatus.storage.cluster_store import AnyStore
from jobstatus.storage.refusals import Refusal
from jobstatus.storage.write import Run, Write

_KEPT_SECONDS: Final = 30.0
"""Seconds for which a write is kept after it was accepted."""

_MAX_KEPT: Final = 10_000

_MAX_RESULT_BYTES: Final = 16 * 2**20
"""Bytes that the results in the kept writes may have in all."""

_RESULT_LOST: Final = "the result was lost when another Redis server took over"

_CHECK_INTERVAL_SECONDS: Final = 1.0
"""Seconds between two checks whether the last writes are still stored."""

_CHECKED_WRITES: Final = 20
"""How many of the last writes are checked."""

_EXPIRY_MARGIN_MS: Final = 1000
"""A record that is missing in the last ms before its expiry does not count as lost."""


class RecentWrites:
    """The final states that a store has accepted recently."""

    def __init__(self, store: AnyStore) -> None:
        self._store = store
        self._accepted: deque[tuple[float, Write]] = deque()
        self._result_bytes = 0
        self._check_at = 0.0

    @property
    def check_at(self) -> float | None:
        """When to check next, on the monotonic clock; None if no write is kept."""
        return self._check_at if self._accepted else None

    def add(self, write: Write) -> None:
        """Keep an accepted write; not a `pending` one: its job may have finished elsewhere."""
        if write.record.state is JobState.PENDING:
            return
        if write.result is not None:
            if self._result_bytes + write.result_bytes > _MAX_RESULT_BYTES:
                write = write.without_result(_RESULT_LOST)
            else:
                self._result_bytes += write.result_bytes
        at = write.happened_at if write.is_rewrite else None
        self._accepted.append((time.monotonic() if at is None else at, write))
        if len(self._accepted) > _MAX_KEPT:
            self._forget_oldest()

    def take(self) -> list[Write]:
        """Remove all writes; return those that are still worth writing again."""
        now = time.monotonic()
        writes = [
            write if write.is_rewrite else replace(write, is_rewrite=True)
            for at, write in self._accepted
            if now - at < _KEPT_SECONDS and not write.is_expired(now)
        ]
        self._accepted.clear()
        self._result_bytes = 0
        return writes

    def are_lost(self, now: float) -> bool:
        """Whether some of the last writes are no longer stored, although no error occurred.

        This is checked once a second: a server may have been replaced or restarted while there
        was nothing to write.

        Args:
            now: `time.monotonic()`.

        Raises:
            RedisError, OSError: Redis is unavailable.
        """
        while self._accepted and self._accepted[0][0] < now - _KEPT_SECONDS:
            self._forget_oldest()
        if not self._accepted or now < self._check_at:
            return False
        self._check_at = now + _CHECK_INTERVAL_SECONDS
        last = [write for _, write in islice(reversed(self._accepted), _CHECKED_WRITES)]
        runs = self._store.runs([write.key for write in last])
        return any(_is_lost(write, now, run) for write, run in zip(last, runs, strict=True))

    def _forget_oldest(self) -> None:
        _, write = self._accepted.popleft()
        self._result_bytes -= write.result_bytes


def _is_lost(write: Write, now: float, run: Run | Refusal | None) -> bool:
    """Whether an accepted record is missing, or stored in an earlier version."""
    if isinstance(run, Refusal):
        return False
    if run is None:
        since = now if write.happened_at is None else write.happened_at
        return 1000 * (now - since) < write.ttl - _EXPIRY_MARGIN_MS
    record = write.record
    if run.created != record.created:
        return run.created < record.created != run.previous
    if run.attempt != record.attempt:
        return run.attempt < record.attempt
    return run.state in UNFINISHED_STATES and run.state != record.state
