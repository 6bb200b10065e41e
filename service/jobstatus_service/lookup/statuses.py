"""The read path: replies out of the near cache while that is proven, else out of Redis."""

import asyncio
import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Final
from uuid import UUID

from litestar.types import Receive

from jobstatus.redis_url import RedisMode
from jobstatus.status import JobState
from jobstatus.storage.client import redis_url_of
from jobstatus_service.lookup.cache import ResponseCache
from jobstatus_service.lookup.response import MAX_CACHED_SECONDS, StatusResponse, response_for
from jobstatus_service.lookup.watchers import Owner, Watcher, Watchers
from jobstatus_service.metrics.metrics import Metrics, Sample
from jobstatus_service.settings import ServiceSettings
from jobstatus_service.storage.cluster_reader import ClusterReader
from jobstatus_service.storage.endpoints import endpoint_of
from jobstatus_service.storage.link import Link
from jobstatus_service.storage.reader import Reader
from jobstatus_service.storage.stored_record import StoredRecord

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
        self.cache = ResponseCache(settings.cache_bytes)
        self.reader = self._reader(settings, metrics)
        # A job whose slot is on its way begins at another node, of which this one says nothing.
        is_cluster = isinstance(self.reader, ClusterReader)
        self._missing_for = settings.max_staleness / 2 if is_cluster else MAX_CACHED_SECONDS
        self.watchers = Watchers(settings)
        self.client_timeout = settings.client_timeout
        self._lease = settings.lease
        self.metrics = metrics
        self._looking: asyncio.Task[None] | None = None

    def _reader(self, settings: ServiceSettings, metrics: Metrics) -> Reader | ClusterReader:
        hear = (settings, self._found, self._changed, metrics.batch_sizes.observe)
        if redis_url_of(settings).mode is RedisMode.CLUSTER:
            return ClusterReader(*hear)
        return Reader(endpoint_of(settings), *hear)

    def start(self) -> None:
        """Connect to Redis, and stay connected."""
        self.reader.start()
        self._looking = asyncio.get_running_loop().create_task(self._look())

    async def close(self) -> None:
        """Close the connection."""
        if self._looking is not None:
            self._looking.cancel()
        await self.reader.close()

    def fresh(self, key: str, now: float | None = None) -> StatusResponse | None:
        """What may be said of a job without asking Redis; None: Redis must be asked.

        Args:
            key: Where the job stands.
            now: The time on the monotonic clock, if it was read already.
        """
        response = self.cache.responses.get(key)
        if response is None:
            return None
        if now is None:
            now = time.monotonic()
        if now >= response.valid_until or now >= response.verification.valid_until:
            return None
        self.cache.responses.move_to_end(key)
        return response

    async def get(self, key: str) -> StatusResponse:
        """What is said of a job now.

        Raises:
            UnavailableError: Redis can't answer in time.
        """
        return self.fresh(key) or await self.reader.read(key)

    @contextlib.contextmanager
    def watch(
        self, key: str, owner: Owner, response: StatusResponse, receive: Receive
    ) -> Iterator[Watcher]:
        """Watch a job of which `response` was the current one a moment ago."""
        is_first = key not in self.watchers.jobs
        with self.watchers.watch(key, owner, response, receive) as watch:
            if is_first and self.cache.responses.get(key) is not response:
                # It changed in that moment, or nobody will tell when it does.
                watch.topic.is_stale = True
                self.reader.request(key)
            yield watch

    def sample(self) -> Sample:
        """All numbers of this process now."""
        own, cache, open_ = self.metrics, self.cache, self.watchers.open
        links, now = self.reader.links, time.monotonic()
        return Sample(
            {f"reads|{outcome}": count for outcome, count in own.reads.items()}
            | {
                "auth_failures": own.auth_failures,
                "watchers_rejected": own.watchers_rejected,
                "rate_limited": own.rate_limited,
                "expired_leases": own.expired_leases,
                "malformed_records": own.malformed_records,
                "cache_invalidations": own.cache_invalidations,
                "cache_flushes": own.cache_flushes,
                "cache_evictions": cache.evictions,
            },
            {
                "redis_up": int(bool(links) and all(link.is_connected for link in links)),
                "cache_valid": int(any(link.verification.valid_until > now for link in links)),
                "cache_entries": len(cache.responses),
                "cache_bytes": cache.size,
                "long_polls_open": open_["wait"],
                "streams_open": open_["stream"],
            },
            {
                "read_seconds": own.read_durations.values,
                "redis_batch_keys": own.batch_sizes.values,
                "watcher_notification_seconds": own.notification_delays.values,
            },
        )

    def _found(
        self, key: str, found: StoredRecord, asked: float, link: Link | None
    ) -> StatusResponse:
        change_interval = self.cache.change_interval(key)
        if link is not None and link.is_tracking:
            longest = self._missing_for if found.record is None else MAX_CACHED_SECONDS
            response = response_for(
                UUID(key[-36:]),
                found,
                self._lease,
                asked,
                change_interval,
                link.verification,
                longest,
            )
            self.cache.put(key, response)
        else:
            response = response_for(UUID(key[-36:]), found, self._lease, asked, change_interval)
        self.watchers.publish(key, response)
        if found.error:
            self.metrics.malformed_records += 1
        if response.state is JobState.UNKNOWN and found.record is not None:
            self.metrics.count_expired_lease(key, found.record.created, found.record.attempt)
        return response

    def _changed(self, keys: Sequence[str] | None) -> None:
        if keys is None:
            self.cache.clear()
            self.metrics.cache_flushes += 1
            keys = list(self.watchers.jobs)
        else:
            self.metrics.cache_invalidations += len(keys)
        for key in keys:
            self.cache.drop(key)
            if self.watchers.stale(key):
                self.reader.request(key)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_LOOK)
            now = time.monotonic()
            for key, topic in self.watchers.jobs.items():
                link = self.reader.link_of(key)
                if link is None or not link.is_connected:
                    continue
                if topic.is_stale or not link.is_tracking or topic.response.valid_until <= now:
                    self.reader.request(key)
