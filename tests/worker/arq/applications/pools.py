"""Applications that differ in how they make pools, and in their queues."""

import asyncio
import contextlib
import signal
from typing import Any

import arq
from arq.jobs import Job, JobStatus
from tests.worker.arq.applications.side import (
    Ctx,
    Run,
    Shown,
    Side,
    all_done,
    counters,
    func,
    result_of,
    stored,
)


async def send(ctx: Ctx, text: str) -> str:
    """Return the text, with the name of the worker that has sent it."""
    return f"{ctx['worker']}: {text}"


async def tenants(side: Side) -> Run:
    """A service with a queue for each tenant, whose workers run in one event loop."""
    names = ("one", "two")
    pool = await side.pool()
    workers = []
    for name in names:
        own = await side.pool(default_queue_name=f"arq:{name}")
        await own.enqueue_job("send", "hello", _job_id=f"{name} own")
        await pool.enqueue_job("send", "hi", _job_id=f"{name} given", _queue_name=f"arq:{name}")
        settings = {
            "functions": [func(send, name="send")],
            "queue_name": f"arq:{name}",
            "health_check_key": f"arq:health:{name}",
            "health_check_interval": 30,
            "ctx": {"worker": name},
        }
        workers.append(side.worker(settings, burst=True))
    await asyncio.gather(*(worker.async_run() for worker in workers))
    alive = [await pool.exists(f"arq:health:{name}") for name in names]
    await asyncio.gather(*(worker.close() for worker in workers))
    ids = [f"{name} {how}" for name in names for how in ("own", "given")]
    results = [await stored(pool, job_id) for job_id in ids]
    return Run(
        (alive, results, [counters(worker) for worker in workers]),
        dict.fromkeys(ids, Shown("succeeded", "send")),
    )


class Queue:
    """A library's queue, which makes its pool itself when it is first used."""

    def __init__(self, settings: Any) -> None:
        self._settings = settings
        self._pool: Any = None

    async def enqueue(self, name: str, *args: Any, **options: Any) -> dict[str, Any]:
        """Enqueue a job; return what is known of it."""
        if self._pool is None:
            self._pool = await arq.create_pool(self._settings)
        job = await self._pool.enqueue_job(name, *args, **options)
        if job is None:
            return {"error": "not queued"}
        info = await job.info()
        status = await job.status()
        return {"id": job.job_id, "name": info.function, "args": info.args, "status": status}

    async def aclose(self) -> None:
        """Close the pool."""
        await self._pool.aclose()


async def library(side: Side) -> Run:
    """A framework: a library makes the pool, and describes each job that it has enqueued."""
    side.instrument()
    queue = Queue(side.settings)
    side.close_at_end(queue.aclose)
    observed: list[Any] = [
        await queue.enqueue("send", "a", _job_id="a"),
        await queue.enqueue("send", "b", _job_id="a"),
        await queue.enqueue("send", "c", _job_id="c", _defer_by=3600),
    ]
    worker = await side.work(
        {"functions": [func(send, name="send")], "ctx": {"worker": "w"}}, max_burst_jobs=1
    )
    observed += [await stored(await side.pool(), "a"), counters(worker)]
    return Run(
        observed,
        {"a": Shown("succeeded", "send"), "c": Shown("pending", "send", attempt=0)},
    )


async def own_pool_class(side: Side) -> Run:
    """A shop whose pool has methods of its own, and is also the pool of its workers."""

    class ShopRedis(side.pool_class):  # type: ignore[misc, name-defined]
        """Enqueues the shop's jobs."""

        async def mail(self, text: str, **options: Any) -> Any:
            """Enqueue a mail."""
            return await self.enqueue_job("send", text, **options)

    async def order(ctx: Ctx, number: int) -> bool:
        job = await ctx["redis"].mail(f"order {number}", _job_id="mail")
        return job is not None

    async def connect() -> Any:
        pool = await side.pool()
        return ShopRedis(pool.connection_pool)

    pool = await connect()
    await pool.enqueue_job("order", 7, _job_id="order")
    functions = [func(order, name="order"), func(send, name="send")]
    worker = await side.work(
        {"functions": functions, "ctx": {"worker": "shop"}, "redis_pool": await connect()}
    )
    results = [await stored(pool, job_id) for job_id in ("order", "mail")]
    return Run(
        (results, counters(worker)),
        {"order": Shown("succeeded", "order"), "mail": Shown("succeeded", "send")},
    )


async def dashboard(side: Side) -> Run:
    """An administration page that reads arq's keys while jobs wait, run and have finished."""
    started, may_return = asyncio.Event(), asyncio.Event()

    async def wait(_: Ctx) -> None:
        started.set()
        await may_return.wait()

    async def page(pool: Any) -> list[Any]:
        queued = {each.decode() for each in await pool.zrangebyscore("arq:queue", 0, "+inf")}
        done = {key.decode().removeprefix("arq:result:") for key in await pool.keys("arq:result:*")}
        states: dict[str, JobStatus] = {}
        for job_id in queued | done:
            states[job_id] = await Job(job_id, pool).status()
        infos = [await Job(job_id, pool).info() for job_id in sorted(queued | done)]
        return [states, [info and (info.function, info.args, info.job_try) for info in infos]]

    pool = await side.pool()
    await pool.enqueue_job("send", "a", _job_id="done")
    await pool.enqueue_job("wait", _job_id="running")
    await pool.enqueue_job("send", "b", _job_id="deferred", _defer_by=3600)
    observed = [await page(pool)]
    functions = [func(wait, name="wait"), func(send, name="send")]
    worker = side.worker({"functions": functions, "ctx": {"worker": "w"}})
    running = asyncio.create_task(worker.async_run())
    await asyncio.wait_for(started.wait(), 10)
    await result_of(Job("done", pool))
    observed.append(await page(pool))
    may_return.set()
    await result_of(Job("running", pool))
    observed.append(await page(pool))
    await all_done(worker)
    await worker.close()
    await asyncio.gather(running, return_exceptions=True)
    return Run(
        observed,
        {
            "done": Shown("succeeded", "send"),
            "running": Shown("succeeded", "wait"),
            "deferred": Shown("pending", "send", attempt=0),
        },
    )


async def shared_pool(side: Side) -> Run:
    """A server whose worker shares its pool, and is stopped without `close`, which would close it.

    A job that runs at that moment is cancelled, and is run by the next worker.
    """
    started, rows = asyncio.Event(), []

    async def slow(ctx: Ctx) -> str:
        rows.append(ctx["job_try"])
        if ctx["job_try"] == 1:
            started.set()
            await asyncio.sleep(60)
        return "done"

    pool = await side.pool()
    await pool.enqueue_job("slow", _job_id="slow")
    settings = {"functions": [func(slow, name="slow")], "redis_pool": pool, "ctx": {"own": 1}}
    worker = side.worker(settings)
    task = worker.main_task = asyncio.create_task(worker.main())
    await asyncio.wait_for(started.wait(), 10)
    worker.handle_sig(signal.SIGUSR1)
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await asyncio.gather(*worker.tasks.values(), return_exceptions=True)
    await pool.delete(worker.health_check_key)
    side.close_at_end(worker.close)

    still_usable = await pool.ping(), await pool.zcard("arq:queue"), rows[:]
    await side.work({**settings, "redis_pool": await side.pool()})
    return Run(
        (still_usable, rows, counters(worker), await stored(pool, "slow")),
        {"slow": Shown("succeeded", "slow", attempt=2)},
    )


async def pool_after_worker(side: Side) -> Run:
    """Tests and servers that give their pool to a worker, and use and close it afterwards."""
    pool = await side.pool()
    await pool.enqueue_job("send", "a", _job_id="a")
    created = await arq.create_pool(side.settings)
    worker = await side.work(
        {"functions": [func(send, name="send")], "ctx": {"worker": "w"}, "redis_pool": created}
    )
    result = await stored(created, "a")
    await created.aclose()
    connections: Any = created.connection_pool
    is_closed = [not each.is_connected for each in connections._available_connections]
    return Run((result, counters(worker), all(is_closed)), {"a": Shown("succeeded", "send")})


POOLS = (tenants, library, own_pool_class, dashboard, shared_pool, pool_after_worker)
