"""What is on its way to Redis: everything that was reported, until it is written.

Job threads hand items in; one thread, the publisher's, calls `tick` and does all the rest.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import Final

from msgspec.structs import replace

from jobstatus.attempt import Attempt, Pending, Repeat
from jobstatus.cluster import AnyStore
from jobstatus.counts import Counts
from jobstatus.settings import PublisherSettings
from jobstatus.status import UNFINISHED, JobState, Written
from jobstatus.store import OUTAGE, Refused, Run, Write
from jobstatus.tracing import told

_RETRY: Final = (0.05, 0.5)
"""Seconds until the next try when Redis can't answer: at first, and at most."""

_REPEATED: Final = 30.0
"""Seconds for which what was written last of a job is kept, to be written again after an outage."""

_MOST_REPEATED: Final = 10_000
"""Records that are kept so at most."""

_LOOK: Final = 1.0
"""Seconds between two looks whether the last of them still stand."""

_MARGIN: Final = 1000
"""ms by which a record may be gone before its time."""

_LOOKED_AT: Final = 20
"""How many are looked at."""

_log = logging.getLogger("jobstatus")

Item = Attempt | Pending


class Delivery:
    """Holds what was reported and delivers it, in one pipeline a tick however many jobs there are.

    Attributes:
        wake: Set when there is something to be delivered at once.
        failures: How often in a row Redis could not take it.
        asked: How many flushes were asked for.
        served: How many of them are done.
        flushed: Notified when `served` moves.
        counts: What has happened.
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
        self.counts = Counts()
        self._items: dict[Item, None] = {}
        self._changed: list[Item] = []
        self._sample_at = 0.0
        self._written: deque[tuple[float, Write]] = deque(maxlen=_MOST_REPEATED)
        self._look_at = 0.0
        self._is_away = False

    def add(self, item: Item) -> None:
        """Take an item whose state has changed."""
        with self.lock:
            item.changed = time.monotonic()
            self._items[item] = None
            self._changed.append(item)

    def forget(self, item: Item) -> None:
        """Deliver no more of an item."""
        with self.lock:
            self._items.pop(item, None)

    def items(self) -> list[Item]:
        """Everything that runs, or is not yet written."""
        with self.lock:
            return list(self._items)

    def refresh(self) -> None:
        """Write every attempt's whole record again: what stands in Redis may be gone."""
        with self.lock:
            for item in self._items:
                item.must_be_written_again()
            self._sample_at = 0.0

    def seconds_until_due(self) -> float | None:
        """For how long there is nothing to do; None: until something is reported."""
        if self._items:
            return max(0.0, self._sample_at - time.monotonic())
        return max(0.0, self._look_at - time.monotonic()) if self._written else None

    def tick(self) -> bool:
        """Deliver what is due.

        Returns:
            Whether this was the time to look at every report, not only at changes of state.
        """
        now = time.monotonic()
        with self.lock:
            asked = self.asked
            sample = now >= self._sample_at or asked > self.served
            changed = dict.fromkeys(i for i in self._changed if i in self._items)
            items = list(self._items if sample else changed)
            self._changed = []
        if sample:
            self._sample_at = now + self._settings.interval
        try:
            is_answered = self._deliver(items, now, sample=sample)
            self._look(now)
        except OUTAGE as error:
            self._hold(error)
            return sample
        if self._is_away and is_answered:
            self._is_away = False
            _log.warning("Redis takes status again")
            self._repeat()
        if is_answered or not self._items:
            self.failures = 0
        with self.lock:
            self.served = max(self.served, asked)
            self.flushed.notify_all()
        return sample

    def back_off(self) -> None:
        """Make the next try later than the last one."""
        first, most = _RETRY
        delay = min(most, first * 2**self.failures)
        self.failures = min(self.failures + 1, 10)
        self._sample_at = time.monotonic() + delay

    def _deliver(self, items: list[Item], now: float, *, sample: bool) -> bool:
        """Deliver what is due of the items; whether Redis was asked, and answered."""
        held = self._join([item for item in items if not item.is_run_known])
        due = list(self._due([i for i in items if i not in held], now, sample=sample))
        results = self._store.write([write for _, write in due]) if due else []
        passing = None
        for (item, write), result in zip(due, results, strict=True):
            if isinstance(result, Refused) and result.will_pass:
                passing = result
            else:
                self._settle(item, write, result)
        passing = next(iter(held.values()), passing)
        if passing is not None:
            raise ConnectionError(passing.why)
        return bool(due)

    def _join(self, items: list[Item]) -> dict[Item, Refused]:
        """Find out to which runs the items belong; of one job, in the order they came in.

        Returns:
            Those of which that can't be found out now.
        """
        if not items:
            return {}
        keys = list(dict.fromkeys(item.key for item in items))
        runs = dict(zip(keys, self._store.runs(keys), strict=True))
        held = {}
        for item in items:
            run = runs[item.key]
            if isinstance(run, Refused):
                held[item] = run
            else:
                runs[item.key] = item.join(run)
        return held

    def _due(self, items: list[Item], now: float, *, sample: bool) -> Iterable[tuple[Item, Write]]:
        for item in items:
            try:
                write = item.write(now, sample=sample)
            except Exception:  # whatever it is, the other jobs' reports go on
                _log.exception("%s: its report can't be read, it is dropped", item.key)
                self.forget(item)
                continue
            if isinstance(item, Attempt) and (sample or item.is_over):
                self.counts.reports(*item.take_reports())
            if write is not None:
                yield item, write
            elif isinstance(item, Pending):
                self.forget(item)

    def _settle(self, item: Item, write: Write, result: Written | Refused) -> None:
        """Forget what needs no further writes.

        An item may have ended after its write was made, so what was written decides, never what
        the item is by now.
        """
        if item.changed is not None:
            lag = time.monotonic() - item.changed
            self.counts.lag.observe(lag)
            item.changed = None
            if isinstance(item, Attempt) and item.span is not None:
                told(item.span, write.record.state, lag)
        if isinstance(result, Refused):
            self.counts.refused += 1
            _log.error("%s can't be written: %s", item.key, result.why)
        elif result is Written.FENCED:
            self.counts.fenced += 1
            if not isinstance(item, Repeat):
                _log.warning("%s was taken over by a later attempt or run", item.key)
        elif result is not Written.LATE:
            self.counts.lost += result is Written.TOOK_OVER
            if write.lease:
                return
            at = item.at if isinstance(item, Repeat) else time.monotonic()
            if write.record.state is not JobState.PENDING:
                # Who has said that a job waits may not know that it is over by now.
                self._written.append((at, write))
        self.forget(item)

    def _look(self, now: float) -> None:
        """See whether what was written last still stands, though nothing went wrong.

        A server that was replaced, or came back empty, while there was nothing to write may not
        have it.
        """
        if self._store.is_replaced:
            self._store.is_replaced = False
            self._repeat()
        while self._written and self._written[0][0] < now - _REPEATED:
            self._written.popleft()
        if not self._written or now < self._look_at:
            return
        self._look_at = now + _LOOK
        last = list(islice(reversed(self._written), _LOOKED_AT))
        runs = self._store.runs([write.key for _, write in last])
        if any(_is_lost(write, now - at, run) for (at, write), run in zip(last, runs, strict=True)):
            _log.warning("Redis has lost what it had taken: it is written again")
            self._repeat()

    def _hold(self, error: Exception) -> None:
        """Keep everything for the next try: any of it may not have arrived, or be gone."""
        self.counts.errors += 1
        if not self._is_away:
            self._is_away = True
            _log.warning("Redis can't take status, reports are held: %s", error)
            self._repeat()
        self.refresh()
        self.back_off()

    def _repeat(self) -> None:
        """Write the last records of jobs again: Redis may come back without them."""
        now = time.monotonic()
        with self.lock:
            for at, write in self._written:
                left = write.ttl - round(1000 * (now - at))
                if now - at < _REPEATED and left > 0:
                    self._items[Repeat(replace(write, ttl=left), at)] = None
        self._written.clear()


def _is_lost(write: Write, seconds: float, run: Run | Refused | None) -> bool:
    """Whether a record that was written so many seconds ago is gone, or stands as it was before."""
    if isinstance(run, Refused):
        return False
    if run is None:
        return seconds * 1000 < write.ttl - _MARGIN
    record = write.record
    if (run.created, run.attempt) != (record.created, record.attempt):
        return (run.created, run.attempt) < (record.created, record.attempt)
    return run.state in UNFINISHED and run.state != record.state
