"""The read path: replies out of the near cache while that is proven, else out of Redis."""

import asyncio
import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Final
from uuid import UUID

from litestar.types import Receive

from jobstatus.redis_url import Kind
from jobstatus.status import JobState
from jobstatus.storage.client import address_of
from jobstatus_service.lookup.cache import NearCache
from jobstatus_service.lookup.response import LONGEST, Reply, reply_about
from jobstatus_service.lookup.watchers import Owner, Watch, Watches
from jobstatus_service.metrics.metrics import Metrics, Sample
from jobstatus_service.settings import ServiceSettings
from jobstatus_service.storage.cluster_reader import ClusterReader
from jobstatus_service.storage.endpoints import server_of
from jobstatus_service.storage.link import Link
from jobstatus_service.storage.reader import Reader
from jobstatus_service.storage.stored_record import Found

_LOOK: Final = 0.25
"""Seconds between two looks at the jobs that are watched: has a lease or a TTL run out? Without
word from Redis of what changes: have they changed?"""


class Statuses:
    """Where jobs stand, by key (`prefix:uuid`). Belongs to one event loop.

    Attributes:
        near: The near cache.
        reader: The way to Redis.
        watches: Who waits for which job.
        client_timeout: Seconds for which a client may leave unread what it gets.
        metrics: What happens.
    """

    def __init__(self, settings: ServiceSettings, metrics: Metrics) -> None:
        self.near = NearCache(settings.near_cache_bytes)
        self.reader = self._reader(settings, metrics)
        # A job whose slot is on its way begins at another node, of which this one says nothing.
        is_cluster = isinstance(self.reader, ClusterReader)
        self._missing_for = settings.staleness / 2 if is_cluster else LONGEST
        self.watches = Watches(settings)
        self.client_timeout = settings.client_timeout
        self._lease = settings.lease
        self.metrics = metrics
        self._looking: asyncio.Task[None] | None = None

    def _reader(
        self, settings: ServiceSettings, metrics: Metrics
    ) -> Reader[Reply] | ClusterReader[Reply]:
        hear = (settings, self._found, self._changed, metrics.batches.observe)
        if address_of(settings).kind is Kind.CLUSTER:
            return ClusterReader(*hear)
        return Reader(server_of(settings), *hear)

    def start(self) -> None:
        """Connect to Redis, and stay connected."""
        self.reader.start()
        self._looking = asyncio.get_running_loop().create_task(self._look())

    async def close(self) -> None:
        """Close the connection."""
        if self._looking is not None:
            self._looking.cancel()
        await self.reader.close()

    def fresh(self, key: str, now: float | None = None) -> Reply | None:
        """What may be said of a job without asking Redis; None: Redis must be asked.

        Args:
            key: Where the job stands.
            now: The time on the monotonic clock, if it was read already.
        """
        reply = self.near.replies.get(key)
        if reply is None:
            return None
        if now is None:
            now = time.monotonic()
        if now >= reply.until or now >= reply.proof.until:
            return None
        self.near.replies.move_to_end(key)
        return reply

    async def get(self, key: str) -> Reply:
        """What is said of a job now.

        Raises:
            UnavailableError: Redis can't answer in time.
        """
        return self.fresh(key) or await self.reader.read(key)

    @contextlib.contextmanager
    def watch(self, key: str, owner: Owner, reply: Reply, receive: Receive) -> Iterator[Watch]:
        """Watch a job of which `reply` was the current one a moment ago."""
        is_first = key not in self.watches.topics
        with self.watches.watch(key, owner, reply, receive) as watch:
            if is_first and self.near.replies.get(key) is not reply:
                # It changed in that moment, or nobody will tell when it does.
                watch.topic.is_stale = True
                self.reader.ask(key)
            yield watch

    def sample(self) -> Sample:
        """All numbers of this process now."""
        own, near, open_ = self.metrics, self.near, self.watches.open
        links, now = self.reader.links, time.monotonic()
        return Sample(
            {f"reads|{outcome}": count for outcome, count in own.reads.items()}
            | {
                "auth_failures": own.unauthorized,
                "turned_away": own.turned_away,
                "rate_limited": own.rate_limited,
                "lapsed_leases": own.lapsed,
                "unreadable_records": own.unreadable,
                "invalidations": own.invalidations,
                "flushes": own.flushes,
                "evictions": near.evicted,
            },
            {
                "redis_up": int(bool(links) and all(link.is_up for link in links)),
                "near_cache_proven": int(any(link.proof.until > now for link in links)),
                "near_cache_entries": len(near.replies),
                "near_cache_bytes": near.size,
                "waits_open": open_["wait"],
                "streams_open": open_["stream"],
            },
            {
                "read_seconds": own.seconds.values,
                "redis_batch_keys": own.batches.values,
                "wake_seconds": own.wakes.values,
            },
        )

    def _found(self, key: str, found: Found, asked: float, link: Link | None) -> Reply:
        interval = self.near.interval(key)
        if link is not None and link.tracks:
            longest = self._missing_for if found.record is None else LONGEST
            reply = reply_about(
                UUID(key[-36:]), found, self._lease, asked, interval, link.proof, longest
            )
            self.near.put(key, reply)
        else:
            reply = reply_about(UUID(key[-36:]), found, self._lease, asked, interval)
        self.watches.publish(key, reply)
        if found.fault:
            self.metrics.unreadable += 1
        if reply.state is JobState.UNKNOWN and found.record is not None:
            self.metrics.lapse(key, found.record.created, found.record.attempt)
        return reply

    def _changed(self, keys: Sequence[str] | None) -> None:
        if keys is None:
            self.near.clear()
            self.metrics.flushes += 1
            keys = list(self.watches.topics)
        else:
            self.metrics.invalidations += len(keys)
        for key in keys:
            self.near.drop(key)
            if self.watches.stale(key):
                self.reader.ask(key)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_LOOK)
            now = time.monotonic()
            for key, topic in self.watches.topics.items():
                link = self.reader.link_of(key)
                if link is None or not link.is_up:
                    continue
                if topic.is_stale or not link.tracks or topic.reply.until <= now:
                    self.reader.ask(key)
