"""What an application takes from arq: arq's own pool and worker, or ours in their place."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import arq
import arq.worker
from arq import cron as typed_cron
from arq import func as typed_func
from arq.connections import ArqRedis, RedisSettings
from arq.jobs import Job, ResultNotFound

import jobstatus.arq
from jobstatus.arq.instrument import uninstrument

Ctx = dict[Any, Any]

# arq's own types accept only coroutine functions that take any arguments.
func: Any = typed_func
cron: Any = typed_cron


@dataclass(frozen=True)
class Shown:
    """How a job is shown when the application has finished."""

    state: str
    name: str
    reason: str | None = None
    attempt: int = 1


@dataclass
class Run:
    """One run of an application.

    Attributes:
        observed: What the application has observed, the same under arq and under ours.
        shown: How its jobs are to be shown, by job id.
    """

    observed: Any
    shown: dict[str, Shown] = field(default_factory=dict)


class Side:
    """arq, or ours.

    Attributes:
        settings: The queue's Redis.
        pool_class: The class of pools.
        worker_class: The class of workers.
    """

    def __init__(self, redis_settings: RedisSettings, *, is_ours: bool) -> None:
        self.settings = redis_settings
        self.is_ours = is_ours
        self.pool_class: Any = jobstatus.arq.StatusRedis if is_ours else ArqRedis
        self.worker_class: Any = jobstatus.arq.StatusWorker if is_ours else arq.Worker
        self._stack = contextlib.AsyncExitStack()

    async def pool(self, **kwargs: Any) -> Any:
        """Return a pool, which is closed when the application has finished."""
        create: Any = jobstatus.arq.create_pool if self.is_ours else arq.create_pool
        pool = await create(self.settings, **kwargs)
        self.close_at_end(pool.aclose)
        return pool

    def worker(self, settings: Any, **kwargs: Any) -> Any:
        """Return a worker of the application's settings, which does not wait between polls."""
        create: Any = jobstatus.arq.create_worker if self.is_ours else arq.worker.create_worker
        defaults: dict[str, Any] = {"poll_delay": 0.01, "handle_signals": False}
        known = settings if isinstance(settings, dict) else vars(settings)
        if not {"redis_pool", "redis_settings"} & (kwargs.keys() | known.keys()):
            defaults["redis_settings"] = self.settings
        return create(settings, **(defaults | kwargs))

    async def work(self, settings: Any, **kwargs: Any) -> Any:
        """Run a worker until its queue is empty, and close it; return it."""
        worker = self.worker(settings, burst=True, **kwargs)
        try:
            await worker.async_run()
        finally:
            await worker.close()
        return worker

    def instrument(self) -> None:
        """Make the pools of libraries publish as well, under ours."""
        if self.is_ours:
            jobstatus.arq.instrument()
            self._stack.callback(uninstrument)

    def close_at_end(self, close: Callable[[], Awaitable[Any]]) -> None:
        """Call a coroutine function when the application has finished."""
        self._stack.push_async_callback(close)

    async def aclose(self) -> None:
        """Close what the application has opened."""
        await self._stack.aclose()


def counters(worker: Any) -> tuple[int, int, int]:
    """Return how many jobs a worker has completed, failed and retried."""
    return worker.jobs_complete, worker.jobs_failed, worker.jobs_retried


async def all_done(worker: Any) -> None:
    """Wait until a worker has left all of its jobs.

    A result is in Redis a moment before that, and `close` of arq's worker raises a CancelledError,
    and leaves its connections open, if it cancels a job in that moment.
    """
    await asyncio.gather(*worker.tasks.values(), return_exceptions=True)


async def stored(pool: Any, job_id: str) -> Any:
    """Return the result that arq has stored of a job, without times; None if there is none."""
    info = await Job(job_id, pool, _deserializer=pool.job_deserializer).result_info()
    if info is None:
        return None
    return info.function, info.args, info.kwargs, info.job_try, info.success, repr(info.result)


async def result_of(job: Job) -> Any:
    """Wait for the result of a job, and return it.

    arq 0.25 looks for the result and then for the job, and finds neither if the job finishes in
    between.
    """
    try:
        return await job.result(timeout=10, poll_delay=0.01)
    except ResultNotFound:
        return await job.result(timeout=10, poll_delay=0.01)


async def queued(pool: Any) -> list[str]:
    """Return the ids of the jobs in the queue."""
    return [job_id.decode() for job_id in await pool.zrange(pool.default_queue_name, 0, -1)]
