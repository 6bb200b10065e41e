"""One round of a list: a snapshot of the index, and the jobs that are found in it.

The sorted sets of the snapshot are merged, and the jobs are looked up like any others, through the
cache. A round that goes on with a list first looks for the jobs that have finished since then: they
have moved to the front of the list, which the client has passed.
"""

import asyncio
import heapq
import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec

from jobstatus.status import FINAL_STATES, STORED_STATES, UNFINISHED_STATES, JobState
from jobstatus_service.lookup.cursor import MARK_BYTES, Cursor, ListFilter
from jobstatus_service.lookup.response import StatusResponse
from jobstatus_service.lookup.statuses import Statuses
from jobstatus_service.storage.index_reader import (
    MAX_LATENESS_TICKS,
    TICKS_PER_MS,
    Entry,
    Range,
)

MAX_EXAMINED: Final = 1_000
"""Jobs that one request examines, of which a filter by name may want only a few. It may examine
some more to complete its last round."""

_MAX_MOVED: Final = 4_000
_MIN_MOVED: Final = 100
"""Jobs that have finished since the last page, of which one request reads so many in each state; in
a Cluster, each shard has its part of them. The next request goes on with the rest."""

_MOST_MOVED: Final = 100_000
"""Beyond so many jobs that finish within a second, some may be left out of a list."""

_CHUNK: Final = 250
"""Entries of one sorted set that a round reads, where a filter may want only a few."""

_SPARE_ENTRIES: Final = 8
"""Entries that a round reads beyond those that it needs: some records may have expired."""

_EPOCH_MS: Final = 0

_JUST_MS: Final = 10_000
"""For so long after its end, a job may be found by an entry that was read just before."""


class _Facts(msgspec.Struct, frozen=True):
    """What decides whether a job belongs to a list."""

    created_at: datetime
    updated_at: datetime
    name: str


_decode = msgspec.json.Decoder(_Facts).decode


class _Snapshot(msgspec.Struct, frozen=True):
    """What one reading of the index has found.

    Attributes:
        read_at: The time of the reading, in ticks.
        entries: The next entries of the list, newest first.
        is_end: Whether these are all.
        moved: The jobs that have finished lately, in the order in which that was stored.
        moved_until: Until when these are complete, in ticks; None if they are all.
    """

    read_at: int
    entries: list[Entry]
    is_end: bool
    moved: list[Entry]
    moved_until: int | None


class Round:
    """One snapshot of the index, and the jobs of a page that are found in it.

    Attributes:
        next: Where the list goes on; None at its end.
        examined: How many jobs were looked up.
    """

    def __init__(
        self, statuses: Statuses, wanted: ListFilter, limit: int, cursor: Cursor | None
    ) -> None:
        self.next: Cursor | None = None
        self.examined = 0
        self._statuses = statuses
        self._wanted = wanted
        self._limit = limit
        self._cursor = cursor
        self._states = _stored_states(wanted)
        self._starts = statuses.index.shard_starts(wanted.prefix)
        self._has_filter = wanted.name is not None or JobState.UNKNOWN in wanted.states

    async def run(self) -> list[StatusResponse]:
        """Return the jobs that were found, newest first."""
        snapshot = await self._read()
        jobs: list[StatusResponse] = []
        if self._cursor is not None and snapshot.moved:
            jobs, resume = await self._unlisted(self._cursor, snapshot)
            if resume is not None:
                self.next = resume
                return jobs
        seen = _marks(each for each in snapshot.moved if each.stored_at >= snapshot.read_at)
        last, at, entries = self._cursor, 0, snapshot.entries
        read_ms = snapshot.read_at // TICKS_PER_MS
        while at < len(entries):
            some = entries[at : at + (_CHUNK if self._has_filter else self._limit - len(jobs))]
            at += len(some)
            for entry, response in await self._look_up(some):
                last = Cursor(entry.score, entry.job_id, snapshot.read_at, seen)
                if _is_wanted(self._wanted, entry, response, read_ms):
                    jobs.append(response)
                if len(jobs) >= self._limit:
                    is_last = snapshot.is_end and entry is entries[-1]
                    self.next = None if is_last else last
                    return jobs
        if not snapshot.is_end and last is not None:
            self.next = Cursor(last.score, last.job_id, snapshot.read_at, seen)
        return jobs

    def _chunk(self) -> int:
        """Return how many entries to read from each sorted set."""
        if self._has_filter:
            return _CHUNK
        shards = len(self._starts)
        # Jobs are not spread evenly over the shards: read twice the average from each.
        return _SPARE_ENTRIES + (self._limit if shards == 1 else 2 * self._limit // shards)

    async def _read(self) -> _Snapshot:
        """Read the index from the cursor on, and the jobs that have finished since then."""
        chunk, most = self._chunk(), max(_MIN_MOVED, _MAX_MOVED // len(self._starts))
        while True:
            bound = float("inf") if self._cursor is None else self._cursor.score
            before = self._ranges(bound, chunk, self._states)
            after = self._finished_ranges(most)
            read_at, found = await self._statuses.index.snapshot([*after, *before])
            complete = [len(found[each]) < chunk for each in before]
            sources = [_after(self._cursor, found[each]) for each in before]
            moved_until = _complete_until(found[each] for each in after if len(found[each]) >= most)
            if not all(source or done for source, done in zip(sources, complete, strict=True)):
                chunk *= 4  # all that was read has the score of the cursor, and was listed
            elif self._is_stuck(moved_until) and most < _MOST_MOVED:
                most *= 4  # all that was read had been looked at before
            else:
                break
        entries = _merged(sources, complete)
        is_end = all(complete) and len(entries) == sum(map(len, sources))
        finished = (each for each in (after or before) if each.state in FINAL_STATES)
        moved = sorted((entry for each in finished for entry in found[each]), key=_stored_at)
        if self._is_stuck(moved_until):
            # Even the largest range has only jobs that were looked at before. Go on without the
            # rest, or the list would never end.
            moved_until = None
        return _Snapshot(read_at, entries, is_end, moved, moved_until)

    def _ranges(
        self, bound: float, limit: int, states: Iterable[JobState], *, is_ascending: bool = False
    ) -> list[Range]:
        return [
            Range(start, state, bound, limit, is_ascending)
            for start in self._starts
            for state in states
        ]

    def _finished_ranges(self, limit: int) -> list[Range]:
        """Return the ranges of the jobs that may have finished since the last page."""
        if self._cursor is None or not _can_move(self._states):
            return []
        since = (self._cursor.looked_until - MAX_LATENESS_TICKS) // TICKS_PER_MS
        states = [state for state in self._states if state in FINAL_STATES]
        return self._ranges(float(since), limit, states, is_ascending=True)

    def _is_stuck(self, moved_until: int | None) -> bool:
        return (
            self._cursor is not None
            and moved_until is not None
            and moved_until <= self._cursor.looked_until
        )

    async def _unlisted(
        self, cursor: Cursor, snapshot: _Snapshot
    ) -> tuple[list[StatusResponse], Cursor | None]:
        """Return the jobs that have finished since the last page, before they could be listed.

        Returns:
            The jobs, newest first; and where to go on with this, if it is not complete: the list
            itself must not go on before that.
        """
        until = snapshot.moved_until
        candidates = [
            entry
            for entry in snapshot.moved
            if entry.stored_at >= cursor.looked_until
            and entry.job_id[:MARK_BYTES] not in cursor.seen
            and (until is None or entry.stored_at < until)
        ]
        jobs: list[tuple[Entry, StatusResponse]] = []
        examined = 0
        while examined < len(candidates):
            if len(jobs) >= self._limit or examined >= MAX_EXAMINED:
                return _newest_first(jobs), _resumed(cursor, candidates[:examined])
            some = candidates[examined : examined + min(_CHUNK, self._limit - len(jobs))]
            examined += len(some)
            for entry, response in await self._look_up(some):
                position = cursor.score, cursor.job_id
                was_listed = (_created_ms(response), entry.job_id) >= position
                is_ahead = (entry.score, entry.job_id) < position
                if was_listed or is_ahead:
                    continue
                if _is_wanted(self._wanted, entry, response, snapshot.read_at // TICKS_PER_MS):
                    jobs.append((entry, response))
        if until is not None:
            return _newest_first(jobs), Cursor(cursor.score, cursor.job_id, until)
        if len(jobs) >= self._limit:
            return _newest_first(jobs), _resumed(cursor, snapshot.moved)
        return _newest_first(jobs), None

    async def _look_up(self, entries: Sequence[Entry]) -> list[tuple[Entry, StatusResponse]]:
        self.examined += len(entries)
        statuses, prefix = self._statuses, self._wanted.prefix
        keys = [statuses.key_of(prefix, UUID(bytes=entry.job_id)) for entry in entries]
        now = time.monotonic()
        responses = {key: statuses.cached(key, now) for key in keys}
        missing = [key for key, response in responses.items() if response is None]
        found = await asyncio.gather(*map(statuses.get, missing))
        responses |= {key: response for key, (response, _) in zip(missing, found, strict=True)}
        return [
            (entry, response)
            for entry, key in zip(entries, keys, strict=True)
            if (response := responses[key]) is not None
        ]


def _resumed(cursor: Cursor, looked_at: Sequence[Entry]) -> Cursor:
    """Return the cursor after some of the finished jobs were looked at, in their order."""
    if not looked_at:
        return cursor
    until = max(cursor.looked_until, looked_at[-1].stored_at)
    seen = _marks(entry for entry in looked_at if entry.stored_at >= until)
    if until == cursor.looked_until:
        seen |= cursor.seen
    return Cursor(cursor.score, cursor.job_id, until, seen)


def _marks(entries: Iterable[Entry]) -> frozenset[bytes]:
    return frozenset(entry.job_id[:MARK_BYTES] for entry in entries)


def _complete_until(full: Iterable[list[Entry]]) -> int | None:
    """Return until when finished jobs are known, in ticks; None if all are.

    Of a sorted set that was not read to its end, everything that was stored before its last score
    is known, since no job is stored before it has finished.
    """
    return min((int(entries[-1].score) * TICKS_PER_MS for entries in full), default=None)


def _after(cursor: Cursor | None, entries: list[Entry]) -> list[Entry]:
    """Return the entries that come after the cursor; jobs with equal scores are ordered by id."""
    if cursor is None:
        return entries
    position = cursor.score, cursor.job_id
    return [entry for entry in entries if (entry.score, entry.job_id) < position]


def _merged(sources: list[list[Entry]], complete: list[bool]) -> list[Entry]:
    """Merge entries, newest first, up to where a source that is not complete has no more."""
    merged: list[Entry] = []
    oldest = [s[-1] for s, done in zip(sources, complete, strict=True) if not done]
    end = max(oldest, default=None)
    for entry in heapq.merge(*sources, reverse=True):
        merged.append(entry)
        if entry is end:
            break
    return merged


def _stored_states(wanted: ListFilter) -> list[JobState]:
    """Return the states of the index that may contain jobs of the wanted ones.

    A job in progress whose lease has expired is shown as `unknown`.
    """
    names = {*(wanted.states or STORED_STATES)}
    if JobState.UNKNOWN in names:
        names.add(JobState.IN_PROGRESS)
    return [state for state in STORED_STATES if state in names]


def _can_move(states: list[JobState]) -> bool:
    """Whether a job may move to the front of the list while a client pages through it."""
    return not (FINAL_STATES.isdisjoint(states) or UNFINISHED_STATES.isdisjoint(states))


def _is_wanted(wanted: ListFilter, entry: Entry, response: StatusResponse, read_ms: int) -> bool:
    """Whether a job belongs to the list, and the entry is that of its stored record.

    The record may have expired, or be of a later run, which has an entry of its own.
    """
    status = _decode(response.body)
    created = _ms(status.created_at.timestamp())
    if entry.state in UNFINISHED_STATES:
        # A job that has finished just now has left this entry behind; a writer of an earlier
        # version has not removed it.
        is_left_over = response.is_final and read_ms - _ms(status.updated_at.timestamp()) > _JUST_MS
        is_same_run = created == int(entry.score) and not is_left_over
    else:
        finished = _ms(status.updated_at.timestamp())
        is_same_run = response.is_final and max(created, finished) == int(entry.score)
    return (
        is_same_run
        and created != _EPOCH_MS
        and (not wanted.states or response.state in wanted.states)
        and (wanted.name is None or status.name == wanted.name)
    )


def _created_ms(response: StatusResponse) -> int:
    return _ms(_decode(response.body).created_at.timestamp())


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _stored_at(entry: Entry) -> int:
    return entry.stored_at


def _newest_first(jobs: list[tuple[Entry, StatusResponse]]) -> list[StatusResponse]:
    return [response for _, response in sorted(jobs, key=lambda job: job[0], reverse=True)]
