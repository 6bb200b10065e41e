"""Final states that were accepted lately, to be written again where Redis has lost them.

Replication is asynchronous, and a server may keep nothing on disk: one that is promoted, or comes
back after an outage, may lack what was accepted last. Writing it twice changes nothing.
"""

import time
from collections import deque
from itertools import islice
from typing import Final

from msgspec.structs import replace

from jobstatus.status import UNFINISHED_STATES, JobState
from jobstatus.storage.cluster_store import AnyStore
from jobstatus.storage.store import Refusal, Run, Write

_KEPT_SECONDS: Final = 30.0
"""Seconds for which a record is kept after it was accepted."""

_MAX_KEPT: Final = 10_000
"""Records that are kept at most."""

_CHECK_INTERVAL_SECONDS: Final = 1.0
"""Seconds between two checks whether the last of them are still stored."""

_CHECKED: Final = 20
"""How many are checked."""

_MARGIN_MS: Final = 1000
"""ms by which a record may be gone before its time."""


class Recent:
    """The final states that a store has accepted lately."""

    def __init__(self, store: AnyStore) -> None:
        self._store = store
        self._accepted: deque[tuple[float, Write]] = deque(maxlen=_MAX_KEPT)
        self._check_at = 0.0

    @property
    def check_at(self) -> float | None:
        """When they are to be checked next, on the monotonic clock; None: nothing is kept."""
        return self._check_at if self._accepted else None

    def add(self, write: Write) -> None:
        """Keep a write that was accepted; not that a job waits: it may be over elsewhere by now."""
        if write.record.state is not JobState.PENDING:
            at = write.happened if write.is_rewrite else None
            self._accepted.append((time.monotonic() if at is None else at, write))

    def take(self) -> list[Write]:
        """All that are to be written again; they are not kept any more."""
        now = time.monotonic()
        writes = [
            write if write.is_rewrite else replace(write, is_rewrite=True)
            for at, write in self._accepted
            if now - at < _KEPT_SECONDS and not write.is_expired(now)
        ]
        self._accepted.clear()
        return writes

    def are_lost(self, now: float) -> bool:
        """Whether some of the last are not stored any more, though nothing went wrong.

        That is looked at once a second: a server that was replaced, or came back empty, while there
        was nothing to write may not have them.

        Args:
            now: `time.monotonic()`.

        Raises:
            RedisError, OSError: Redis is unavailable.
        """
        while self._accepted and self._accepted[0][0] < now - _KEPT_SECONDS:
            self._accepted.popleft()
        if not self._accepted or now < self._check_at:
            return False
        self._check_at = now + _CHECK_INTERVAL_SECONDS
        last = [write for _, write in islice(reversed(self._accepted), _CHECKED)]
        runs = self._store.runs([write.key for write in last])
        return any(_is_lost(write, now, run) for write, run in zip(last, runs, strict=True))


def _is_lost(write: Write, now: float, run: Run | Refusal | None) -> bool:
    """Whether a record that was accepted is gone, or is stored as it was before."""
    if isinstance(run, Refusal):
        return False
    if run is None:
        since = now if write.happened is None else write.happened
        return 1000 * (now - since) < write.ttl - _MARGIN_MS
    record = write.record
    if run.created != record.created:
        return run.created < record.created != run.previous
    if run.attempt != record.attempt:
        return run.attempt < record.attempt
    return run.state in UNFINISHED_STATES and run.state != record.state
