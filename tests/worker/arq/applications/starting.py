"""Applications that differ in how they configure, start, stop and extend workers."""

import asyncio
import signal
import threading
import types
from dataclasses import dataclass, field
from typing import Any

import arq.worker
import pytest
from arq.jobs import Job
from arq.worker import FailedJobs
from pydantic import BaseModel, ConfigDict
from tests.worker.arq.applications.side import (
    Ctx,
    Run,
    Shown,
    Side,
    all_done,
    counters,
    func,
    queued,
    result_of,
    stored,
)


async def add(ctx: Ctx, a: int, b: int) -> int:
    """Return the sum, and what the settings have put into the context."""
    more: int = ctx.get("more", 0)
    return a + b + more


async def fail(_: Ctx) -> None:
    """Raise."""
    raise ValueError("no such customer")


class DerivedSettings(type):
    """A metaclass that fills in what a settings class leaves out."""

    def __new__(cls, name: str, bases: Any, namespace: dict[str, Any]) -> Any:
        """Return a class with all settings in its own namespace."""
        defaults = {"functions": [func(add, name="add")], "max_jobs": 2}
        return super().__new__(cls, name, bases, defaults | namespace)


@dataclass
class DataSettings:
    """Settings that a function makes, as a library does for its users."""

    functions: list[Any] = field(default_factory=lambda: [func(add, name="add")])
    job_completion_wait: int = 1
    allow_abort_jobs: bool = True
    on_startup: Any = None
    queue_name: str = "arq:queue"


class ModelSettings(BaseModel):
    """Settings that are read from the environment and checked."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    functions: list[Any]
    ctx: dict[str, Any]
    max_tries: int = 2
    log_level: str = "INFO"


async def kinds_of_settings(side: Side) -> Run:
    """Libraries and templates: settings are a class, an instance, a model, a dict or a module."""
    module = types.ModuleType("settings")
    module.__dict__.update(functions=[func(add, name="add")], ctx={"more": 4})
    functions = [func(add, name="add")]
    kinds: dict[str, Any] = {
        "metaclass": DerivedSettings("Settings", (), {"ctx": {"more": 1}}),
        "instance": DataSettings(),
        "model": ModelSettings(functions=functions, ctx={"more": 3}),
        "module": module,
        "dict": {"functions": functions, "ctx": {"more": 5}, "unknown": "setting"},
        "namespace": types.SimpleNamespace(functions=functions, ctx={"more": 6}),
    }
    pool = await side.pool()
    observed = []
    for name, settings in kinds.items():
        await pool.enqueue_job("add", 10, 20, _job_id=name)
        worker = await side.work(settings)
        observed += [await stored(pool, name), counters(worker), worker.max_tries]
    return Run(observed, dict.fromkeys(kinds, Shown("succeeded", "add")))


async def web_template(side: Side) -> Run:
    """A web template: the worker runs as a task of the server, and requests poll `Job.info`."""
    log: list[str] = []
    started, may_return = asyncio.Event(), asyncio.Event()

    async def sample(_: Ctx, name: str) -> str:
        started.set()
        await may_return.wait()
        return f"task {name} is complete"

    async def startup(_: Ctx) -> None:
        log.append("worker started")

    async def shutdown(_: Ctx) -> None:
        log.append("worker ended")

    class WorkerSettings:
        functions = (func(sample, name="sample"),)
        on_startup = startup
        on_shutdown = shutdown
        handle_signals = False

    async def state(job: Job) -> str:
        return (await job.status()).value

    pool = await side.pool()
    job = await pool.enqueue_job("sample", "x", _job_id="sample")
    waiting = await pool.enqueue_job("sample", "y", _job_id="later", _defer_by=3600)
    states: list[Any] = [await state(job), await state(waiting)]
    worker = side.worker(WorkerSettings)
    running = asyncio.create_task(worker.async_run())
    await asyncio.wait_for(started.wait(), 10)
    states.append(await state(job))
    info = await job.info()
    states += [info.function, info.args, info.kwargs, info.job_try]
    may_return.set()
    result = await result_of(job)
    states += [result, await state(job), await queued(pool)]
    await all_done(worker)
    await worker.close()
    ended = await asyncio.gather(running, return_exceptions=True)
    return Run(
        (states, log, counters(worker), [type(each) for each in ended]),
        {"sample": Shown("succeeded", "sample"), "later": Shown("pending", "sample", attempt=0)},
    )


async def own_test_suite(side: Side) -> Run:
    """The tests of an application: one worker runs what is queued, again and again."""
    pool = await side.pool()
    functions = [func(add, name="add"), func(fail, name="fail")]
    worker = side.worker({"functions": functions, "redis_pool": pool, "burst": True})
    observed: list[Any] = [await worker.run_check()]
    for number in range(3):
        await pool.enqueue_job("add", number, 1, _job_id=f"add {number}")
        observed.append(await worker.run_check())
    for number in range(3, 5):
        await pool.enqueue_job("add", number, 1, _job_id=f"add {number}")
    observed.append(await worker.run_check(max_burst_jobs=4))
    observed.append(await queued(pool))
    await pool.enqueue_job("fail", _job_id="fail")
    with pytest.raises(FailedJobs) as raised:
        await worker.run_check(max_burst_jobs=-1)
    observed += [str(raised.value), raised.value.count, counters(worker), repr(worker)]
    observed.append(await worker.functions["add"].coroutine({"more": 1}, 1, 1))
    observed.append([each.name for each in worker.functions.values()])
    await worker.close()
    observed.append([result.success for result in await pool.all_job_results()])
    return Run(
        observed,
        {f"add {number}": Shown("succeeded", "add") for number in range(5)}
        | {"fail": Shown("failed", "fail", "ValueError: no such customer")},
    )


async def supervised(side: Side) -> Run:
    """A server that starts its worker again when it fails, as when the database is not ready."""
    rows: list[str] = []

    async def startup(_: Ctx) -> None:
        rows.append("startup")
        if len(rows) < 3:
            raise ConnectionError("the database is not ready")

    pool = await side.pool()
    job = await pool.enqueue_job("add", 1, 2, _job_id="add")
    settings = {"functions": [func(add, name="add")], "on_startup": startup}

    workers: list[Any] = []

    async def supervise() -> None:
        while True:
            worker = side.worker(settings)
            workers.append(worker)
            try:
                await worker.async_run()
            except ConnectionError as error:
                rows.append(str(error))
            finally:
                await worker.close()

    task = asyncio.create_task(supervise())
    result = await result_of(job)
    await all_done(workers[-1])
    task.cancel()
    ended = await asyncio.gather(task, return_exceptions=True)
    return Run((rows, result, [type(each) for each in ended]), {"add": Shown("succeeded", "add")})


async def own_thread(side: Side) -> Run:
    """A desktop application: the worker has a thread and an event loop of its own."""
    pool = await side.pool()
    await pool.enqueue_job("add", 1, 2, _job_id="add")
    workers: list[Any] = []

    async def work() -> None:
        workers.append(await side.work({"functions": [func(add, name="add")]}))

    thread = threading.Thread(target=asyncio.run, args=(work(),))
    thread.start()
    await asyncio.to_thread(thread.join)
    return Run(
        (await stored(pool, "add"), counters(workers[0])), {"add": Shown("succeeded", "add")}
    )


async def own_worker_class(side: Side) -> Run:
    """A clan's bot: its worker counts jobs, and lets them complete when it is stopped."""
    rows: list[Any] = []
    started, may_return = asyncio.Event(), asyncio.Event()

    class OwnWorker(side.worker_class):  # type: ignore[misc, name-defined]
        """Waits for running jobs before it stops."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.seen = 0
            super().__init__(*args, **kwargs)

        async def run_job(self, job_id: str, score: int) -> None:
            self.seen += 1
            await super().run_job(job_id, score)

        def handle_sig(self, signum: signal.Signals) -> None:
            if any(not task.done() for task in self.tasks.values()):
                self.main_task.cancel()
                rows.append("waiting")
                self.loop.call_soon(may_return.set)
            else:
                super().handle_sig(signum)

    async def slow(_: Ctx) -> str:
        started.set()
        await may_return.wait()
        return "done"

    class WorkerSettings:
        functions = (func(slow, name="slow"),)
        poll_delay = 0.01
        redis_settings = side.settings

    pool = await side.pool()
    await pool.enqueue_job("slow", _job_id="slow")
    worker = OwnWorker(**arq.worker.get_kwargs(WorkerSettings))  # type: ignore[arg-type]
    running = asyncio.create_task(worker.async_run())
    await asyncio.wait_for(started.wait(), 10)
    worker.handle_sig(signal.SIGTERM)
    ended = await asyncio.gather(running, return_exceptions=True)
    await worker.close()
    return Run(
        (rows, worker.seen, counters(worker), [type(each) for each in ended]),
        {"slow": Shown("succeeded", "slow")},
    )


STARTING = (
    kinds_of_settings,
    web_template,
    own_test_suite,
    supervised,
    own_thread,
    own_worker_class,
)
