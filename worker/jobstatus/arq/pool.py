"""arq's pool, which publishes the jobs that it enqueues as `pending`."""

import asyncio
import contextlib
import logging
import pickle
from datetime import datetime, timedelta
from typing import Any, Self
from uuid import uuid4

from arq.connections import ArqRedis, RedisSettings
from arq.connections import create_pool as create_arq_pool
from arq.constants import default_queue_name, expires_extra_ms, job_key_prefix, result_key_prefix
from arq.jobs import Deserializer, Job, Serializer, serialize_job
from arq.utils import timestamp_ms, to_ms, to_unix_ms
from redis.exceptions import NoScriptError, RedisError, ResponseError, WatchError

from jobstatus.arq.queue_settings import (
    close_sentinels,
    redis_settings,
    reread_login_on_connect,
    sentinel_pool,
)
from jobstatus.arq.sync_client import is_same_redis, publisher_for_pool
from jobstatus.publishing.enqueued_record import pending_write
from jobstatus.publishing.publisher import Publisher
from jobstatus.settings import PublisherSettings
from jobstatus.storage.write import SCRIPT, Write
from jobstatus.tracing import TRACE_FIELD, tracer

_log = logging.getLogger("jobstatus")

Duration = int | float | timedelta | None


class _RefusedError(Exception):
    """Redis has refused a transaction and executed no part of it."""


class StatusRedis(ArqRedis):
    """`ArqRedis` whose `enqueue_job` publishes the job as `pending`.

    If the queue and the status are in the same Redis, the record is written in the transaction
    that enqueues the job; otherwise a publisher writes it right after that. An enqueue never fails
    because the status can't be written.

    It takes the arguments of `ArqRedis`, and:

    Args:
        status: Where and for how long the status is stored; None: from the environment.
        publisher: Writes the status if that is not in the queue's Redis; None: the pool makes a
            publisher and closes it with itself.
    """

    def __init__(
        self,
        *args: Any,
        status: PublisherSettings | None = None,
        publisher: Publisher | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._status_settings = status or PublisherSettings.from_env()
        self._publisher: Publisher | None = None
        self._owns_publisher = publisher is None
        self._fallback: Publisher | None = None
        if not is_same_redis(self, self._status_settings):
            self._publisher = publisher or publisher_for_pool(self, self._status_settings)

    @classmethod
    def wrap(
        cls, pool: ArqRedis, status: PublisherSettings, publisher: Publisher | None = None
    ) -> Self:
        """Return a pool with the connections, queue and serializers of `pool`.

        Closing it also closes the connections of `pool`.
        """
        self = cls(
            pool.connection_pool,
            job_serializer=pool.job_serializer,
            job_deserializer=pool.job_deserializer,
            default_queue_name=pool.default_queue_name,
            expires_extra_ms=pool.expires_extra_ms,
            status=status,
            publisher=publisher,
        )
        self.auto_close_connection_pool = pool.auto_close_connection_pool
        pool.auto_close_connection_pool = False
        return self

    async def enqueue_job(
        self,
        function: str,
        *args: Any,
        _job_id: str | None = None,
        _queue_name: str | None = None,
        _defer_until: datetime | None = None,
        _defer_by: Duration = None,
        _expires: Duration = None,
        _job_try: int | None = None,
        **kwargs: Any,
    ) -> Job | None:
        """Enqueue a job as `ArqRedis.enqueue_job` of arq 0.28 does, and publish it as pending."""
        job_id = _job_id or uuid4().hex
        traces = tracer()
        with (
            contextlib.nullcontext()
            if traces is None
            else traces.span(f"enqueue {function}", "PRODUCER", job_id=job_id, job_name=function)
        ):
            return await self._enqueue(
                job_id,
                function,
                args,
                kwargs,
                _queue_name=_queue_name,
                _defer_until=_defer_until,
                _defer_by=_defer_by,
                _expires=_expires,
                _job_try=_job_try,
            )

    async def _enqueue(
        self,
        job_id: str,
        function: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        _queue_name: str | None,
        _defer_until: datetime | None,
        _defer_by: Duration,
        _expires: Duration,
        _job_try: int | None,
    ) -> Job | None:
        if _defer_until and _defer_by:
            raise RuntimeError("use either 'defer_until' or 'defer_by' or neither, not both")
        queue = self.default_queue_name if _queue_name is None else _queue_name
        job_key = job_key_prefix + job_id
        defer_by = to_ms(_defer_by)
        expires = to_ms(_expires)

        pipe: Any
        async with self.pipeline(transaction=True) as pipe:
            await pipe.watch(job_key)
            if await pipe.exists(job_key, result_key_prefix + job_id):
                await pipe.reset()
                return None
            now = timestamp_ms()
            score = now + (defer_by or 0) if _defer_until is None else to_unix_ms(_defer_until)
            expires = expires or score - now + self.expires_extra_ms
            job = serialize_job(
                function, args, kwargs, _job_try, now, serializer=self._job_serializer()
            )
            write = pending_write(self._status_settings, job_id, function, now, expires)
            pipe.multi()
            pipe.psetex(job_key, expires, job)
            pipe.zadd(queue, {job_id: score})
            try:
                await self._execute(pipe, write)
            except WatchError:
                return None
            except _RefusedError as error:
                # If Redis refused only the status, arq's own transaction succeeds; otherwise it
                # raises the error.
                _log.debug("%s can't be written as pending yet: %s", write.key, error)
                enqueued = await super().enqueue_job(
                    function,
                    *args,
                    _job_id=job_id,
                    _queue_name=_queue_name,
                    _defer_until=_defer_until,
                    _defer_by=_defer_by,
                    _expires=_expires,
                    _job_try=_job_try,
                    **kwargs,
                )
                if enqueued is not None:
                    self._publish(write)
                return enqueued
        if self._publisher is not None:
            self._publisher.publish(write)
        return Job(job_id, redis=self, _queue_name=queue, _deserializer=self.job_deserializer)

    def _job_serializer(self) -> Serializer | None:
        """Return the pool's serializer, which adds the current trace to jobs if traces are on."""
        traces = tracer()
        if traces is None:
            return self.job_serializer
        plain, carrier = self.job_serializer or pickle.dumps, traces.carrier()
        return lambda data: plain(data | {TRACE_FIELD: carrier})

    async def _execute(self, pipe: Any, write: Write) -> None:
        """Execute a transaction, with the write as a part of it if the Redis is the same.

        Raises:
            _RefusedError: Redis has refused the transaction with the write in it.
            WatchError: Another client has changed the job meanwhile.
            RedisError, OSError: Redis is unavailable, or refuses arq's commands.
        """
        if self._publisher is not None:
            await pipe.execute()
            return
        pipe.execute_command(*write.command())
        try:
            *results, written = await pipe.execute(raise_on_error=False)
        except ResponseError as error:
            raise _RefusedError(str(error)) from error
        for result in results:
            if isinstance(result, ResponseError):
                raise result
        if isinstance(written, NoScriptError):
            written = await self._load_and_write(write)
        if isinstance(written, ResponseError):
            self._publish(write)

    def _publish(self, write: Write) -> None:
        """Give a write that Redis refused to a publisher, which holds it and tries it again."""
        if self._fallback is None:
            self._fallback = publisher_for_pool(self, self._status_settings)
        self._fallback.publish(write)

    async def _load_and_write(self, write: Write) -> Any:
        """Write again to a server that did not know the script; return its reply or the error."""
        async with self.pipeline(transaction=False) as pipe:
            pipe.script_load(SCRIPT)
            pipe.execute_command(*write.command())
            try:
                return (await pipe.execute(raise_on_error=False))[1]
            except (RedisError, OSError) as error:
                return ResponseError(str(error))

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Close the pool's connections and the publishers that it has made."""
        if self._publisher is not None and self._owns_publisher:
            await asyncio.to_thread(self._publisher.close)
        if self._fallback is not None:
            await asyncio.to_thread(self._fallback.close)
            self._fallback = None
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
    return StatusRedis.wrap(pool, status)


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
