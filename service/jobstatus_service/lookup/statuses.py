"""Where every response about a job comes from: the cache while it is valid, else Redis."""

import asyncio
import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final
from uuid import UUID

from jobstatus.keys import is_record_key, record_key, uuid_of_key
from jobstatus.redis_url import RedisMode
from jobstatus.status import JobState
from jobstatus.storage.client import redis_url_of
from jobstatus_service.lookup.cache import MAX_CACHED_SECONDS, ResponseCache
from jobstatus_service.lookup.response import StatusResponse, response_for
from jobstatus_service.lookup.watchers import WatchedJob, Watcher, Watchers
from jobstatus_service.metrics.metrics import Metrics, Outcome, Sample
from jobstatus_service.settings import ServiceSettings
from jobstatus_service.storage.cluster_reader import ClusterReader
from jobstatus_service.storage.index_reader import IndexReader
from jobstatus_service.storage.link import Link
from jobstatus_service.storage.reader import Reader
from jobstatus_service.storage.redis_endpoints import endpoint_of
from jobstatus_service.storage.stored_record import StoredRecord

_WATCHED_JOBS_CHECK_SECONDS: Final = 0.25
"""Interval at which watched jobs are checked for what Redis sends no invalidation of: an expired
lease or TTL, and any change where Redis can't track keys."""


class Statuses:
    """The responses about all jobs, by record key. Belongs to one event loop.

    Attributes:
        is_cluster: Whether the records are in a Redis Cluster.
        cache: The cached responses.
        reader: Reads records from Redis.
        index: Reads the index, which says what jobs there are.
        watchers: The open long polls and event streams.
        client_timeout: Seconds for which a client may leave a part of a stream unread.
        metrics: Where reads and invalidations are counted.
    """

    def __init__(self, settings: ServiceSettings, metrics: Metrics) -> None:
        self.cache = ResponseCache(settings.cache_bytes)
        self.reader = self._reader(settings, metrics)
        # The record of a job whose slot is being migrated is created at the new node, of which
        # the old node, where the missing key was read, sends no invalidation.
        self.is_cluster = isinstance(self.reader, ClusterReader)
        self._missing_cached_seconds = (
            settings.max_staleness / 2 if self.is_cluster else MAX_CACHED_SECONDS
        )
        self.index = IndexReader(self.reader, is_cluster=self.is_cluster)
        self.watchers = Watchers(settings)
        self.client_timeout = settings.client_timeout
        self.metrics = metrics
        self._lease_seconds = settings.lease
        self._checking: asyncio.Task[None] | None = None

    def _reader(self, settings: ServiceSettings, metrics: Metrics) -> Reader | ClusterReader:
        arguments = (settings, self._on_record, self._on_invalidation, metrics.batch_sizes.observe)
        if redis_url_of(settings).mode is RedisMode.CLUSTER:
            return ClusterReader(*arguments)
        return Reader(endpoint_of(settings), *arguments)

    def start(self) -> None:
        """Connect to Redis, and reconnect whenever the connection is lost."""
        self.reader.start()
        self._checking = asyncio.get_running_loop().create_task(self._check_watched_jobs())

    async def close(self) -> None:
        """Close the connection to Redis."""
        if self._checking is not None:
            self._checking.cancel()
        await self.reader.close()

    def key_of(self, prefix: str, job_id: UUID) -> str:
        """Return the key of a job's record."""
        return self.key_of_text(prefix, str(job_id))

    def key_of_text(self, prefix: str, job_id: str) -> str:
        """Return the key of a job's record; the UUID is hyphenated and in lower case."""
        return record_key(prefix, job_id, is_cluster=self.is_cluster)

    def cached(self, key: str, now: float | None = None) -> StatusResponse | None:
        """Return the cached response about a job; None if Redis must be asked. A hot path.

        Args:
            key: The key of the job's record.
            now: The time on the monotonic clock, if the caller has read it already.
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

    async def get(self, key: str) -> tuple[StatusResponse, Outcome]:
        """Return the current response about a job, and whether the cache had it.

        The fast path takes the same two steps by itself: `cached`, then `reader.read`. Whichever
        step has a response, `_on_record` has made it.

        Raises:
            UnavailableError: Redis doesn't answer in time.
        """
        response = self.cached(key)
        if response is not None:
            return response, "hit"
        response = await self.reader.read(key)
        return response, "miss"

    @contextlib.contextmanager
    def watch(
        self, watcher: Watcher, responses: Mapping[str, StatusResponse]
    ) -> Iterator[list[WatchedJob]]:
        """Have a watcher watch jobs during the block.

        Args:
            watcher: The watcher.
            responses: What `get` has just returned about each job, by the key of its record.
        """
        new = [key for key in responses if key not in self.watchers.jobs]
        with self.watchers.watch(watcher, responses) as jobs:
            for key in new:
                if self.cache.responses.get(key) is not responses[key]:
                    # The job has changed since, or its changes are not tracked.
                    self.watchers.jobs[key].is_stale = True
                    self.reader.request(key)
            yield jobs

    def sample(self, jobs: Mapping[JobState, int] = MappingProxyType({})) -> Sample:
        """Return all numbers of this process now.

        Args:
            jobs: How many jobs there are in each state, as they were read last.
        """
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
                "index_reads": self.index.reads,
            },
            {
                "redis_up": int(bool(links) and all(link.is_connected for link in links)),
                "cache_valid": int(any(link.verification.valid_until > now for link in links)),
                "cache_entries": len(cache.responses),
                "cache_bytes": cache.size,
                "long_polls_open": open_["long_poll"],
                "streams_open": open_["stream"],
                **{f"jobs|{state}": count for state, count in jobs.items()},
            },
            {
                "read_seconds": own.read_durations.values,
                "redis_batch_keys": own.batch_sizes.values,
                "watcher_notification_seconds": own.notification_delays.values,
            },
        )

    def _on_record(
        self, key: str, stored: StoredRecord, asked_at: float, link: Link | None
    ) -> StatusResponse:
        """Make the response from a record that was read; cache it and notify its watchers."""
        job_id, change_interval = UUID(uuid_of_key(key)), self.cache.change_interval(key)
        if link is not None and link.is_tracking:
            response = response_for(
                job_id,
                stored,
                self._lease_seconds,
                asked_at,
                change_interval,
                link.verification,
                self._missing_cached_seconds if stored.record is None else MAX_CACHED_SECONDS,
            )
            self.cache.put(key, response)
        else:
            response = response_for(job_id, stored, self._lease_seconds, asked_at, change_interval)
        self.watchers.publish(key, response)
        if stored.error:
            self.metrics.malformed_records += 1
        if response.state is JobState.UNKNOWN and stored.record is not None:
            self.metrics.count_expired_lease(key, stored.record.created, stored.record.attempt)
        return response

    def _on_invalidation(self, keys: Sequence[str] | None) -> None:
        """Remove jobs that have changed from the cache; None for all jobs."""
        if keys is None:
            self.cache.clear()
            self.metrics.cache_flushes += 1
            keys = list(self.watchers.jobs)
        else:
            keys = [key for key in keys if is_record_key(key)]  # no keys of the index
            self.metrics.cache_invalidations += len(keys)
        for key in keys:
            self.cache.invalidate(key)
            if self.watchers.mark_stale(key):
                self.reader.request(key)

    async def _check_watched_jobs(self) -> None:
        while True:
            await asyncio.sleep(_WATCHED_JOBS_CHECK_SECONDS)
            now = time.monotonic()
            for key, job in self.watchers.jobs.items():
                link = self.reader.link_of(key)
                if link is None or not link.is_connected:
                    continue
                if job.is_stale or not link.is_tracking or job.response.valid_until <= now:
                    self.reader.request(key)
