"""Applications that differ in how their jobs fail, are cancelled and are serialized."""

import asyncio
import json
import threading
import time
from typing import Any

from arq import Retry
from tests.worker.arq.applications.side import Ctx, Run, Shown, Side, counters, func, stored


async def cancelled(side: Side) -> Run:
    """A rendering service: users abort jobs, which clean up; jobs have time limits of their own."""
    rows: list[str] = []
    started = asyncio.Event()

    class TooSlowError(Exception):
        """The service's own error for a job that takes too long."""

    async def render(_: Ctx) -> None:
        started.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            rows.append("temporary files removed")
            raise

    async def limited(_: Ctx) -> None:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(60)
        except TimeoutError:
            raise TooSlowError("slower than 0.01 s") from None

    pool = await side.pool()
    job = await pool.enqueue_job("render", _job_id="render")
    await pool.enqueue_job("limited", _job_id="limited")
    functions = [func(render, name="render"), func(limited, name="limited", max_tries=1)]
    running = asyncio.create_task(
        side.work({"functions": functions, "allow_abort_jobs": True, "job_timeout": 30})
    )
    await asyncio.wait_for(started.wait(), 10)
    rows.append(str(await job.abort(timeout=5, poll_delay=0.01)))
    worker = await running
    results = [(await stored(pool, each) or ())[-2:] for each in ("render", "limited")]
    return Run(
        (rows, counters(worker), results),
        {
            "render": Shown("aborted", "render", "aborted while it ran"),
            "limited": Shown("failed", "limited", "TooSlowError: slower than 0.01 s"),
        },
    )


class UploadError(Exception):
    """An error that holds the connection on which it occurred, which can't be pickled."""

    def __init__(self, host: str) -> None:
        super().__init__(f"upload to {host} failed")
        self.connection = threading.Lock()


async def unpicklable(side: Side) -> Run:
    """A file service: its exceptions and results hold connections."""

    async def upload(_: Ctx) -> None:
        raise UploadError("store")

    async def connect(_: Ctx) -> Any:
        return threading.Lock()

    pool = await side.pool()
    await pool.enqueue_job("upload", _job_id="upload")
    await pool.enqueue_job("connect", _job_id="connect")
    functions = [func(upload, name="upload"), func(connect, name="connect")]
    worker = await side.work({"functions": functions})
    return Run(
        (await stored(pool, "upload"), await stored(pool, "connect"), counters(worker)),
        {
            "upload": Shown("failed", "upload", "UploadError: upload to store failed"),
            "connect": Shown("failed", "connect", "unable to serialize result"),
        },
    )


def dump(data: dict[str, Any]) -> bytes:
    """Serialize as JSON; an exception is replaced by its text in the data itself."""
    if isinstance(data.get("r"), BaseException):
        data["r"] = repr(data["r"])
    return json.dumps(data).encode()


async def own_serializer(side: Side) -> Run:
    """A bot that serializes jobs in a readable format, and exceptions as text."""

    async def post(_: Ctx, text: str, *, silent: bool) -> dict[str, Any]:
        if not text:
            raise ValueError("nothing to post")
        return {"text": text, "silent": silent}

    async def big(_: Ctx) -> Any:
        return {1, 2}

    class Settings:
        functions = (func(post, name="post"), func(big, name="big"))
        job_serializer = dump
        job_deserializer = json.loads

    pool = await side.pool(job_serializer=dump, job_deserializer=json.loads)
    for job_id, text in {"good": "hello", "empty": ""}.items():
        await pool.enqueue_job("post", text, silent=True, _job_id=job_id)
    await pool.enqueue_job("big", _job_id="big")
    raw = json.loads(await pool.get("arq:job:good"))
    worker = await side.work(Settings)
    results = [await stored(pool, job_id) for job_id in ("good", "empty", "big")]
    return Run(
        ({**raw, "et": 0}, results, counters(worker)),
        {
            "good": Shown("succeeded", "post"),
            "empty": Shown("failed", "post", "ValueError: nothing to post"),
            "big": Shown("failed", "big", "unable to serialize result"),
        },
    )


async def without_retries(side: Side) -> Run:
    """A service that sends each message at most once: nothing is run again, results expire."""

    async def send(_: Ctx, how: str) -> str:
        match how:
            case "retry":
                raise Retry(defer=1)
            case "slow":
                await asyncio.sleep(60)
            case "blocking":
                time.sleep(0.001)  # noqa: ASYNC251
        return how

    pool = await side.pool()
    for how in ("retry", "slow", "blocking"):
        await pool.enqueue_job("send", how, _job_id=how)
    await pool.enqueue_job("send", "late", _job_id="late", _expires=0.001, _defer_by=0.02)
    await pool.enqueue_job("unheard", _job_id="unheard")
    functions = [func(send, name="send", timeout=0.05)]
    options = {"retry_jobs": False, "keep_result": 60, "log_results": False, "max_tries": 1}
    worker = await side.work({"functions": functions, **options})
    ids = ("retry", "slow", "blocking", "late", "unheard")
    results = [await stored(pool, job_id) for job_id in ids]
    return Run(
        (results, counters(worker)),
        {
            "retry": Shown("failed", "send", "Retry: <Retry defer 1.00s>"),
            "slow": Shown("failed", "send", "timed out after 0.05 s"),
            "blocking": Shown("succeeded", "send"),
            "late": Shown("failed", "send", "job expired"),
            "unheard": Shown("failed", "unheard", "function 'unheard' not found"),
        },
    )


OUTCOMES = (cancelled, unpicklable, own_serializer, without_retries)
