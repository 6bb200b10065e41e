"""What waiting costs: memory of a watcher, time from a write to the last watcher's bytes, CPU."""

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
from typing import Any
from uuid import UUID

import uvloop
from tests.bench import load
from tests.bench.table import markdown
from tests.processes import free_port

from jobstatus.status import JobState, Record
from jobstatus.storage.store import Store
from jobstatus.storage.write import Write

PATH = f"/api/jobs/{UUID(int=0)}"

EVENT = b'"state":"'
"""What each status has in it once, and nothing else."""


_ETAG = re.compile(rb"etag: (\S+)")


class Watcher(asyncio.Protocol):
    """A client that waits, by a stream or by one long poll after the other.

    Attributes:
        seen: Statuses that it got so far.
        at: When it got the last one.
    """

    def __init__(self, number: int, kind: str) -> None:
        self.seen = 0
        self.at = 0.0
        self._kind = kind
        self._path = f"/api/jobs/{UUID(int=number)}"
        self._transport: Any = None
        self._tail = b""

    def connection_made(self, transport: Any) -> None:
        """Ask."""
        self._transport = transport
        self._ask("/events" if self._kind == "stream" else "")

    def data_received(self, data: bytes) -> None:
        """Count, and ask again."""
        text = self._tail + data
        count = text.count(EVENT)
        self._tail = text[-len(EVENT) + 1 :]
        if not count:
            return
        self._tail = b""
        self.seen += count
        self.at = time.monotonic()
        if self._kind == "wait":
            etag = _ETAG.search(text)
            self._ask("?wait=60", f"If-None-Match: {etag[1].decode()}\r\n" if etag else "")

    def close(self) -> None:
        """Go away."""
        self._transport.abort()

    def _ask(self, more: str, header: str = "") -> None:
        line = f"GET {self._path}{more} HTTP/1.1\r\n"
        self._transport.write(f"{line}Host: x\r\nAuthorization: secret\r\n{header}\r\n".encode())


def _same(watcher: Watcher) -> Watcher:
    return watcher


class Crowd:
    """Watchers that are connected."""

    def __init__(self, port: int, kind: str) -> None:
        self.watchers: list[Watcher] = []
        self._port = port
        self._kind = kind

    async def grow(self, numbers: list[int]) -> None:
        """Let one more watch each of these jobs, until all wait."""
        loop = asyncio.get_running_loop()
        for start in range(0, len(numbers), 100):
            some = numbers[start : start + 100]
            watchers = [Watcher(number, self._kind) for number in some]
            for watcher in watchers:
                await loop.create_connection(partial(_same, watcher), "127.0.0.1", self._port)
            self.watchers += watchers
            await reported(watchers)
        await asyncio.sleep(1)

    async def leave(self) -> None:
        """All go away."""
        for watcher in self.watchers:
            watcher.close()
        self.watchers.clear()
        await asyncio.sleep(1)


async def reported(watchers: list[Watcher]) -> None:
    """Wait until each has got something since it was last asked about."""
    async with asyncio.timeout(20):
        while not all(watcher.seen for watcher in watchers):  # noqa: ASYNC110
            await asyncio.sleep(0)
    for watcher in watchers:
        watcher.seen = 0


def workers(pid: int) -> Iterator[int]:
    """The processes of Granian that serve."""
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        yield from map(int, path.read_text().split())


def memory(pid: int) -> int:
    """Resident bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cpu(pid: int) -> float:
    """Seconds of CPU so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


_steps = itertools.count(1)


def progress() -> float:
    """More than before."""
    return 1 + next(_steps) / 100


async def latency(store: Store, own: list[Watcher], times: int, number: int = 0) -> list[float]:
    """Ms from each of so many writes to the last watcher's bytes."""
    found = []
    for _ in range(times):
        began_at = time.monotonic()
        load.write(store, number, progress())
        await reported(own)
        found.append(1000 * (max(watcher.at for watcher in own) - began_at))
        await asyncio.sleep(0.01 + 0.0002 * len(own))  # until all ask again
    return found


def row(name: str, found: list[float]) -> tuple[str, ...]:
    p99 = quantiles(found, n=100)[98]
    return name, str(len(found)), f"{median(found):.2f}", f"{p99:.2f}", f"{max(found):.2f}"


async def of_one_job(
    port: int, kind: str, pid: int, store: Store, most: int
) -> tuple[list[tuple[str, ...]], float]:
    """Latencies for more and more watchers of one job, and bytes per watcher of them all."""
    crowd, rows = Crowd(port, kind), []
    await crowd.grow([0] * 10)  # what the first ones take is not the watchers' own
    before, each = memory(pid), 0.0
    await crowd.leave()
    for count in (1, 100, 1000, 10_000):
        if count > most:
            break
        await crowd.grow([0] * (count - len(crowd.watchers)))
        each = (memory(pid) - before) / count
        times = max(10, 300 // max(1, count // 10))
        rows.append(row(f"{kind}, {count:,}", await latency(store, crowd.watchers, times)))
    await crowd.leave()
    return rows, each


async def of_many_jobs(port: int, kind: str, store: Store, jobs: int) -> tuple[str, ...]:
    crowd = Crowd(port, kind)
    await crowd.grow(list(range(jobs)))
    found = []
    for number, watcher in enumerate(crowd.watchers):
        found += await latency(store, [watcher], 1, number)
    await crowd.leave()
    return row(f"{kind}, {jobs:,} jobs with one each", found)


async def unwatched(port: int, pid: int, store: Store, rate: int) -> tuple[float, float, float]:
    """CPU of the service, idle and under writes to jobs that nobody watches; the rate reached."""
    crowd = Crowd(port, "stream")
    await crowd.grow(list(range(1000)))
    seconds, tick, spent = 5.0, 0.05, []
    for each in (0, int(rate * tick)):
        batch = [other(n) for n in range(each)]
        used, began_at, count = cpu(pid), time.monotonic(), 0
        while (left := began_at + seconds - time.monotonic()) > 0:
            due = began_at + (count + 1) * tick
            if batch:
                store.write(batch)
            count += 1
            await asyncio.sleep(max(0.0, min(left, due - time.monotonic())))
        spent.append((cpu(pid) - used) / seconds)
    await crowd.leave()
    return spent[0], spent[1], each * count / seconds


def other(number: int) -> Write:
    record = Record(
        name="render_video", state=JobState.IN_PROGRESS, created=1_700_000_000_000, attempt=1
    )
    return Write(load.key(1_000_000 + number), record, 3_600_000, 3_600_000)


async def measure(url: str, options: argparse.Namespace) -> None:
    """Print all figures; each kind of watcher has a service of its own."""
    store = load.store(url)
    rows: list[tuple[str, ...]] = []
    sizes = []
    for kind in ("stream", "wait"):
        port = free_port()
        with load.serving(load.ours(port), PATH, port, environment(url)) as server:
            (pid,) = workers(server.pid)
            own, each = await of_one_job(port, kind, pid, store, options.watchers)
            rows += [*own, await of_many_jobs(port, kind, store, min(1000, options.watchers))]
            sizes.append((f"{kind}, {options.watchers:,}", f"{each / 1024:.1f}"))
            idle, busy, rate = await unwatched(port, pid, store, options.writes)
    head = ("watchers of one job", "writes", "median, ms", "p99, ms", "longest, ms")
    print("From a write to the last watcher's bytes:\n")
    print(markdown(head, rows))
    print()
    print(markdown(("memory", "KiB per watcher"), sizes))
    print()
    columns = ("writes a second to jobs that nobody watches", "the service, of one core")
    shares = ((0, f"{100 * idle:.1f} %"), (f"{rate:,.0f}", f"{100 * busy:.1f} %"))
    print(markdown(columns, shares))


def environment(url: str) -> dict[str, str]:
    return {"JOBSTATUS_REDIS_URL": url, "JOBSTATUS_API_KEYS": "secret"}


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench watch", description=__doc__)
    parser.add_argument("--watchers", type=int, choices=(100, 1000, 10_000), default=10_000)
    parser.add_argument("--writes", type=int, default=20_000, help="a second, to other jobs")
    options = parser.parse_args(arguments)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with load.valkey() as url:
        store = load.store(url)
        for number in range(1000):
            load.write(store, number, 1)
        os.sched_setaffinity(0, {load.LOAD_CORE})
        uvloop.run(measure(url, options))
