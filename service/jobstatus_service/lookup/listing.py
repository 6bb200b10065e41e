"""Lists of a tenant's jobs, newest first.

Unfinished jobs are ordered by when they were created, finished ones by when they finished. A page
is made in rounds: each reads one snapshot of the index, merges its sorted sets, and looks the jobs
up like any others, through the cache.
"""

import asyncio
import heapq
import time
from collections.abc import Iterable, Sequence
from typing import Final
from uuid import UUID

import msgspec

from jobstatus.status import FINAL_STATES, UNFINISHED_STATES, JobState, JobStatus
from jobstatus_service.lookup.cursor import Cursor, ListFilter
from jobstatus_service.lookup.response import StatusResponse
from jobstatus_service.lookup.statuses import Statuses
from jobstatus_service.storage.index_reader import (
    MAX_LATENESS_TICKS,
    STORED_STATES,
    TICKS_PER_MS,
    Entry,
    Range,
)

_MAX_EXAMINED: Final = 1_000
"""Jobs that one request examines, of which a filter by name may want only a few. It may examine
some more to complete its last round."""

_MAX_MOVED: Final = 5_000
"""Jobs that have finished between two pages, among which one request looks for unlisted ones."""

_CHUNK: Final = 250
"""Entries of one sorted set that a round reads, where a filter may want only a few."""

_SPARE_ENTRIES: Final = 8
"""Entries that a round reads beyond those that it needs: some records may have expired."""

_COUNTS_SECONDS: Final = 1.0
"""Seconds for which counts are served again."""

_EPOCH_MS: Final = 0


class Page(msgspec.Struct, frozen=True):
    """A page of a list.

    Attributes:
        jobs: The jobs' responses, newest first.
        next: Where the list goes on; None at its end.
    """

    jobs: list[StatusResponse]
    next: Cursor | None


class Listing:
    """The lists and counts of all tenants. Belongs to one event loop."""

    def __init__(self, statuses: Statuses) -> None:
        self._statuses = statuses
        self._index = statuses.index
        self._counts: dict[str, tuple[float, asyncio.Task[dict[JobState, int]]]] = {}

    async def page(self, wanted: ListFilter, limit: int, cursor: Cursor | None = None) -> Page:
        """Return a page of a list.

        It may have fewer jobs than `limit` although the list goes on.

        Args:
            wanted: Which jobs it contains.
            limit: How many jobs it has at most.
            cursor: Where it begins; None: with the newest job.

        Raises:
            UnavailableError: Redis does not answer in time.
        """
        jobs: list[StatusResponse] = []
        examined = 0
        while True:
            round_ = _Round(self._statuses, wanted, limit - len(jobs), cursor)
            jobs += await round_.run()
            examined += round_.examined
            cursor = round_.next
            if cursor is None or len(jobs) >= limit or examined >= _MAX_EXAMINED:
                return Page(jobs, cursor)

    async def counts(self, prefix: str) -> dict[JobState, int]:
        """Return how many jobs a tenant has in each stored state; at most a second old.

        Raises:
            UnavailableError: Redis does not answer in time.
        """
        now = time.monotonic()
        self._counts = {
            key: (made_at, task)
            for key, (made_at, task) in self._counts.items()
            if now - made_at < _COUNTS_SECONDS and not _has_failed(task)
        }
        if prefix not in self._counts:
            task = asyncio.get_running_loop().create_task(self._index.counts(prefix))
            self._counts[prefix] = now, task
        return await asyncio.shield(self._counts[prefix][1])


class _Round:
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
        read_at, entries, is_end, moved, moved_until = await self._read()
        jobs: list[StatusResponse] = []
        if moved and self._cursor is not None:
            jobs, until = await self._unlisted(self._cursor, moved, min(read_at, moved_until))
            if len(jobs) >= self._limit:
                self.next = Cursor(self._cursor.score, self._cursor.job_id, until)
                return jobs
        last = self._cursor
        at = 0
        while at < len(entries):
            some = entries[at : at + (_CHUNK if self._has_filter else self._limit - len(jobs))]
            at += len(some)
            for entry, response in await self._look_up(some):
                last = Cursor(entry.score, entry.job_id, read_at)
                if _is_wanted(self._wanted, entry, response):
                    jobs.append(response)
                if len(jobs) >= self._limit:
                    is_end = is_end and entry is entries[-1]
                    self.next = None if is_end else last
                    return jobs
        if not is_end and last is not None:
            self.next = Cursor(last.score, last.job_id, read_at)
        return jobs

    def _chunk(self) -> int:
        """Return how many entries to read from each sorted set."""
        if self._has_filter:
            return _CHUNK
        shards = len(self._starts)
        # Jobs are not spread evenly over the shards: read twice the average from each.
        return _SPARE_ENTRIES + (self._limit if shards == 1 else 2 * self._limit // shards)

    async def _read(self) -> tuple[int, list[Entry], bool, list[Entry], int]:
        """Read a snapshot.

        Returns:
            Its time in ticks; the next entries, and whether these are all; the jobs that
            have finished since the last page, and until when these are complete.
        """
        chunk = self._chunk()
        after: list[Range] = []
        if self._cursor is not None and _can_move(self._states):
            since = (self._cursor.looked_until - MAX_LATENESS_TICKS) // TICKS_PER_MS
            after = [
                Range(start, state, float(since), _MAX_MOVED, is_ascending=True)
                for start in self._starts
                for state in self._states
                if state in FINAL_STATES
            ]
        bound = float("inf") if self._cursor is None else self._cursor.score
        while True:
            before = [
                Range(start, state, bound, chunk)
                for start in self._starts
                for state in self._states
            ]
            read_at, found = await self._statuses.index.snapshot([*after, *before])
            complete = [len(found[each]) < chunk for each in before]
            sources = [_after(self._cursor, found[each]) for each in before]
            if all(source or done for source, done in zip(sources, complete, strict=True)):
                break
            chunk *= 4  # all that was read has the score of the cursor, and was listed
        entries = _merged(sources, complete)
        is_end = all(complete) and len(entries) == sum(map(len, sources))
        moved = [entry for each in after for entry in found[each]]
        # Of a sorted set that was not read to its end, everything stored until its last score is
        # known, since no job is stored before it has finished.
        full = (
            int(found[each][-1].score) * TICKS_PER_MS
            for each in after
            if len(found[each]) >= _MAX_MOVED
        )
        return read_at, entries, is_end, moved, min(full, default=read_at)

    async def _unlisted(
        self, cursor: Cursor, moved: Iterable[Entry], until: int
    ) -> tuple[list[StatusResponse], int]:
        """Return the jobs that have finished since the last page, before they could be listed.

        Returns:
            The jobs, newest first, and until when finished jobs were looked for.
        """
        candidates = sorted(
            (e for e in moved if cursor.looked_until < e.stored_at <= until), key=_stored_at
        )[:_MAX_MOVED]
        jobs: list[tuple[Entry, StatusResponse]] = []
        for at in range(0, len(candidates), _CHUNK):
            for entry, response in await self._look_up(candidates[at : at + _CHUNK]):
                if len(jobs) >= self._limit and entry.stored_at > jobs[-1][0].stored_at:
                    return _newest_first(jobs), jobs[-1][0].stored_at
                position = (_created_ms(response), entry.job_id)
                was_listed = position >= (cursor.score, cursor.job_id)
                is_ahead = (entry.score, entry.job_id) < (cursor.score, cursor.job_id)
                if not (was_listed or is_ahead) and _is_wanted(self._wanted, entry, response):
                    jobs.append((entry, response))
        return _newest_first(jobs), until

    async def _look_up(self, entries: Sequence[Entry]) -> list[tuple[Entry, StatusResponse]]:
        self.examined += len(entries)
        keys = [
            self._statuses.key_of(self._wanted.prefix, UUID(bytes=entry.job_id))
            for entry in entries
        ]
        found = await asyncio.gather(*map(self._statuses.get, keys))
        return [(entry, response) for entry, (response, _) in zip(entries, found, strict=True)]


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


def _is_wanted(wanted: ListFilter, entry: Entry, response: StatusResponse) -> bool:
    """Whether a job belongs to the list, and the entry is that of its stored record.

    The record may have expired, or be of a later run, which has an entry of its own.
    """
    status = JobStatus.from_json(response.body)
    created = _ms(status.created_at.timestamp())
    if entry.state in UNFINISHED_STATES:
        is_same_run = created == int(entry.score)
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
    return _ms(JobStatus.from_json(response.body).created_at.timestamp())


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _stored_at(entry: Entry) -> int:
    return entry.stored_at


def _newest_first(jobs: list[tuple[Entry, StatusResponse]]) -> list[StatusResponse]:
    return [response for _, response in sorted(jobs, key=lambda job: job[0], reverse=True)]


def _has_failed(task: "asyncio.Task[dict[JobState, int]]") -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)
