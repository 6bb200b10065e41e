"""arq's worker, every job of which is visible.

The worker wraps the coroutines, to know which attempt runs and how it ended, and overrides the
two places where arq commits an end. What becomes of an attempt is decided in `ending`.
"""

import asyncio
import logging
import pickle
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import replace
from inspect import signature
from typing import Any, TypeVar

from arq.constants import (
    abort_jobs_ss,
    in_progress_key_prefix,
    job_key_prefix,
    result_key_prefix,
    retry_key_prefix,
)
from arq.utils import to_ms, to_unix_ms
from arq.worker import Retry, Worker
from redis.exceptions import ResponseError

from jobstatus.arq.connection import publisher_for, shares_redis
from jobstatus.arq.ending import Ended, Result, finished, never_run, retrying
from jobstatus.arq.pool import StatusRedis, create_pool
from jobstatus.attempt import Attempt
from jobstatus.publisher import Publisher
from jobstatus.report import Outcome, _current
from jobstatus.settings import PublisherSettings
from jobstatus.status import OVER
from jobstatus.store import Run, Write

T = TypeVar("T")

_log = logging.getLogger("jobstatus")


class StatusWorker(Worker):
    """`arq.Worker` that publishes the status of its jobs.

    Takes what `arq.Worker` takes, and:

    Args:
        status: Where and for how long status is kept; None: as the environment says.
    """

    def __init__(self, *args: Any, status: PublisherSettings | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._status = status or PublisherSettings.from_env()
        self._publisher: Publisher | None = None
        self._shares_redis = True
        self._attempts: dict[str, Attempt] = {}
        self._ended: dict[str, Ended] = {}
        self._results: dict[str, Result] = {}
        self._plain_serializer = self.job_serializer
        self.job_serializer = self._serialize
        self.functions = {
            name: replace(function, coroutine=self._visible(function))
            for name, function in self.functions.items()
        }

    async def main(self) -> None:
        """Connect, then work as arq does."""
        if self._pool is None:
            self._pool = await create_pool(
                self.redis_settings,
                job_deserializer=self.job_deserializer,
                job_serializer=self._plain_serializer,
                default_queue_name=self.queue_name,
                expires_extra_ms=self.expires_extra_ms,
                status=self._status,
            )
        self._publisher = publisher_for(self._pool, self._status)
        self._shares_redis = shares_redis(self._pool, self._status)
        if not isinstance(self._pool, StatusRedis):
            self._pool = StatusRedis.over(self._pool, self._status, self._publisher)
        _carry_context_into_threads(self.loop)
        await super().main()

    async def close(self) -> None:
        """Close as arq does; then write what is unwritten, for some seconds at most."""
        try:
            await super().close()
        finally:
            if self._publisher is not None:
                publisher, self._publisher = self._publisher, None
                await asyncio.to_thread(publisher.close)

    def _visible(self, function: Any) -> Callable[..., Coroutine[Any, Any, Any]]:
        """The function's coroutine, inside the report of its attempt."""
        coroutine = function.coroutine
        timeout = self.job_timeout_s if function.timeout_s is None else function.timeout_s
        max_tries = self.max_tries if function.max_tries is None else function.max_tries

        async def run(ctx: dict[Any, Any], *args: Any, **kwargs: Any) -> Any:
            attempt = self._begin(ctx, function.name, timeout)
            if attempt is None:
                return await coroutine(ctx, *args, **kwargs)
            job_id, error = attempt.job_id, None
            _current.set(attempt.report)
            try:
                return await coroutine(ctx, *args, **kwargs)
            except BaseException as raised:
                error = raised
                raise
            finally:
                self._ended[job_id] = Ended(
                    error=error,
                    aborting=job_id in self.aborting_tasks,
                    attempt=attempt.number,
                    max_tries=max_tries,
                    timeout=timeout,
                    seconds=attempt.seconds,
                    explicit=attempt.report.outcome,
                )

        return run

    def _begin(self, ctx: dict[Any, Any], name: str, timeout: float | None) -> Attempt | None:
        if self._publisher is None:
            return None
        created = to_unix_ms(ctx["enqueue_time"])
        attempt = self._publisher.attempt(ctx["job_id"], name, created, ctx["job_try"], timeout)
        self._publisher.begin(attempt)
        self._attempts[attempt.job_id] = attempt
        return attempt

    def _serialize(self, data: dict[str, Any]) -> bytes:
        """Serialize a result as arq would, and remember what it says."""
        if "s" in data:
            self._results[data["id"]] = Result(
                data["f"], data["t"], data["et"], data["s"], data["r"]
            )
        return (self._plain_serializer or pickle.dumps)(data)

    async def finish_job(
        self,
        job_id: str,
        finish: bool,
        result_data: bytes | None,
        result_timeout_s: float | None,
        keep_result_forever: bool,
        incr_score: int | None,
        keep_in_progress: float | None,
    ) -> None:
        """Commit the end of an attempt, its status in the same transaction."""
        attempt = self._attempts.pop(job_id, None)
        ended = self._ended.pop(job_id, None)
        result = self._results.pop(job_id, None)

        def commands(pipe: Any) -> None:
            # What arq 0.28's finish_job sends, in its order.
            gone = []
            if keep_in_progress is None:
                gone.append(in_progress_key_prefix + job_id)
            else:
                pipe.pexpire(in_progress_key_prefix + job_id, to_ms(keep_in_progress))
            if finish:
                if result_data:
                    px = None if keep_result_forever else to_ms(result_timeout_s)
                    pipe.set(result_key_prefix + job_id, result_data, px=px)
                gone += [retry_key_prefix + job_id, job_key_prefix + job_id]
                pipe.zrem(abort_jobs_ss, job_id)
                pipe.zrem(self.queue_name, job_id)
            elif incr_score:
                pipe.zincrby(self.queue_name, incr_score, job_id)
            if gone:
                pipe.delete(*gone)

        outcome = None
        if attempt is not None and ended is not None:
            outcome = finished(ended, result) if finish else retrying(ended, _delay(ended))
        await self._commit(commands, attempt, outcome)

    async def finish_failed_job(self, job_id: str, result_data: bytes | None) -> None:
        """Commit the end of a job that arq gives up without running it, with its status."""
        result = self._results.pop(job_id, None)

        def commands(pipe: Any) -> None:
            # What arq 0.28's finish_failed_job sends, but for results kept for ever: it gives
            # them an expiry of 0 ms, which Redis refuses, and the worker stops.
            pipe.delete(
                retry_key_prefix + job_id,
                in_progress_key_prefix + job_id,
                job_key_prefix + job_id,
            )
            pipe.zrem(abort_jobs_ss, job_id)
            pipe.zrem(self.queue_name, job_id)
            if result_data is not None and (self.keep_result_forever or self.keep_result_s):
                px = None if self.keep_result_forever else to_ms(self.keep_result_s)
                pipe.set(result_key_prefix + job_id, result_data, px=px)

        attempt = None if result is None else await self._given_up(job_id, result)
        outcome = None if result is None else never_run(result)
        await self._commit(commands, attempt, outcome)

    async def _given_up(self, job_id: str, result: Result) -> Attempt | None:
        """The attempt that a given-up job would have had; None where nothing is to be said."""
        if self._publisher is None:
            return None
        created = result.enqueued or None
        name = result.function if created else ""
        attempt = self._publisher.attempt(job_id, name, created, result.attempt, None)
        if created is None and self._shares_redis:
            run = Run.from_fields(await self._read(attempt.key))
            if run is not None and run.state in OVER:
                return None  # another worker has finished it meanwhile
            attempt.join(run)
        return attempt

    async def _read(self, key: str) -> Any:
        pool: Any = self.pool  # redis-py's types disagree with its async client
        return await pool.hmget(key, Run.FIELDS)

    async def _commit(
        self, commands: Callable[[Any], None], attempt: Attempt | None, outcome: Outcome | None
    ) -> None:
        """Commit arq's commands; the status with them where it is in the same Redis.

        Where it isn't, or was refused there, arq's commands go first and the publisher writes
        the status for as long as it takes.
        """
        publisher = self._publisher
        if publisher is None or attempt is None or outcome is None:
            await self._transact(commands, None)
        elif not self._shares_redis:
            await self._transact(commands, None)
            publisher.end(attempt, outcome)
        elif await self._transact(commands, attempt.last_write(outcome)):
            publisher.forget(attempt)
        else:
            publisher.end(attempt, outcome)

    async def _transact(self, commands: Callable[[Any], None], write: Write | None) -> bool:
        """Run one transaction.

        Returns:
            Whether the write, if there is one, is in it.
        """
        async with self.pool.pipeline(transaction=True) as pipe:
            commands(pipe)
            if write is None:
                await pipe.execute()
                return False
            pipe.execute_command(*write.eval_command())
            try:
                *results, written = await pipe.execute(raise_on_error=False)
            except ResponseError as error:
                _log.error("%s was refused in arq's transaction: %s", write.key, error)
                return await self._transact(commands, None)
        for result in results:
            if isinstance(result, ResponseError):
                raise result
        return not isinstance(written, ResponseError)


def _delay(ended: Ended) -> float | None:
    """Seconds until arq runs the job again, as its `Retry` says."""
    score = ended.error.defer_score if isinstance(ended.error, Retry) else None
    return score / 1000 if score else None


def _carry_context_into_threads(loop: asyncio.AbstractEventLoop) -> None:
    """Make `loop.run_in_executor` carry the context, as `asyncio.to_thread` does.

    So `current_job()` works in threads that a job starts this way. Process pools are left alone:
    a context can't be pickled.
    """
    plain = loop.run_in_executor
    if getattr(plain, "carries_context", False):
        return

    def run_in_executor(
        executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        if executor is None or isinstance(executor, ThreadPoolExecutor):
            return plain(executor, copy_context().run, func, *args)
        return plain(executor, func, *args)

    run_in_executor.carries_context = True  # type: ignore[attr-defined]
    loop.run_in_executor = run_in_executor  # type: ignore[assignment]


def settings_of(settings: Any) -> dict[str, Any]:
    """What `StatusWorker` takes of a settings class, dict or object; inherited settings too.

    arq's own reading ignores what a settings class inherits.
    """
    if isinstance(settings, dict):
        return {k: v for k, v in settings.items() if k in _PARAMETERS}
    return {k: getattr(settings, k) for k in _PARAMETERS if hasattr(settings, k)}


_PARAMETERS = {*signature(Worker).parameters, "status"}


def create_worker(settings: Any, **kwargs: Any) -> StatusWorker:
    """A `StatusWorker` of a `WorkerSettings`; `kwargs` win over it."""
    return StatusWorker(**{**settings_of(settings), **kwargs})


def run_worker(settings: Any, **kwargs: Any) -> StatusWorker:
    """Run a `StatusWorker` until it is stopped, or in burst mode until the queue is empty."""
    worker = create_worker(settings, **kwargs)
    worker.run()
    return worker
