"""Applications that differ in their hooks and in their cron jobs."""

import asyncio
import contextvars
from datetime import UTC, timedelta
from typing import Any

from arq.jobs import Job
from tests.worker.arq.applications.side import Ctx, Run, Shown, Side, counters, cron, func, stored

_correlation: contextvars.ContextVar[str] = contextvars.ContextVar("correlation", default="none")


async def job_history(side: Side) -> Run:
    """A web application whose hook writes a row of each finished job, read through arq's `Job`."""
    rows: list[Any] = []

    async def divide(_: Ctx, a: int, b: int, *, user: str) -> float:
        return a / b

    async def save(ctx: Ctx) -> None:
        job = Job(ctx["job_id"], ctx["redis"], _queue_name="arq:history")
        info, state = await job.info(), await job.status()
        assert info is not None
        outcome: Any
        try:
            outcome = await job.result(timeout=5)
        except ZeroDivisionError as error:
            outcome = str(error)
        rows.append((ctx["job_id"], info.function, info.args, info.kwargs, state.value, outcome))

    class WorkerSettings:
        functions = (func(divide, name="divide"),)
        after_job_end = save
        keep_result_forever = True
        max_tries = 3
        queue_name = "arq:history"

    pool = await side.pool(default_queue_name="arq:history")
    await pool.enqueue_job("divide", 1, 2, user="ann", _job_id="good")
    await pool.enqueue_job("divide", 1, 0, user="bob", _job_id="bad")
    worker = await side.work(WorkerSettings)
    ttls = [await pool.pttl(f"arq:result:{job_id}") for job_id in ("good", "bad")]
    return Run(
        (sorted(rows), ttls, counters(worker)),
        {
            "good": Shown("succeeded", "divide"),
            "bad": Shown("failed", "divide", "ZeroDivisionError: division by zero"),
        },
    )


async def unit_of_work(side: Side) -> Run:
    """A template: hooks open, commit and close a session, and bind the job's id for the log."""
    log: list[Any] = []

    async def startup(ctx: Ctx) -> None:
        ctx["engine"] = log.append
        log.append(("startup", sorted(ctx)))

    async def shutdown(ctx: Ctx) -> None:
        log.append(("shutdown", await ctx["redis"].ping(), "session" in ctx))

    async def start(ctx: Ctx) -> None:
        _correlation.set(ctx["job_id"])
        ctx["session"] = [f"begin {ctx['job_try']}"]

    async def end(ctx: Ctx) -> None:
        ctx["session"].append("commit" if ctx.get("is_good") else "roll back")
        stored_yet = await ctx["redis"].exists(f"arq:result:{ctx['job_id']}")
        log.append(("end", _correlation.get(), ctx["session"], stored_yet))

    async def after(ctx: Ctx) -> None:
        stored_yet = await ctx["redis"].exists(f"arq:result:{ctx['job_id']}")
        log.append(("after", _correlation.get(), ctx["session"], stored_yet))

    async def work(ctx: Ctx, *, good: bool) -> str:
        ctx["session"].append(_correlation.get())
        ctx["engine"](("ctx", sorted(ctx), type(ctx["score"]), ctx["enqueue_time"].tzinfo))
        if not good:
            raise RuntimeError("bad")
        ctx["is_good"] = True
        return _correlation.get()

    class WorkerSettings:
        functions = (func(work, name="work"),)
        on_startup = startup
        on_shutdown = shutdown
        on_job_start = start
        on_job_end = end
        after_job_end = after
        max_jobs = 1

    pool = await side.pool()
    await pool.enqueue_job("work", good=True, _job_id="good")
    await pool.enqueue_job("work", good=False, _job_id="bad", _defer_by=0.02)
    worker = await side.work(WorkerSettings, ctx={"config": 1})
    results = [await stored(pool, job_id) for job_id in ("good", "bad")]
    return Run(
        (log, _correlation.get(), sorted(worker.ctx), counters(worker), results),
        {"good": Shown("succeeded", "work"), "bad": Shown("failed", "work", "RuntimeError: bad")},
    )


async def schedule(side: Side) -> Run:
    """A crawler with cron jobs: at the start, with an id of its own, not unique, with a result."""
    rows: list[str] = []

    async def crawl(ctx: Ctx) -> str:
        rows.append("crawl")
        await ctx["redis"].enqueue_job("store", len(rows), _job_id="store")
        return "crawled"

    async def clean(_: Ctx) -> None:
        rows.append("clean")

    async def warm(_: Ctx) -> None:
        rows.append("warm")
        raise OSError("no cache")

    async def store(_: Ctx, _number: int) -> None:
        rows.append("store")

    at_night = {"hour": 3, "minute": 7, "run_at_startup": True}
    worker = await side.work(
        {
            "functions": [func(store, name="store")],
            "cron_jobs": [
                cron(crawl, name="crawl", job_id="crawl", keep_result=60, **at_night),
                cron(clean, name="clean", unique=False, timeout=timedelta(seconds=5), **at_night),
                cron(warm, name="warm", hour=3, minute=9, max_tries=1, month=set(range(1, 13))),
                cron(warm, name="never", weekday="mon", hour={1, 2}, microsecond=5),
            ],
            "timezone": UTC,
            "health_check_interval": 1,
        },
        ctx={},
    )
    pool = await side.pool()
    return Run(
        (sorted(rows), await stored(pool, "crawl"), [job.name for job in worker.cron_jobs]),
        {"crawl": Shown("succeeded", "crawl"), "store": Shown("succeeded", "store")},
    )


async def locks(side: Side) -> Run:
    """An importer of which only one job of a customer runs: a busy job enqueues itself again."""
    rows: list[str] = []
    is_locked, both_tried = asyncio.Event(), asyncio.Event()

    async def load(ctx: Ctx, customer: str, how: str) -> str:
        redis, lock = ctx["redis"], f"arq:lock:{customer}"
        if how == "second":
            await asyncio.wait_for(is_locked.wait(), 10)
        if not await redis.set(lock, how, nx=True, px=10_000):
            rows.append("busy")
            both_tried.set()
            again = f"{ctx['job_id']} again"
            await redis.enqueue_job("load", customer, how, _job_id=again, _defer_by=0.02)
            return "moved"
        is_locked.set()
        try:
            await asyncio.wait_for(both_tried.wait(), 10)
        finally:
            await redis.delete(lock)
        return "loaded"

    pool = await side.pool()
    for how in ("first", "second"):
        await pool.enqueue_job("load", "ann", how, _job_id=how)
    worker = await side.work({"functions": [func(load, name="load")]})
    results = [await stored(pool, job_id) for job_id in ("first", "second")]
    endings = sorted(result[-1] for result in results)
    again = [await stored(pool, f"{job_id} again") for job_id in ("first", "second")]
    loaded = [result[-1] for result in again if result]
    shown = {job_id: Shown("succeeded", "load") for job_id in ("first", "second")}
    return Run((rows, endings, loaded, counters(worker)), shown)


HOOKS = (job_history, unit_of_work, schedule, locks)
