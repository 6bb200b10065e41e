"""Reading the index: which jobs a tenant has, by state. `storage/write.lua` documents the index.

Every read takes a snapshot of each shard in one transaction, so that no job is seen in two states,
or in none.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, Final, Protocol

import msgspec

from jobstatus.keys import due_key, index_key, shard_starts
from jobstatus.status import STORED_STATES, JobState
from jobstatus.storage.resp import packed_command
from jobstatus_service.storage.connection import TIME_COMMAND

TICKS_PER_MS: Final = 4
"""Ticks, quarters of a ms since the epoch, are the resolution of when an entry was stored."""

MAX_LATENESS_TICKS: Final = 4095
"""By how much `Entry.stored_at` can be later than the time in the score."""

_UUID_BYTES: Final = 16


class Entry(msgspec.Struct, frozen=True, order=True, gc=False):
    """A job in the index. Entries are ordered as a list is, from the oldest to the newest.

    Attributes:
        score: `created` of an unfinished job; of a finished one when it finished, in ms since the
            epoch, plus 1/4096 for each tick until that was stored.
        job_id: The UUID, in 16 bytes.
        state: The state in which it is listed.
    """

    score: float
    job_id: bytes
    state: JobState

    @property
    def stored_at(self) -> int:
        """When the state of a finished job was stored, in ticks; at most 1023 ms after its end."""
        whole = int(self.score)
        return whole * TICKS_PER_MS + round((self.score - whole) * (MAX_LATENESS_TICKS + 1))


class Range(msgspec.Struct, frozen=True):
    """A part of one shard's entries in one state.

    Attributes:
        shard_start: What all keys of the shard begin with.
        state: The state.
        bound: The highest score, inclusive; if ascending, the lowest one.
        limit: How many to return at most.
        is_ascending: Whether the oldest come first.
    """

    shard_start: str
    state: JobState
    bound: float
    limit: int
    is_ascending: bool = False

    def command(self) -> bytes:
        """Return the command in RESP that reads the range."""
        key = index_key(self.shard_start, self.state)
        bound = _score_text(self.bound)
        bounds = (bound, "+inf") if self.is_ascending else (bound, "-inf")
        name = "ZRANGEBYSCORE" if self.is_ascending else "ZREVRANGEBYSCORE"
        return packed_command(name, key, *bounds, "WITHSCORES", "LIMIT", "0", str(self.limit))


class CommandReader(Protocol):
    """What the index is read with: `Reader` or `ClusterReader`."""

    async def execute(
        self, key: str, commands: Sequence[bytes], *, is_transaction: bool = False
    ) -> list[Any]:
        """Send commands; return their replies."""


class IndexReader:
    """Reads the index of any tenant.

    Attributes:
        reads: How many snapshots and counts were read.
    """

    def __init__(self, reader: CommandReader, *, is_cluster: bool) -> None:
        self.reads = 0
        self._reader = reader
        self._is_cluster = is_cluster

    def shard_starts(self, prefix: str) -> list[str]:
        """Return what all keys of each shard of a tenant begin with."""
        return shard_starts(prefix, is_cluster=self._is_cluster)

    async def snapshot(self, ranges: Sequence[Range]) -> tuple[int, dict[Range, list[Entry]]]:
        """Read ranges: those of one shard at one moment.

        Returns:
            The earliest of these moments by Redis's clock, in ticks; and the entries of each range,
            in its order.

        Raises:
            UnavailableError: Redis does not answer in time, or refuses a command.
        """
        self.reads += 1
        by_shard: dict[str, list[Range]] = {}
        for each in ranges:
            by_shard.setdefault(each.shard_start, []).append(each)
        found: dict[Range, list[Entry]] = {}
        moments = await asyncio.gather(
            *(self._snapshot_of(start, group, found) for start, group in by_shard.items())
        )
        return min(moments), found

    async def _snapshot_of(
        self, shard_start: str, ranges: Sequence[Range], found: dict[Range, list[Entry]]
    ) -> int:
        commands = [TIME_COMMAND, *(each.command() for each in ranges)]
        replies = await self._reader.execute(due_key(shard_start), commands, is_transaction=True)
        (seconds, microseconds), *results = replies
        for each, result in zip(ranges, results, strict=True):
            found[each] = list(_entries(each.state, result))
        return (int(seconds) * 1_000_000 + int(microseconds)) * TICKS_PER_MS // 1000

    async def counts(self, prefix: str) -> dict[JobState, int]:
        """Return how many jobs a tenant has in each stored state.

        Raises:
            UnavailableError: Redis does not answer in time, or refuses a command.
        """
        self.reads += 1

        async def of_shard(start: str) -> Sequence[Any]:
            commands = [packed_command("ZCARD", index_key(start, each)) for each in STORED_STATES]
            return await self._reader.execute(due_key(start), commands)

        replies = await asyncio.gather(*map(of_shard, self.shard_starts(prefix)))
        return {state: sum(r[n] for r in replies) for n, state in enumerate(STORED_STATES)}


def _score_text(score: float) -> str:
    return "+inf" if score == float("inf") else repr(score)


def _entries(state: JobState, reply: Sequence[Any]) -> Iterable[Entry]:
    """Parse a reply WITHSCORES: pairs in RESP3, one flat list in RESP2."""
    is_nested = bool(reply) and isinstance(reply[0], list)
    pairs = reply if is_nested else zip(reply[::2], reply[1::2], strict=True)
    for job_id, score in pairs:
        if len(job_id) == _UUID_BYTES:
            yield Entry(float(score), job_id, state)
