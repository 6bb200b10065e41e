"""arq's pool, which publishes the jobs that it enqueues as `pending`."""

import asyncio
import logging
from typing import Any, Self

from arq.connections import ArqRedis, RedisSettings
from arq.connections import create_pool as create_arq_pool
from arq.constants import default_queue_name, expires_extra_ms
from arq.jobs import Deserializer, Job, Serializer
from redis.exceptions import RedisError

from jobstatus.arq.names import StatusName
from jobstatus.arq.pending import PendingReporter, observed, serializer_of, set_serializer
from jobstatus.arq.queue_settings import (
    close_sentinels,
    redis_settings,
    reread_login_on_connect,
    sentinel_pool,
)
from jobstatus.publishing.publisher import Publisher
from jobstatus.settings import PublisherSettings

_log = logging.getLogger("jobstatus")


class StatusRedis(ArqRedis):
    """`ArqRedis` whose `enqueue_job` publishes the job as `pending`.

    It takes the arguments of `ArqRedis`, and:

    Args:
        status: Where and for how long the status is stored; None: from the environment.
        status_name: Returns the name under which a job is shown, from its function's name,
            arguments and keyword arguments; None: the function's name.
        publisher: Writes the status if that is not in the queue's Redis; None: the pool makes a
            publisher and closes it with itself.
    """

    def __init__(
        self,
        *args: Any,
        status: PublisherSettings | None = None,
        status_name: StatusName | None = None,
        publisher: Publisher | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        settings = status or PublisherSettings.from_env()
        self._reporter = PendingReporter(self, settings, publisher, status_name)

    @classmethod
    def wrap(
        cls,
        pool: ArqRedis,
        status: PublisherSettings | None = None,
        publisher: Publisher | None = None,
        status_name: StatusName | None = None,
    ) -> Self:
        """Return a pool with the connections, queue and serializers of `pool`.

        Closing it also closes the connections of `pool`. The other arguments are those of the
        class.
        """
        self = cls(
            pool.connection_pool,
            job_serializer=pool.job_serializer,
            job_deserializer=pool.job_deserializer,
            default_queue_name=pool.default_queue_name,
            expires_extra_ms=pool.expires_extra_ms,
            status=status,
            status_name=status_name,
            publisher=publisher,
        )
        self.auto_close_connection_pool = pool.auto_close_connection_pool
        pool.auto_close_connection_pool = False
        return self

    async def enqueue_job(self, function: str, *args: Any, **kwargs: Any) -> Job | None:
        """Enqueue a job as `ArqRedis.enqueue_job` does, and publish it as pending."""
        return await self._reporter.enqueue(super().enqueue_job, function, args, kwargs)

    @property
    def job_serializer(self) -> Serializer | None:
        """As in arq; None: pickle."""
        return serializer_of(self)

    @job_serializer.setter
    def job_serializer(self, serializer: Serializer | None) -> None:
        set_serializer(self, serializer)

    def pipeline(self, *args: Any, **kwargs: Any) -> Any:
        """As in redis-py."""
        return observed(self, super().pipeline(*args, **kwargs))

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Close the pool's connections and the publisher that it has made."""
        await self._reporter.close()
        await super().aclose(close_connection_pool)
        await close_sentinels(self)

    async def close(self, close_connection_pool: bool | None = None) -> None:
        """Do the same as `aclose`. arq calls this name, which redis-py has deprecated."""
        await self.aclose(close_connection_pool)


async def create_pool(
    settings_: RedisSettings | None = None,
    *,
    retry: int = 0,
    job_serializer: Serializer | None = None,
    job_deserializer: Deserializer | None = None,
    default_queue_name: str = default_queue_name,
    expires_extra_ms: int = expires_extra_ms,
    status: PublisherSettings | None = None,
    status_name: StatusName | None = None,
) -> StatusRedis:
    """Connect as `arq.create_pool` does, and return a pool that publishes jobs as `pending`.

    Args:
        settings_: As in arq; None: as `jobstatus.arq.redis_settings` says.
        retry: As in arq.
        job_serializer: As in arq.
        job_deserializer: As in arq.
        default_queue_name: As in arq.
        expires_extra_ms: As in arq.
        status: Where and for how long the status is stored; None: from the environment.
        status_name: As in `StatusRedis`.

    Raises:
        SettingsError: A `JOBSTATUS_` variable has an invalid value.
    """
    status = status or PublisherSettings.from_env()
    settings = settings_ or redis_settings()
    if settings.sentinel:
        pool = await _connect_through_sentinels(settings, retry)
        pool.job_serializer = job_serializer
        pool.job_deserializer = job_deserializer
        pool.default_queue_name = default_queue_name
        pool.expires_extra_ms = expires_extra_ms
    else:
        pool = await create_arq_pool(
            settings,
            retry=retry,
            job_serializer=job_serializer,
            job_deserializer=job_deserializer,
            default_queue_name=default_queue_name,
            expires_extra_ms=expires_extra_ms,
        )
    await reread_login_on_connect(pool, settings)
    return StatusRedis.wrap(pool, status, status_name=status_name)


async def _connect_through_sentinels(settings: RedisSettings, failed_tries: int) -> ArqRedis:
    """Return a pool that has reached the primary once.

    It tries as often as `arq.create_pool` does.
    """
    pool = sentinel_pool(settings)
    for tries_left in range(max(0, settings.conn_retries - failed_tries), -1, -1):
        try:
            await pool.ping()
        except (RedisError, OSError) as error:
            if not tries_left:
                await pool.aclose(close_connection_pool=True)
                raise
            _log.warning("Redis can't be reached, %d tries are left: %s", tries_left, error)
            await asyncio.sleep(settings.conn_retry_delay)
        else:
            break
    return pool
