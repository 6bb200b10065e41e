"""Reading stored runs of jobs, in the queue's Redis or in another one."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from arq.connections import ArqRedis
from redis.exceptions import RedisError

from jobstatus.arq.sync_client import is_same_redis
from jobstatus.publishing.enqueued_record import key_of_job
from jobstatus.settings import PublisherSettings
from jobstatus.storage.cluster_store import AnyStore, store_for
from jobstatus.storage.write import Run

_log = logging.getLogger("jobstatus")


class StatusReader:
    """Reads the runs that the records of jobs describe.

    Attributes:
        is_same_redis: Whether the status is stored in the Redis of the queue.
    """

    def __init__(self, pool: ArqRedis, settings: PublisherSettings) -> None:
        self.is_same_redis = is_same_redis(pool, settings)
        self._pool: Any = pool
        self._settings = settings
        self._lock = asyncio.Lock()  # a store is not thread-safe
        self._store: AnyStore | None = None

    async def runs(self, job_ids: Sequence[str]) -> list[Run | None]:
        """Return the run of each job; None if there is no well-formed record, or none to be read.

        Raises:
            RedisError, OSError: Redis is unavailable, or refuses the command.
        """
        keys = [key_of_job(self._settings, job_id) for job_id in job_ids]
        if not self.is_same_redis:
            async with self._lock:
                runs = await asyncio.to_thread(self._read, keys)
            return [run if isinstance(run, Run) else None for run in runs]
        async with self._pool.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.hmget(key, Run.FIELDS)
            return [Run.from_fields(fields) for fields in await pipe.execute()]

    async def warn_if_unavailable(self) -> None:
        """Log a warning if the status can't be read at the moment."""
        try:
            await self.runs([""])
        except (RedisError, OSError) as error:
            _log.warning(
                "can't use the Redis of the status, which JOBSTATUS_REDIS_URL names; jobs are run, "
                "and their status is written when it can be used: %s",
                error,
            )

    def _read(self, keys: list[str]) -> list[Any]:
        if self._store is None:
            self._store = store_for(self._settings)
        return list(self._store.runs(keys))

    def close(self) -> None:
        """Close the connection that the reader has made."""
        if self._store is not None:
            self._store.close()
