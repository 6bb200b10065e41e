"""Measure long polls and event streams: memory, notification delay, and CPU of the service.

The delay is the time from a write of a job's status until the last of its watchers has received the
new status. Stream: an event stream; long poll: one request after the other with `?wait=60`.
"""

import argparse
import asyncio
import itertools
import os
import re
import resource
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Literal
from uuid import UUID

import uvloop
from tests.bench import load
from tests.bench.table import markdown
from tests.processes import free_port

from jobstatus.storage.store import Store

Kind = Literal["stream", "long poll"]

PATH = f"/api/jobs/{UUID(int=0)}"
JOBS = 1000

STATUS_MARK = b'"state":"'
"""Each status contains this exactly once, and nothing else does."""

_ETAG = re.compile(rb"etag: (\S+)")


class Watcher(asyncio.Protocol):
    """A client that follows one job.

    Attributes:
        received: Statuses that it has received and `all_notified` has not yet waited for.
        received_at: When it received the last one, by `time.monotonic()`.
    """

    def __init__(self, number: int, kind: Kind) -> None:
        self.received = 0
        self.received_at = 0.0
        self._kind = kind
        self._path = f"/api/jobs/{UUID(int=number)}"
        self._transport: Any = None
        self._tail = b""

    def connection_made(self, transport: Any) -> None:
        """Send the first request."""
        self._transport = transport
        self._request("/events" if self._kind == "stream" else "")

    def data_received(self, data: bytes) -> None:
        """Count the statuses; send the next long poll."""
        text = self._tail + data
        count = text.count(STATUS_MARK)
        self._tail = text[-len(STATUS_MARK) + 1 :]
        if not count:
            return
        self._tail = b""
        self.received += count
        self.received_at = time.monotonic()
        if self._kind == "long poll":
            etag = _ETAG.search(text)
            self._request("?wait=60", f"If-None-Match: {etag[1].decode()}\r\n" if etag else "")

    def close(self) -> None:
        """Close the connection."""
        self._transport.abort()

    def _request(self, suffix: str, header: str = "") -> None:
        line = f"GET {self._path}{suffix} HTTP/1.1\r\n"
        self._transport.write(f"{line}Host: x\r\nAuthorization: secret\r\n{header}\r\n".encode())


def _same(watcher: Watcher) -> Watcher:
    return watcher


class Watchers:
    """Watchers that are connected to one service."""

    def __init__(self, port: int, kind: Kind) -> None:
        self.all: list[Watcher] = []
        self._port = port
        self._kind = kind

    async def connect(self, numbers: list[int]) -> None:
        """Add one watcher for each of these jobs, and wait until each has the first status."""
        loop = asyncio.get_running_loop()
        for start in range(0, len(numbers), 100):
            some = numbers[start : start + 100]
            watchers = [Watcher(number, self._kind) for number in some]
            for watcher in watchers:
                await loop.create_connection(partial(_same, watcher), "127.0.0.1", self._port)
            self.all += watchers
            await all_notified(watchers)
        await asyncio.sleep(1)

    async def disconnect(self) -> None:
        """Close all connections."""
        for watcher in self.all:
            watcher.close()
        self.all.clear()
        await asyncio.sleep(1)


async def all_notified(watchers: list[Watcher]) -> None:
    """Wait until each watcher has received a status since the last call."""
    async with asyncio.timeout(20):
        while not all(watcher.received for watcher in watchers):  # noqa: ASYNC110
            await asyncio.sleep(0)
    for watcher in watchers:
        watcher.received = 0


def child_processes(pid: int) -> Iterator[int]:
    """Yield the children of a process: the workers of Granian."""
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        yield from map(int, path.read_text().split())


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


_steps = itertools.count(1)


async def delays(store: Store, watchers: list[Watcher], times: int, number: int = 0) -> list[float]:
    """Write the status of a job that many times; return the delay of each write in ms."""
    found = []
    for _ in range(times):
        began_at = time.monotonic()
        store.write([load.write_of(number, 1 + next(_steps) / 100)])
        await all_notified(watchers)
        found.append(1000 * (max(watcher.received_at for watcher in watchers) - began_at))
        await asyncio.sleep(0.01 + 0.0002 * len(watchers))  # until the next long polls have arrived
    return found


def delay_row(name: str, found: list[float]) -> tuple[str, ...]:
    """Return the row of the table of delays."""
    p99 = quantiles(found, n=100, method="inclusive")[98]
    return name, str(len(found)), f"{median(found):.2f}", f"{p99:.2f}", f"{max(found):.2f}"


async def watch_one_job(
    port: int, kind: Kind, pid: int, store: Store, most: int
) -> tuple[list[tuple[str, ...]], float]:
    """Measure 1, 100, 1,000 and 10,000 watchers of one job.

    Returns:
        The rows of the table of delays, and the bytes of memory per watcher.
    """
    watchers, rows = Watchers(port, kind), []
    await watchers.connect([0] * 10)  # memory that only the first watchers need is not counted
    before, bytes_each = resident_bytes(pid), 0.0
    await watchers.disconnect()
    for count in (1, 100, 1000, 10_000):
        if count > most:
            break
        await watchers.connect([0] * (count - len(watchers.all)))
        bytes_each = (resident_bytes(pid) - before) / count
        times = max(10, 300 // max(1, count // 10))
        found = await delays(store, watchers.all, times)
        rows.append(delay_row(f"{count:,} of one job, each a {kind}", found))
    await watchers.disconnect()
    return rows, bytes_each


async def watch_many_jobs(port: int, kind: Kind, store: Store, jobs: int) -> tuple[str, ...]:
    """Measure many jobs with one watcher each; return the row of the table of delays."""
    watchers = Watchers(port, kind)
    await watchers.connect(list(range(jobs)))
    found = []
    for number, watcher in enumerate(watchers.all):
        found += await delays(store, [watcher], 1, number)
    await watchers.disconnect()
    return delay_row(f"{jobs:,} of different jobs, each a {kind}", found)


async def write_unwatched_jobs(
    port: int, pid: int, store: Store, rate: int
) -> tuple[float, float, float]:
    """Measure the CPU of the service without writes, and with writes to jobs without watchers.

    Returns:
        The two shares of one core, and the writes per second that were reached.
    """
    watchers = Watchers(port, "stream")
    await watchers.connect(list(range(JOBS)))
    seconds, interval, shares = 5.0, 0.05, []
    for count in (0, int(rate * interval)):
        batch = [load.write_of(1_000_000 + n, 0) for n in range(count)]
        used, began_at, batches = cpu_seconds(pid), time.monotonic(), 0
        while (left := began_at + seconds - time.monotonic()) > 0:
            due_at = began_at + (batches + 1) * interval
            if batch:
                store.write(batch)
            batches += 1
            await asyncio.sleep(max(0.0, min(left, due_at - time.monotonic())))
        shares.append((cpu_seconds(pid) - used) / seconds)
    await watchers.disconnect()
    return shares[0], shares[1], count * batches / seconds


async def measure(url: str, options: argparse.Namespace) -> None:
    """Measure each kind of watcher with a service of its own, and print all tables."""
    store = load.store_at(url)
    rows: list[tuple[str, ...]] = []
    sizes = []
    kinds: tuple[Kind, ...] = ("stream", "long poll")
    for kind in kinds:
        port = free_port()
        with load.serving(load.jobstatus_serve(port), PATH, port, environment(url)) as server:
            (pid,) = child_processes(server.pid)
            own, bytes_each = await watch_one_job(port, kind, pid, store, options.watchers)
            jobs = min(JOBS, options.watchers)
            rows += [*own, await watch_many_jobs(port, kind, store, jobs)]
            sizes.append((f"{options.watchers:,}, each a {kind}", f"{bytes_each / 1024:.1f}"))
            idle, busy, rate = await write_unwatched_jobs(port, pid, store, options.writes)
    head = ("watchers", "writes", "median, ms", "99th percentile, ms", "longest, ms")
    print("Delay from a write until the last watcher of the job has received it:\n")
    print(markdown(head, rows))
    print("\nMemory of the service:\n")
    print(markdown(("watchers", "KiB per watcher"), sizes))
    print(f"\nCPU of the service with {JOBS:,} open streams, while other jobs are written:\n")
    columns = ("writes per second to jobs without watchers", "share of one core")
    shares = ((0, f"{100 * idle:.1f} %"), (f"{rate:,.0f}", f"{100 * busy:.1f} %"))
    print(markdown(columns, shares))


def environment(url: str) -> dict[str, str]:
    """Return the settings of the service."""
    return {"JOBSTATUS_REDIS_URL": url, "JOBSTATUS_API_KEYS": "secret"}


def main(arguments: list[str]) -> None:
    """Start Valkey, write the jobs, and measure."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench watch", description=__doc__)
    parser.add_argument(
        "--watchers",
        type=int,
        choices=(100, 1000, 10_000),
        default=10_000,
        help="largest number of watchers of one job (default %(default)s)",
    )
    parser.add_argument(
        "--writes",
        type=int,
        default=20_000,
        help="writes per second to jobs without watchers (default %(default)s)",
    )
    options = parser.parse_args(arguments)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with load.valkey() as url:
        load.store_at(url).write([load.write_of(number, 1) for number in range(JOBS)])
        os.sched_setaffinity(0, {load.LOAD_CORE})
        uvloop.run(measure(url, options))
