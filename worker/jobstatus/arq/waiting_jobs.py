"""Publishing jobs as `pending` that wait in the queue without a record.

They were enqueued by a producer that does not publish status, or by one that could not. Each scan
does a bounded amount of work, however long the queue is.
"""

import asyncio
import logging
import pickle
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from arq.connections import ArqRedis
from arq.constants import job_key_prefix
from arq.jobs import Deserializer
from redis.exceptions import RedisError, ResponseError

from jobstatus.arq.names import name_of
from jobstatus.arq.status_reader import StatusReader
from jobstatus.publishing.enqueued_record import pending_write
from jobstatus.reporting.hook import Hook
from jobstatus.settings import PublisherSettings
from jobstatus.status import FINAL_STATES
from jobstatus.storage.write import Run, Write

_INTERVAL_SECONDS: Final = 1.0
"""Seconds between two scans."""

_TIMEOUT_SECONDS: Final = 5.0
"""Seconds that one scan may take."""

_MAX_JOBS: Final = 200
"""Jobs of the queue that one scan looks at."""

_MAX_READ: Final = 10
"""Payloads that are read in one round trip."""

_MAX_PAYLOAD_BYTES: Final = 1_048_576
"""Bytes of payloads after which a scan reads no more of them."""

_MAX_KNOWN: Final = 100_000
"""Job ids that are remembered because they need no further look."""

_log = logging.getLogger("jobstatus")


class WaitingJobs:
    """Scans the queue of one worker, a part of it at a time."""

    def __init__(
        self,
        pool: ArqRedis,
        queue: str,
        settings: PublisherSettings,
        status: StatusReader,
        *,
        publish: Callable[[Write], None],
        deserializer: Deserializer | None,
        name: Hook[str] | None,
    ) -> None:
        """Create it.

        Args:
            pool: arq's pool.
            queue: The queue's key.
            settings: Where and for how long the status is stored.
            status: Reads stored runs.
            publish: Delivers a write.
            deserializer: Reads the payload of a job; None: pickle.
            name: Returns the name of a job.
        """
        self._pool: Any = pool
        self._queue = queue
        self._settings = settings
        self._status = status
        self._publish = publish
        self._deserialize = deserializer or pickle.loads
        self._name = name
        self._known: set[str] = set()
        self._offset = 0
        self._scan_at = 0.0
        self._task: asyncio.Task[None] | None = None
        self._is_refused = False

    def scan_soon(self) -> None:
        """Begin a scan in a task of its own, if one is due."""
        now = time.monotonic()
        if now < self._scan_at or self._is_refused or (self._task and not self._task.done()):
            return
        self._scan_at = now + _INTERVAL_SECONDS
        self._task = asyncio.get_running_loop().create_task(self._try_to_scan())

    async def close(self) -> None:
        """Stop the scan that is running."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _try_to_scan(self) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                await self.scan()
        except ResponseError as error:
            self._is_refused = True
            _log.warning(
                "jobs of producers that publish no status are shown only once they run, because "
                "Redis refuses to read them: %s",
                error,
            )
        except (RedisError, OSError) as error:
            _log.debug("the queue could not be scanned: %s", error)
        except Exception:
            self._is_refused = True
            _log.exception("the queue can't be scanned for jobs without a record")

    async def scan(self) -> None:
        """Look at the next jobs of the queue, and publish those without a record.

        Raises:
            RedisError, OSError: Redis is unavailable, or refuses a command.
        """
        job_ids = await self._next_job_ids()
        if len(self._known) > _MAX_KNOWN:
            self._known.clear()
        if not job_ids:
            return
        runs = dict(zip(job_ids, await self._status.runs(job_ids), strict=True))
        missing = [i for i, run in runs.items() if run is None or run.state in FINAL_STATES]
        self._known.update(runs.keys() - set(missing))
        size = 0
        for chunk in _chunks(missing):
            for job_id, (payload, expires_ms) in zip(chunk, await self._read(chunk), strict=True):
                self._known.add(job_id)
                size += len(payload or b"")
                if payload and (write := self._pending(job_id, payload, expires_ms, runs[job_id])):
                    self._publish(write)
            if size > _MAX_PAYLOAD_BYTES:
                break

    async def _next_job_ids(self) -> list[str]:
        """Return the unknown ones of the next ids in the queue."""
        ids = await self._pool.zrange(self._queue, self._offset, self._offset + _MAX_JOBS - 1)
        self._offset = self._offset + _MAX_JOBS if len(ids) == _MAX_JOBS else 0
        return [job_id for job_id in map(bytes.decode, ids) if job_id not in self._known]

    async def _read(self, job_ids: list[str]) -> list[tuple[bytes | None, int]]:
        """Return the payload of each job, None if there is none, and its time to live in ms."""
        async with self._pool.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.get(job_key_prefix + job_id)
                pipe.pttl(job_key_prefix + job_id)
            replies = await pipe.execute()
        return list(zip(replies[::2], replies[1::2], strict=True))

    def _pending(
        self, job_id: str, payload: bytes, expires_ms: int, stored: Run | None
    ) -> Write | None:
        """Return the record of a job; None if it can't be read, or its run has just finished."""
        try:
            fields = self._deserialize(payload)
            created_ms = int(fields["et"])
            name = name_of(self._name, fields["f"], fields["a"], fields["k"])
            if stored is not None and stored.created == created_ms:
                return None
            return pending_write(self._settings, job_id, name, created_ms, expires_ms)
        except Exception as error:  # the worker that runs the job reports it
            _log.debug("job %s in the queue can't be read: %s", job_id, error)
            return None


def _chunks(job_ids: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(job_ids), _MAX_READ):
        yield job_ids[start : start + _MAX_READ]
