"""An arq application as somebody would write it who knows arq, for tests to run."""

import asyncio
import os
import random
import time
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

Ctx = dict[Any, Any]

SKEW = float(os.environ.get("TEST_CLOCK_SKEW", "0"))
"""Seconds by which this process's clock is wrong."""


def skew_clock(seconds: float) -> None:
    """Set the clock by which arq and jobstatus date what they do."""
    plain, plain_ns = time.time, time.time_ns
    wrong: Any = lambda: plain() + seconds  # noqa: E731
    arq.utils.time = arq.worker.time = wrong  # type: ignore[attr-defined]
    time.time_ns = lambda: plain_ns() + round(seconds * 1e9)


if SKEW:
    skew_clock(SKEW)

# arq's own types ask for coroutine functions that take anything at all.
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
    """Ask to be run again, until the third attempt."""
    if ctx["job_try"] < 3:
        if not cause:
            raise Retry(defer)
        try:
            raise TimeoutError(cause)
        except TimeoutError as error:
            raise Retry(defer) from error
    return "at last"


async def always_again(_: Ctx) -> None:
    """Ask to be run again, for ever."""
    raise Retry


async def retry_job(ctx: Ctx) -> None:
    """Raise arq's other request to be run again, once."""
    if ctx["job_try"] == 1:
        raise RetryJob("not yet")


async def explain(ctx: Ctx) -> None:
    """Say why it is to be run again, once."""
    if ctx["job_try"] == 1:
        current_job().retry("rate limited")
        raise Retry(0.1)


async def sleep(_: Ctx, seconds: float) -> str:
    """Take some time."""
    current_job().progress(10, "asleep")
    await asyncio.sleep(seconds)
    return "awake"


async def stubborn(_: Ctx, seconds: float) -> str:
    """Swallow a cancellation."""
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        return "cancelled? me?"
    return "undisturbed"


async def block(_: Ctx, seconds: float) -> None:
    """Block the event loop."""
    time.sleep(seconds)  # noqa: ASYNC251


async def unpicklable(_: Ctx) -> Any:
    """Return what can't be pickled."""
    return lambda: None


async def explicit(_: Ctx, how: str) -> None:
    """Say how it ends, and return."""
    if how == "fail":
        current_job().fail("nothing to do")
    elif how == "abort":
        current_job().abort("not wanted")
    else:
        current_job().retry("some other day")


class OddError(Exception):
    """Raises whatever is asked of it."""

    def __str__(self) -> str:
        raise RuntimeError("odd")

    __repr__ = __str__


async def odd(_: Ctx, how: str) -> None:
    """Report what can't be read."""
    strange: Any = OddError()
    report = current_job()
    report.progress(10**400)
    report.reason = strange
    report.sample(strange)
    list(report.track([1], total=strange, reason=strange))
    if how == "raise":
        raise ValueError(b"\xff", "a\nb")
    if how == "retry":
        report.retry(strange, 1e400)
        raise Retry(0.01)


async def in_thread(_: Ctx) -> list[bool]:
    """Report from threads, started in each of the usual ways."""
    report = current_job()
    loop = asyncio.get_running_loop()
    return [
        await asyncio.to_thread(current_job) is report,
        await loop.run_in_executor(None, current_job) is report,
    ]


async def exit_now(_: Ctx) -> None:
    """End the process, as no job should."""
    raise SystemExit(3)


async def mark(ctx: Ctx, folder: str) -> None:
    """Leave a file for every attempt."""
    Path(folder, f"{ctx['job_id']}-{ctx['job_try']}").touch()
    await asyncio.sleep(0)


async def mark_slowly(_: Ctx, seconds: float) -> None:
    """Take some time."""
    await asyncio.sleep(seconds)


async def tick(_: Ctx) -> None:
    """Run as a cron job."""


class Base:
    """Settings that others inherit."""

    redis_settings = RedisSettings.from_dsn(os.environ.get("TEST_REDIS_URL", "redis://"))
    poll_delay = 0.05
    allow_abort_jobs = True
    functions: ClassVar = [
        add,
        steps,
        fail,
        again,
        always_again,
        retry_job,
        explain,
        sleep,
        stubborn,
        block,
        unpicklable,
        explicit,
        in_thread,
        odd,
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
    ]


class WorkerSettings(Base):
    """Inherits everything."""


class FromEnvironment:
    """Says nothing of Redis: the environment does."""

    functions: ClassVar = [sleep]
    poll_delay = 0.05
    max_jobs = 40


class Cron(Base):
    """With a cron job that runs at once."""

    cron_jobs: ClassVar = [cron(tick, month=2, day=29, hour=3, run_at_startup=True)]


class Patient(Base):
    """Finishes its jobs before it stops."""

    job_completion_wait = 5


class Quick(Base):
    """Whose in-progress keys live for 11 s, the shortest that arq has."""

    job_timeout = 1
    functions: ClassVar = [func(sleep, timeout=1)]
    allow_abort_jobs = False


class Wide(Base):
    """Many jobs at once."""

    max_jobs = 40


async def mixed(ctx: Ctx, seed: int) -> int:
    """End in one of many ways, after some steps with progress."""
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
    """Jobs that end in many ways."""

    functions: ClassVar = [
        func(mixed, timeout=3, max_tries=8),
        func(mixed, name="mixed_unkept", timeout=3, keep_result=0, max_tries=8),
        func(unpicklable, timeout=3, max_tries=8),
    ]
    job_timeout = 3
    max_jobs = 8
    allow_abort_jobs = True


class Forever(Base):
    """Keeps every result for ever."""

    keep_result_forever = True


async def _refuse(_: Ctx) -> None:
    raise RuntimeError("hook")


async def _slow(_: Ctx) -> None:
    Path(os.environ["TEST_MARK"]).touch()
    await asyncio.sleep(30)


class BadStart(Base):
    """A start hook that raises."""

    on_job_start = staticmethod(_refuse)


class BadEnd(Base):
    """An end hook that raises."""

    on_job_end = staticmethod(_refuse)


class BadAfter(Base):
    """A hook after the end that raises."""

    after_job_end = staticmethod(_refuse)


class SlowStart(Base):
    """A start hook that takes long."""

    on_job_start = staticmethod(_slow)
