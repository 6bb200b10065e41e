"""Applications that differ in what their jobs do."""

import asyncio
import concurrent.futures
import contextvars
import functools
import math
import multiprocessing
import operator
from collections.abc import Awaitable, Callable
from typing import Any

from arq import Retry
from arq.jobs import Job
from tests.worker.arq.applications.side import (
    Ctx,
    Run,
    Shown,
    Side,
    counters,
    func,
    result_of,
    stored,
)

from jobstatus import JobState, Outcome


async def back_off(side: Side) -> Run:
    """A payment service: a decorator retries after a growing delay, and gives up at last."""
    rows: list[tuple[str, int, str]] = []

    def with_retries(*, limit: int) -> Callable[[Any], Any]:
        def decorate(job: Callable[..., Awaitable[Any]]) -> Any:
            @functools.wraps(job)
            async def run(ctx: Ctx, *args: Any, **kwargs: Any) -> Any:
                attempt = ctx["job_try"]
                try:
                    result = await job(ctx, *args, **kwargs)
                except ConnectionError as error:
                    rows.append((ctx["job_id"], attempt, str(error)))
                    if attempt >= limit:
                        raise
                    raise Retry(defer=attempt * 0.01) from error
                rows.append((ctx["job_id"], attempt, "paid"))
                return result

            return run

        return decorate

    @with_retries(limit=3)
    async def charge(ctx: Ctx, works_at: int) -> str:
        if ctx["job_try"] < works_at:
            raise ConnectionError("no route to bank")
        return "receipt"

    pool = await side.pool()
    await pool.enqueue_job(charge.__qualname__, 3, _job_id="recovers")
    await pool.enqueue_job(charge.__qualname__, 9, _job_id="gives up")
    worker = await side.work({"functions": [charge], "max_tries": 3})
    results = [await stored(pool, job_id) for job_id in ("recovers", "gives up")]
    name = charge.__qualname__
    return Run(
        (sorted(rows), counters(worker), results),
        {
            "recovers": Shown("succeeded", name, attempt=3),
            "gives up": Shown("failed", name, "ConnectionError: no route to bank", 3),
        },
    )


async def managed(side: Side) -> Run:
    """A research database: a decorator injects a session, and turns errors into returned rows."""
    rows: list[str] = []

    def with_session(job: Callable[..., Awaitable[Any]]) -> Any:
        @functools.wraps(job)
        async def run(*args: Any, **kwargs: Any) -> dict[str, Any]:
            ctx = args[0]
            rows.append(f"begin {ctx['job_id']}")
            try:
                data = await job(*args, session=ctx["sessions"](), **kwargs)
            except Exception as error:
                rows.append(f"roll back {ctx['job_id']}")
                return {"status": "failed", "data": {}, "exception": error.args[0]}
            rows.append(f"commit {ctx['job_id']}")
            return {"status": "ok", "data": data, "exception": None}

        return run

    @with_session
    async def load(_: Ctx, name: str, *, session: list[str]) -> int:
        if name == "broken":
            raise LookupError(name)
        session.append(name)
        return len(session)

    class Settings:
        functions = (func(load, name="load"),)
        max_jobs = 1
        ctx = {"sessions": list}  # noqa: RUF012

        @staticmethod
        def status_outcome(_: str, value: Any) -> Outcome | None:
            failed = value["status"] == "failed"
            return Outcome(JobState.FAILED, value["exception"]) if failed else None

    pool = await side.pool()
    for name in ("good", "broken"):
        await pool.enqueue_job("load", name, _job_id=name)
    worker = await side.work(Settings)
    results = [await stored(pool, name) for name in ("good", "broken")]
    return Run(
        (sorted(rows), counters(worker), results),
        {"good": Shown("succeeded", "load"), "broken": Shown("failed", "load", "broken")},
    )


async def pipeline(side: Side) -> Run:
    """A data pipeline: each job enqueues the next ones, and the last collects their results."""

    async def split(ctx: Ctx, text: str) -> int:
        words = text.split()
        for number, word in enumerate(words):
            await ctx["redis"].enqueue_job("count", word, _job_id=f"count {number}")
        ids = [f"count {number}" for number in range(len(words))]
        await ctx["redis"].enqueue_job("collect", ids, _job_id="collect", _defer_by=0.01)
        return len(words)

    async def count(_: Ctx, word: str) -> int:
        return len(word)

    async def collect(ctx: Ctx, ids: list[str]) -> int:
        jobs = [Job(job_id, ctx["redis"]) for job_id in ids]
        return sum([await result_of(job) for job in jobs])

    pool = await side.pool()
    functions = [func(each, name=each.__name__) for each in (split, count, collect)]
    job = await pool.enqueue_job("split", "to be or not", _job_id="split")
    worker = await side.work({"functions": functions})
    observed = [await result_of(job), await stored(pool, "collect"), counters(worker)]
    shown = {f"count {number}": Shown("succeeded", "count") for number in range(4)}
    return Run(
        observed,
        {"split": Shown("succeeded", "split"), "collect": Shown("succeeded", "collect"), **shown},
    )


async def plain_functions(side: Side) -> Run:
    """A scientific service: plain functions run in pools of processes and of threads."""
    request: contextvars.ContextVar[str] = contextvars.ContextVar("request", default="none")

    async def startup(ctx: Ctx) -> None:
        context = multiprocessing.get_context("spawn")
        ctx["processes"] = concurrent.futures.ProcessPoolExecutor(1, mp_context=context)
        ctx["threads"] = concurrent.futures.ThreadPoolExecutor(1)

    async def shutdown(ctx: Ctx) -> None:
        ctx["processes"].shutdown()
        ctx["threads"].shutdown()

    async def compute(ctx: Ctx, number: int) -> list[Any]:
        request.set("mine")
        loop = asyncio.get_running_loop()
        add = functools.partial(operator.add, number)
        return [
            await loop.run_in_executor(ctx["processes"], math.factorial, number),
            await loop.run_in_executor(ctx["threads"], add, 1),
            await asyncio.to_thread(request.get),
        ]

    async def divide(ctx: Ctx) -> int:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(ctx["processes"], operator.floordiv, 1, 0)

    pool = await side.pool()
    await pool.enqueue_job("compute", 5, _job_id="compute")
    await pool.enqueue_job("divide", _job_id="divide")
    functions = [func(compute, name="compute"), func(divide, name="divide")]
    hooks = {"on_startup": startup, "on_shutdown": shutdown}
    worker = await side.work({"functions": functions, **hooks})
    return Run(
        (await stored(pool, "compute"), await stored(pool, "divide"), counters(worker)),
        {
            "compute": Shown("succeeded", "compute"),
            "divide": Shown(
                "failed", "divide", "ZeroDivisionError: integer division or modulo by zero"
            ),
        },
    )


async def own_ids(side: Side) -> Run:
    """A chat bot: its own ids make jobs unique; a reminder is replaced, and enqueued again."""
    sent: list[str] = []

    async def remind(_: Ctx, text: str) -> None:
        sent.append(text)

    async def album(_: Ctx, pictures: int) -> int:
        return pictures

    functions = [func(remind, name="remind", keep_result=0), func(album, name="album")]
    settings = {"functions": functions}
    pool = await side.pool()
    handles = [
        await pool.enqueue_job("album", 1, _job_id="album:7", _defer_by=0.01),
        await pool.enqueue_job("album", 2, _job_id="album:7", _defer_by=0.01),
        await pool.enqueue_job("remind", "tea", _job_id="remind:7"),
    ]
    await side.work(settings)
    handles += [
        await pool.enqueue_job("album", 3, _job_id="album:7"),  # its result is still stored
        await pool.enqueue_job("remind", "coffee", _job_id="remind:7"),
    ]
    worker = await side.work(settings)
    return Run(
        ([handle is not None for handle in handles], sent, counters(worker)),
        {"album:7": Shown("succeeded", "album"), "remind:7": Shown("succeeded", "remind")},
    )


async def polling(side: Side) -> Run:
    """A client of a slow service: a hook enqueues the same id again until the service is ready."""
    looks: list[int] = []

    async def look(ctx: Ctx, number: int) -> None:
        looks.append(number)
        ctx["next"] = number + 1

    async def again(ctx: Ctx) -> None:
        if ctx["next"] <= 3:
            await asyncio.sleep(0.002)  # two runs that are enqueued in the same ms are one run
            await ctx["redis"].enqueue_job("look", ctx["next"], _job_id=ctx["job_id"])

    pool = await side.pool()
    await pool.enqueue_job("look", 1, _job_id="look")
    functions = [func(look, name="look", keep_result=0)]
    worker = await side.work({"functions": functions, "after_job_end": again})
    # In burst mode a worker may stop before the hook has enqueued the next run.
    while len(looks) < 3:
        worker = await side.work({"functions": functions, "after_job_end": again})
    return Run((looks, worker.jobs_failed), {"look": Shown("succeeded", "look")})


async def many_at_once(side: Side) -> Run:
    """A web shop: requests enqueue at the same time, through one pool; one job runs at a time."""
    running: list[int] = []
    most: list[int] = []

    async def sell(_: Ctx, number: int) -> int:
        running.append(number)
        most.append(len(running))
        await asyncio.sleep(0)
        running.remove(number)
        return number

    async def wait_in_vain(_: Ctx) -> None:
        raise asyncio.CancelledError

    pool = await side.pool()
    enqueue = [pool.enqueue_job("sell", i, _job_id=f"sale {i}") for i in range(20)]
    jobs = await asyncio.gather(*enqueue)
    functions = [func(sell, name="sell"), func(wait_in_vain, name="vain", max_tries=2)]
    await pool.enqueue_job("vain", _job_id="vain")
    worker = await side.work({"functions": functions, "max_jobs": 2})
    results = [await result_of(job) for job in jobs]
    vain = (await stored(pool, "vain"))[-1]
    return Run(
        (results, max(most) <= 2, counters(worker), vain),
        {f"sale {i}": Shown("succeeded", "sell") for i in range(20)}
        | {"vain": Shown("failed", "vain", "failed after 2 attempts: CancelledError", 2)},
    )


JOBS = (
    back_off,
    managed,
    pipeline,
    plain_functions,
    own_ids,
    polling,
    many_at_once,
)
