"""An ordinary arq application, which the tests run."""

import asyncio
import logging
import os
import random
import signal
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import arq.utils
import arq.worker
from arq import Retry
from arq import cron as typed_cron
from arq import func as typed_func
from arq.connections import RedisSettings
from arq.worker import RetryJob

from jobstatus import current_job
from jobstatus.arq import create_worker

Ctx = dict[Any, Any]

SKEW = float(os.environ.get("TEST_CLOCK_SKEW", "0"))
"""Seconds by which the clock of this process is ahead."""


def skew_clock(seconds: float) -> None:
    """Move the clock that arq and jobstatus read forward."""
    plain, plain_ns = time.time, time.time_ns
    skewed: Any = lambda: plain() + seconds  # noqa: E731
    arq.utils.time = arq.worker.time = skewed  # type: ignore[attr-defined]
    time.time_ns = lambda: plain_ns() + round(seconds * 1e9)


if SKEW:
    skew_clock(SKEW)

# arq's own types accept only coroutine functions that take any arguments.
func: Any = typed_func
cron: Any = typed_cron


async def add(_: Ctx, a: int, b: int) -> int:
    """Succeed."""
    return a + b


async def steps(_: Ctx, n: int, pause: float) -> int:
    """Succeed, with progress."""
    for _step in current_job().track(range(n), reason="step {done} of {total}"):
        await asyncio.sleep(pause)
    return n


async def fail(_: Ctx) -> None:
    """Raise."""
    raise ValueError("no such customer")


async def again(ctx: Ctx, defer: float | None = None, cause: str = "") -> str:
    """Raise `Retry` in the first two attempts."""
    if ctx["job_try"] < 3:
        if not cause:
            raise Retry(defer)
        try:
            raise TimeoutError(cause)
        except TimeoutError as error:
            raise Retry(defer) from error
    return "at last"


async def cancels_itself(_: Ctx) -> None:
    """Raise the exception of a cancellation that nobody has requested."""
    raise asyncio.CancelledError


async def always_again(_: Ctx) -> None:
    """Raise `Retry` in every attempt."""
    raise Retry


async def always_again_after(_: Ctx, cause: str) -> None:
    """Raise `Retry` in every attempt, because of a `ValueError`."""
    raise Retry from ValueError(cause)


async def returned(_: Ctx, value: Any) -> Any:
    """Return the value."""
    return value


async def sets_result(_: Ctx, value: Any) -> str:
    """Set a result."""
    current_job().result = value
    return "returned"


async def large(_: Ctx) -> str:
    """Return more than is stored."""
    return "x" * 70_000


async def renamed(_: Ctx, name: str) -> None:
    """Change the job's name while it runs."""
    current_job().name = name


async def retry_job(ctx: Ctx) -> None:
    """Raise `RetryJob` in the first attempt."""
    if ctx["job_try"] == 1:
        raise RetryJob("not yet")


async def explain(ctx: Ctx) -> None:
    """Report a retry and raise `Retry` in the first attempt."""
    if ctx["job_try"] == 1:
        current_job().retry("rate limited")
        raise Retry(0.1)


async def report_retry(
    ctx: Ctx, attempts: int, delay: float | timedelta | None = None, reason: str = "rate limited"
) -> str:
    """Report a retry and return, except in the last of so many attempts."""
    if ctx["job_try"] < attempts:
        current_job().retry(reason, delay)
        return "too early"
    return "at last"


async def report_retry_in_step(ctx: Ctx) -> None:
    """Report a retry within a step in the first attempt, and return."""
    with current_job().step("download"):
        if ctx["job_try"] == 1:
            current_job().retry("rate limited", 0.01)


async def report_retry_and_raise(_: Ctx) -> None:
    """Report a retry, then raise another error."""
    current_job().retry("rate limited")
    raise ValueError("no such customer")


async def sleep(_: Ctx, seconds: float) -> str:
    """Report progress, then take some time."""
    current_job().progress(10, "asleep")
    await asyncio.sleep(seconds)
    return "awake"


async def stubborn(_: Ctx, seconds: float) -> str:
    """Return normally when cancelled."""
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        return "cancelled"
    return "undisturbed"


async def block(_: Ctx, seconds: float) -> None:
    """Block the event loop."""
    time.sleep(seconds)  # noqa: ASYNC251


async def unpicklable(_: Ctx) -> Any:
    """Return a value that can't be pickled."""
    return lambda: None


async def explicit(_: Ctx, how: str) -> None:
    """Report an outcome, and return."""
    if how == "fail":
        current_job().fail("nothing to do")
    else:
        current_job().abort("not wanted")


class UnprintableError(Exception):
    """An error whose text can't be read."""

    def __str__(self) -> str:
        raise RuntimeError("unprintable")

    __repr__ = __str__


async def malformed_reports(_: Ctx, how: str) -> None:
    """Report values of wrong types and ranges, then return, raise or retry."""
    unprintable: Any = UnprintableError()
    report = current_job()
    report.progress(10**400)
    report.reason = unprintable
    report.sample(unprintable)
    list(report.track([1], total=unprintable, reason=unprintable))
    if how == "raise":
        raise ValueError(b"\xff", "a\nb")
    if how == "retry":
        report.retry(unprintable, 1e400)
        raise Retry(0.01)


async def in_thread(_: Ctx) -> list[bool]:
    """Return whether `current_job()` works in threads that are started in the usual ways."""
    report = current_job()
    loop = asyncio.get_running_loop()
    return [
        await asyncio.to_thread(current_job) is report,
        await loop.run_in_executor(None, current_job) is report,
    ]


async def exit_now(_: Ctx) -> None:
    """Exit the process."""
    raise SystemExit(3)


async def mark(ctx: Ctx, folder: str) -> None:
    """Create a file for every attempt."""
    Path(folder, f"{ctx['job_id']}-{ctx['job_try']}").touch()
    await asyncio.sleep(0)


async def mark_slowly(_: Ctx, seconds: float) -> None:
    """Take some time."""
    await asyncio.sleep(seconds)


async def tick(_: Ctx) -> None:
    """Run as a cron job."""


class Base:
    """Settings that the classes below inherit."""

    redis_settings = RedisSettings.from_dsn(os.environ.get("TEST_REDIS_URL", "redis://"))
    poll_delay = 0.05
    allow_abort_jobs = True
    functions: ClassVar = [
        sets_result,
        large,
        add,
        steps,
        fail,
        again,
        cancels_itself,
        always_again,
        always_again_after,
        returned,
        renamed,
        retry_job,
        explain,
        report_retry,
        report_retry_in_step,
        report_retry_and_raise,
        sleep,
        stubborn,
        block,
        unpicklable,
        explicit,
        in_thread,
        malformed_reports,
        exit_now,
        mark,
        mark_slowly,
        func(sleep, name="short", timeout=0.3),
        func(stubborn, name="stubborn_short", timeout=0.2),
        func(add, name="add_unkept", keep_result=0),
        func(fail, name="fail_unkept", keep_result=0),
        func(sleep, name="sleep_unkept", keep_result=0),
        func(sleep, name="short_unkept", keep_result=0, timeout=0.3),
        func(add, name="add_forever", keep_result_forever=True),
        func(report_retry, name="report_retry_unkept", keep_result=0, max_tries=2),
    ]


class WorkerSettings(Base):
    """Inherits everything."""


class FromEnvironment:
    """Does not name a Redis, so the environment does."""

    functions: ClassVar = [sleep]
    poll_delay = 0.05
    max_jobs = 40


class Cron(Base):
    """Has a cron job that runs at once."""

    cron_jobs: ClassVar = [cron(tick, hour=3, minute=7, second=11, run_at_startup=True)]


class Patient(Base):
    """Lets jobs complete for up to 5 s before it stops."""

    job_completion_wait = 5


class Quick(Base):
    """Has in-progress keys that live for 11 s, the shortest time that arq allows."""

    job_timeout = 1
    functions: ClassVar = [func(sleep, timeout=1)]
    allow_abort_jobs = False


class Wide(Base):
    """Runs many jobs at the same time."""

    max_jobs = 40


async def mixed(ctx: Ctx, seed: int) -> int:
    """Finish in one of many ways, after some steps with progress."""
    dice = random.Random(seed * 1000 + ctx["job_try"])
    for _step in current_job().track(range(dice.randint(1, 12)), reason="{done} of {total}"):
        await asyncio.sleep(dice.random() * 0.15)
    match dice.randint(0, 9):
        case 0:
            raise ValueError(f"seed {seed}")
        case 1:
            raise Retry(dice.random())
        case 2:
            raise RetryJob
        case 3:
            current_job().progress(100, "done")
            await asyncio.sleep(dice.choice([0.1, 5]))
        case 4:
            time.sleep(0.2)  # noqa: ASYNC251
    return seed


class Chaos(FromEnvironment):
    """Runs jobs that finish in many ways."""

    functions: ClassVar = [
        func(mixed, timeout=3, max_tries=8),
        func(mixed, name="mixed_unkept", timeout=3, keep_result=0, max_tries=8),
        func(unpicklable, timeout=3, max_tries=8),
    ]
    job_timeout = 3
    max_jobs = 8
    allow_abort_jobs = True


class Forever(Base):
    """Stores results without a time limit."""

    keep_result_forever = True


async def _refuse(_: Ctx) -> None:
    raise RuntimeError("hook")


async def _slow(_: Ctx) -> None:
    Path(os.environ["TEST_MARK"]).touch()
    await asyncio.sleep(30)


class BadStart(Base):
    """Has a start hook that raises."""

    on_job_start = staticmethod(_refuse)


class BadEnd(Base):
    """Has an end hook that raises."""

    on_job_end = staticmethod(_refuse)


class BadAfter(Base):
    """Has a hook that raises after the outcome is committed."""

    after_job_end = staticmethod(_refuse)


class SlowStart(Base):
    """Has a start hook that takes long."""

    on_job_start = staticmethod(_slow)


class Unsignalled(Base):
    """Leaves signals to the application, which does nothing about them."""

    handle_signals = False


def serve() -> None:
    """Run a worker in an event loop of its own, and forget to close it after SIGTERM."""

    async def run() -> None:
        stopped = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
        worker = create_worker(Unsignalled)
        task = asyncio.create_task(worker.main())
        await stopped.wait()
        assert not task.done()

    logging.basicConfig()
    asyncio.run(run())


class NoPatience(Base):
    """Connects to the queue's Redis once."""

    redis_settings = replace(Base.redis_settings, conn_retries=0)
