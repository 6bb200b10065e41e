"""Removing expired jobs from the index, which every publisher does now and then.

Redis removes an expired record by itself, but not the record's entry in the index. Each publisher
looks for such entries, in steps that keep the server busy for about a millisecond. Which publisher
does it doesn't matter, and two at once do no harm.
"""

import logging
import random
import time
from collections import deque
from typing import Final

from jobstatus.keys import due_key, shard_starts
from jobstatus.settings import PublisherSettings
from jobstatus.storage.cluster_store import AnyStore
from jobstatus.storage.refusals import REDIS_ERRORS

_INTERVAL_SECONDS: Final = (15.0, 25.0)
"""Range of the random time between two sweeps, so that publishers don't sweep all at once.

An entry outlives its record by this time and one span of `write.lua` (30 s) at most.
"""

_ENTRIES_PER_STEP: Final = 250
"""Entries that one step examines, at 2 to 4 microseconds each."""

_STEPS_PER_TICK: Final = 20
"""Steps after which the publisher looks at new reports again."""

_ROUTING_KEYS: Final = 8
"""Records written lately, by whose keys a proxy that spreads keys over servers finds those."""

_log = logging.getLogger("jobstatus")


class Sweeper:
    """Sweeps the index of one tenant. Used by the publisher's thread only."""

    def __init__(self, store: AnyStore, settings: PublisherSettings) -> None:
        self._store = store
        self._starts = shard_starts(settings.key_prefix, is_cluster=settings.is_cluster)
        self._written: deque[str] = deque(maxlen=_ROUTING_KEYS)
        self._sweep_at: float | None = None
        self._remaining: list[tuple[str, str]] = []
        self._position = "", 0
        self._has_failed = False

    @property
    def due_at(self) -> float | None:
        """When to call `sweep` next, on the monotonic clock; None: nothing was written yet."""
        return self._sweep_at

    def written(self, key: str) -> None:
        """Note that a record was written: from now on there is an index to sweep."""
        if self._sweep_at is None:
            self._schedule()
        if len(self._starts) == 1 and key not in self._written:
            self._written.append(key)

    def sweep(self, now: float) -> None:
        """Sweep the index if that is due; do a part of it if there is much to remove.

        If Redis is unavailable, the sweep is left out.

        Args:
            now: `time.monotonic()`.
        """
        if self._sweep_at is None or now < self._sweep_at:
            return
        if not self._remaining:
            self._remaining = [
                (start, key) for start in self._starts for key in (due_key(start), *self._written)
            ]
            random.shuffle(self._remaining)  # one node that fails must not always hide the same
        try:
            for _ in range(_STEPS_PER_TICK + len(self._starts)):
                if not self._step():
                    self._has_failed = False
                    self._schedule()
                    return
        except REDIS_ERRORS as error:
            self._remaining, self._position = [], ("", 0)
            self._schedule()
            if not self._has_failed:
                self._has_failed = True
                _log.warning("expired jobs can't be removed from the index now: %s", error)

    def _step(self) -> bool:
        """Examine some entries; return whether there is more to do."""
        start, key = self._remaining[-1]
        position = self._store.sweep(start, key, *self._position, _ENTRIES_PER_STEP)
        if position is None:
            self._remaining.pop()
        self._position = position or ("", 0)
        return bool(self._remaining)

    def _schedule(self) -> None:
        self._sweep_at = time.monotonic() + random.uniform(*_INTERVAL_SECONDS)
