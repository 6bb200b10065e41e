"""Finding out which run a write belongs to, when its caller does not know.

`jobstatus-report` and a `Publisher` without arq do not know `created` of a run that another process
has enqueued. It is read from the stored record before the write is sent.
"""

import threading
import time
from collections.abc import Callable, Sequence

from jobstatus.publishing.attempt import Attempt
from jobstatus.storage.cluster_store import AnyStore
from jobstatus.storage.refusals import Refusal
from jobstatus.storage.write import Run, Write

Due = tuple[Attempt | None, Write]
"""A write that is due, and its running attempt; None if only the write is left of it."""


class RunResolver:
    """Joins attempts and writes to the runs of the stored records."""

    def __init__(self, store: AnyStore, on_refusal: Callable[[Refusal], None]) -> None:
        """Create a resolver.

        Args:
            store: Reads the stored records.
            on_refusal: Called with each refusal to read a record.
        """
        self._store = store
        self._on_refusal = on_refusal
        self._lock = threading.Lock()
        self._latest: dict[str, Attempt] = {}
        """By key: the latest attempt of this process that has joined a run, until its outcome is
        stored. Before that, the stored record may seem to wait for the job's next attempt."""

    def release(self, key: str, created: int | None, number: int) -> None:
        """Forget attempt `number` of a run: its outcome is stored, or it has been replaced."""
        with self._lock:
            latest = self._latest.get(key)
            if latest is not None and (latest.created, latest.number) == (created, number):
                del self._latest[key]

    def join_attempts(self, attempts: Sequence[Attempt], batch_size: int) -> None:
        """Find out the runs of attempts; those of one job in the order in which they began.

        Raises:
            RedisError, OSError: Redis is unavailable.
        """
        ready = [a for a in attempts if time.monotonic() >= a.not_before]
        for start in range(0, len(ready), batch_size):
            batch = ready[start : start + batch_size]
            runs = self._read([attempt.key for attempt in batch])
            for attempt in batch:
                run = runs[attempt.key]
                if isinstance(run, Refusal):
                    self._on_refusal(run)
                    attempt.was_refused(time.monotonic())
                    continue
                run, own = self._run_and_own(attempt.key, run, attempt.number)
                runs[attempt.key] = attempt.join(run, own)
                self._latest[attempt.key] = attempt

    def join_writes(
        self, batch: Sequence[Due], now: float
    ) -> tuple[list[Due], list[Due], list[Due]]:
        """Find out the runs of writes, and leave out those that have expired or come too late.

        Args:
            batch: Writes that are due.
            now: `time.monotonic()`.

        Returns:
            The remaining writes as they were, the same with their runs, and those whose record
            Redis has refused to read.

        Raises:
            RedisError, OSError: Redis is unavailable.
        """
        runs = self._read([write.key for _, write in batch if not write.is_run_known])
        remaining, joined, refused = [], [], []
        for attempt, original in batch:
            write = original
            if original.is_expired(now):
                self.release(original.key, original.record.created, original.record.attempt)
                continue
            if not original.is_run_known:
                run = runs[original.key]
                if isinstance(run, Refusal):
                    self._on_refusal(run)
                    refused.append((attempt, original))
                    continue
                latest = self._latest.get(original.key)
                if latest is not None and latest.is_later_than(original):
                    continue
                run, own = self._run_and_own(original.key, run, original.record.attempt)
                has_finished = latest is not None and latest.has_finished_run
                resolved = original.join(run, own, has_own_finished=has_finished)
                if resolved is None:
                    continue
                write = resolved
                runs[original.key] = Run.of(write.record)
            remaining.append((attempt, original))
            joined.append((attempt, write))
        return remaining, joined, refused

    def _run_and_own(
        self, key: str, stored: Run | None, number: int
    ) -> tuple[Run | None, int | None]:
        """Return the run before attempt `number`, and `created` of this process's own run.

        The run is the stored one, unless the attempt continues that of this process's latest
        attempt, whose outcome is not stored yet.
        """
        latest = self._latest.get(key)
        if latest is None:
            return stored, None
        retried = latest.run_before(number)
        return (stored, latest.created) if retried is None else (retried, None)

    def _read(self, keys: Sequence[str]) -> dict[str, Run | Refusal | None]:
        unique = list(dict.fromkeys(keys))
        return dict(zip(unique, self._store.runs(unique), strict=True)) if unique else {}
