"""Publishing jobs as `pending` while `ArqRedis.enqueue_job` enqueues them.

arq's own method does the enqueueing, so whatever else wraps that method sees what it always sees.
The status is added from within: the pool's serializer learns when the job was enqueued, and the
pool's pipeline adds the record to arq's transaction.
"""

import asyncio
import contextlib
import logging
import pickle
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from typing import Any, Final

from arq.connections import ArqRedis
from arq.constants import job_key_prefix
from arq.jobs import Job, Serializer
from redis.exceptions import NoScriptError, RedisError, ResponseError, WatchError

from jobstatus.arq.names import StatusName, name_of
from jobstatus.arq.sync_client import is_same_redis, publisher_for_pool
from jobstatus.publishing.enqueued_record import pending_write
from jobstatus.publishing.publisher import Publisher
from jobstatus.reporting.hook import hook_of
from jobstatus.settings import PublisherSettings
from jobstatus.storage.write import SCRIPT, Write
from jobstatus.tracing import TRACE_FIELD, tracer

_log = logging.getLogger("jobstatus")

_CURRENT: Final[ContextVar["Enqueueing | None"]] = ContextVar("jobstatus_enqueueing", default=None)
"""The call of `enqueue_job` that is running."""

_OBSERVED: Final = "_jobstatus_is_observed"
"""The attribute of a pipeline that is observed already, by a subclass's or the class's method."""


class PendingReporter:
    """Publishes the jobs that one pool enqueues as `pending`.

    If the queue and the status are in the same Redis, the record is written in the transaction
    that enqueues the job; otherwise a publisher writes it right after that. An enqueue never fails
    because the status can't be written.

    Attributes:
        settings: Where and for how long the status is stored.
        name: Returns the name of a job; None if the application has no such hook.
        is_same_redis: Whether the status is stored in the Redis of the queue.
    """

    def __init__(
        self,
        pool: ArqRedis,
        settings: PublisherSettings,
        publisher: Publisher | None = None,
        status_name: StatusName | None = None,
    ) -> None:
        """Create a reporter.

        Args:
            pool: The pool.
            settings: Where and for how long the status is stored.
            publisher: Writes the status if that is not in the queue's Redis; None: the reporter
                makes one.
            status_name: Returns the name under which a job is shown.
        """
        self.settings = settings
        self.name = hook_of("status_name", status_name, str)
        self.is_same_redis = is_same_redis(pool, settings)
        self._pool = pool
        self._publisher = None if self.is_same_redis else publisher
        self._own_publisher: Publisher | None = None

    async def enqueue(
        self,
        enqueue_job: Callable[..., Awaitable[Job | None]],
        function: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Job | None:
        """Enqueue a job by arq's method, and publish it as pending; return what arq returns."""
        outer = _CURRENT.get()
        if outer is not None and outer.pool is self._pool:  # this method has wrapped the call
            return await enqueue_job(function, *args, **kwargs)
        current = Enqueueing(self, self._pool, name_of(self.name, function, args, kwargs))
        token = _CURRENT.set(current)
        try:
            with _span(function) as span:
                job = await enqueue_job(function, *args, **kwargs)
                if span is not None and job is not None:
                    span.set_attribute("job.id", job.job_id)
        finally:
            _CURRENT.reset(token)
        if job is not None and current.unwritten is not None:
            self.publish(current.unwritten)
        return job

    def publish(self, write: Write) -> None:
        """Give a write to a publisher, which holds it while Redis refuses it."""
        if self._publisher is None and self._own_publisher is None:
            self._own_publisher = publisher_for_pool(self._pool, self.settings)
        publisher = self._publisher or self._own_publisher
        assert publisher is not None  # noqa: S101 - it has just been made
        publisher.publish(write)

    async def close(self) -> None:
        """Close the publisher that the reporter has made."""
        if self._own_publisher is not None:
            await asyncio.to_thread(self._own_publisher.close)
            self._own_publisher = None


class Enqueueing:
    """One call of `enqueue_job`.

    Attributes:
        unwritten: The record that arq's transaction did not store.
    """

    def __init__(self, reporter: PendingReporter, pool: ArqRedis, name: str) -> None:
        self.pool = pool
        self.unwritten: Write | None = None
        self._reporter = reporter
        self._name = name
        self._created: int | None = None

    def serializer(self, plain: Serializer | None) -> Serializer:
        """Return the serializer that notes when the job was enqueued, and adds the trace."""
        serialize = plain or pickle.dumps
        traces = tracer()

        def run(data: dict[str, Any]) -> bytes:
            self._created = data["et"]
            return serialize(data if traces is None else data | {TRACE_FIELD: traces.carrier()})

        return run

    def observe(self, pipe: Any) -> None:
        """Add the record to the transaction that the pipeline executes."""
        if hasattr(pipe, _OBSERVED):
            return
        setattr(pipe, _OBSERVED, True)
        plain_execute = pipe.execute

        async def execute(*args: Any, **kwargs: Any) -> Any:
            write = self._write_of(pipe.command_stack)
            if write is None:
                return await plain_execute(*args, **kwargs)
            if not self._reporter.is_same_redis:
                results = await plain_execute(*args, **kwargs)
                self.unwritten = write
                return results
            return await self._execute_with(write, pipe, plain_execute)

        pipe.execute = execute

    def _write_of(self, commands: list[Any]) -> Write | None:
        """Return the record of the job that the commands enqueue; None if they enqueue none."""
        for (command, *arguments), _ in commands:
            if command == "PSETEX" and str(arguments[0]).startswith(job_key_prefix):
                job_id, expires_ms = arguments[0][len(job_key_prefix) :], int(arguments[1])
                return pending_write(
                    self._reporter.settings, job_id, self._name, self._created, expires_ms
                )
        return None

    async def _execute_with(self, write: Write, pipe: Any, plain_execute: Any) -> Any:
        commands = list(pipe.command_stack)
        pipe.execute_command(*write.command())
        try:
            *results, written = await plain_execute(raise_on_error=False)
        except ResponseError as error:
            # Redis has executed nothing. If it refused only the status, arq's own commands succeed.
            _log.debug("%s can't be written as pending yet: %s", write.key, error)
            results = await self._execute_without_status(pipe, commands, plain_execute)
            self.unwritten = write
            return results
        for result in results:
            if isinstance(result, ResponseError):
                raise result
        if isinstance(written, NoScriptError):
            written = await self._load_and_write(write)
        if isinstance(written, ResponseError):
            self.unwritten = write
        return results

    @staticmethod
    async def _execute_without_status(pipe: Any, commands: list[Any], plain_execute: Any) -> Any:
        """Execute arq's commands, unless the job has been enqueued meanwhile.

        Raises:
            WatchError: It has been enqueued meanwhile.
            RedisError, OSError: Redis is unavailable, or refuses arq's commands.
        """
        keys = [arguments[1] for arguments, _ in commands if arguments[0] == "PSETEX"]
        await pipe.watch(*keys)
        if await pipe.exists(*keys):
            raise WatchError("the job has been enqueued meanwhile")
        pipe.multi()
        for arguments, options in commands:
            pipe.execute_command(*arguments, **options)
        return await plain_execute()

    async def _load_and_write(self, write: Write) -> Any:
        """Write again to a server that did not know the script; return its reply or the error."""
        async with self.pool.pipeline(transaction=False) as pipe:
            untyped: Any = pipe
            untyped.script_load(SCRIPT)
            untyped.execute_command(*write.command())
            try:
                return (await pipe.execute(raise_on_error=False))[1]
            except (RedisError, OSError) as error:
                return ResponseError(str(error))


def serializer_of(pool: ArqRedis) -> Serializer | None:
    """Return the pool's serializer; within `enqueue_job` one that also notes the enqueue time."""
    plain: Serializer | None = pool.__dict__.get("job_serializer")
    current = _CURRENT.get()
    return plain if current is None or current.pool is not pool else current.serializer(plain)


def set_serializer(pool: ArqRedis, serializer: Serializer | None) -> None:
    """Set the pool's serializer, which `serializer_of` returns."""
    pool.__dict__["job_serializer"] = serializer


def observed(pool: ArqRedis, pipe: Any) -> Any:
    """Return a pipeline of the pool; within `enqueue_job` it also stores the record."""
    current = _CURRENT.get()
    if current is not None and current.pool is pool:
        current.observe(pipe)
    return pipe


@contextlib.contextmanager
def _span(function: str) -> Iterator[Any]:
    """Run a block in the span of a producer if traces are on; yield the span, or else None."""
    traces = tracer()
    if traces is None:
        yield None
        return
    with traces.span(f"enqueue {function}", "PRODUCER", job_name=function) as span:
        yield span
