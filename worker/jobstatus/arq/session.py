"""What a worker has while it is connected: clients, a publisher, and what uses them."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from arq.connections import ArqRedis
from arq.jobs import Deserializer
from redis.exceptions import ResponseError

from jobstatus.arq.abrupt_exit import AbruptExit
from jobstatus.arq.claims import Claims
from jobstatus.arq.completion import Completion
from jobstatus.arq.hooks import StatusHooks
from jobstatus.arq.outage import Outage, raise_if_transient
from jobstatus.arq.outcomes import interrupted_outcome
from jobstatus.arq.pool import StatusRedis
from jobstatus.arq.primary_monitor import PrimaryMonitor
from jobstatus.arq.running_job import RunningJob
from jobstatus.arq.status_reader import StatusReader
from jobstatus.arq.sync_client import QueueClient, publisher_for_pool
from jobstatus.arq.waiting_jobs import WaitingJobs
from jobstatus.settings import PublisherSettings
from jobstatus.storage.write import SCRIPT

_ABRUPT_EXIT_SECONDS: Final = 1.0
"""Seconds for which the end of a process waits until its running jobs are reported as cut short."""

_log = logging.getLogger("jobstatus")


class Session:
    """The connections of one worker, and what uses them.

    Attributes:
        pool: The worker's pool. One of arq's own class is replaced by one that publishes.
        publisher: Publishes the status.
        queue_client: Makes a synchronous client of the queue's Redis for other threads.
        completion: Commits the outcomes of jobs.
        primary: Notices that another server has become the primary.
        waiting_jobs: Publishes jobs that wait in the queue without a record.
    """

    def __init__(
        self,
        pool: ArqRedis,
        settings: PublisherSettings,
        *,
        queue: str,
        jobs: dict[str, RunningJob],
        claims: Claims,
        outage: Outage,
        hooks: StatusHooks,
        deserializer: Deserializer | None,
    ) -> None:
        """Create the session of a pool that has just been connected.

        Args:
            pool: arq's pool.
            settings: Where and for how long the status is stored.
            queue: The queue's key.
            jobs: The running jobs, by job id.
            claims: The worker's claims.
            outage: Waits while Redis is unavailable.
            hooks: The application's functions that decide what is shown.
            deserializer: Reads the payload of a job; None: pickle.
        """
        self.queue_client = QueueClient(pool, settings)
        self.publisher = publisher_for_pool(pool, settings)
        if type(pool) is ArqRedis:  # an instance of the user's own class is not replaced
            own_pool, closes_connections = pool, pool.auto_close_connection_pool
            pool = StatusRedis.wrap(own_pool, settings, self.publisher, hooks.status_name)
            # The application may use its own pool afterwards, and then closes it.
            own_pool.auto_close_connection_pool = closes_connections
            pool.auto_close_connection_pool = False
        self.pool = pool
        self.primary = PrimaryMonitor(pool)
        self._jobs = jobs
        self._claims = claims
        self._outage = outage
        self._hooks = hooks
        self._status = StatusReader(pool, settings)
        self._status_check: asyncio.Task[None] | None = None
        self._abrupt_exit: AbruptExit | None = None
        self.completion = Completion(
            pool,
            self.publisher,
            outage,
            claims,
            queue=queue,
            status=self._status,
            errors=hooks.errors,
        )
        self.waiting_jobs = WaitingJobs(
            pool,
            queue,
            settings,
            self._status,
            publish=self.publisher.publish,
            deserializer=deserializer,
            name=hooks.name,
        )

    async def start(self, queue_client: Callable[[], Any], *, handles_signals: bool) -> None:
        """Begin to renew claims, and prepare for writing status.

        Args:
            queue_client: Returns a synchronous client of the queue's Redis, or None.
            handles_signals: Whether the worker itself handles signals.

        Raises:
            RedisError, OSError: Redis is unavailable.
        """
        await self._claims.start_renewal(
            self.pool, queue_client, self._outage.count_renewal_refusal
        )
        if not handles_signals:
            self._abrupt_exit = AbruptExit(self._end_abruptly, self._claims.lease)
        if not self._status.is_same_redis:
            self._status_check = asyncio.create_task(self._status.warn_if_unavailable())
            return
        try:  # the script must be known before the first outcome is committed
            await self.pool.script_load(SCRIPT)
        except ResponseError as error:
            raise_if_transient(error)
            _log.warning(
                "the worker's Redis user may not write status, its jobs are not shown: %s", error
            )

    def on_attempt_begun(self) -> None:
        """Report the attempt as cut short if the process ends without closing the worker."""
        if self._abrupt_exit is not None:
            self._abrupt_exit.before_exit()

    async def close(self, crash: BaseException | None) -> None:
        """Publish what is left, and close every connection.

        Args:
            crash: The error that has stopped the worker, if any.
        """
        if self._status_check is not None:
            self._status_check.cancel()
        await self.waiting_jobs.close()
        await asyncio.to_thread(self._claims.stop_renewal)
        if self._abrupt_exit is not None:
            self._abrupt_exit.cancel()
        self.publish_interrupted_attempts(crash)
        await asyncio.to_thread(self.publisher.close)
        await self.pool.aclose(close_connection_pool=True)
        self.queue_client.close()
        self._status.close()

    def publish_interrupted_attempts(self, crash: BaseException | None) -> None:
        """Publish the outcome of the attempts that are not finished, which arq will run again."""
        while self._jobs:
            _, job = self._jobs.popitem()
            if job.attempt is not None:
                outcome = interrupted_outcome(
                    job.attempt.number, crash, self._claims.lease, self._hooks.errors
                )
                self.publisher.end(job.attempt, outcome)

    def _end_abruptly(self) -> None:
        self.publish_interrupted_attempts(None)
        self.publisher.close(_ABRUPT_EXIT_SECONDS)
