"""Measure lists, counts and streams of many jobs: by the number of jobs, and by that of viewers.

The service runs on one core; Valkey and the clients share another one. Each size is a tenant of its
own in the same Valkey.
"""

import argparse
import asyncio
import json
import os
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import Any, Final
from uuid import UUID

import uvloop
from redis import Redis
from tests.bench import load
from tests.bench.table import interleave, markdown, ratio
from tests.processes import free_port

from jobstatus.keys import index_key, record_key
from jobstatus.status import STORED_STATES, JobState, Record
from jobstatus.storage.store import Store
from jobstatus.storage.write import Write
from jobstatus_service.http.api_keys import digest

WEIGHTS: Final = {
    JobState.PENDING: 2,
    JobState.IN_PROGRESS: 2,
    JobState.RETRYING: 1,
    JobState.SUCCEEDED: 88,
    JobState.ABORTED: 1,
    JobState.FAILED: 6,
}
"""The share of each state, in percent."""

HOUR: Final = 3600.0
BATCH: Final = 1000

STREAMED_JOBS: Final = 100
CHANGES_PER_SECOND: Final = 5


class Client:
    """One connection to the service, with as little cost of its own as possible."""

    def __init__(self, port: int, key: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._head = f"HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\n\r\n"

    def get(self, path: str) -> bytes:
        """Return the body of a response; exit if its status is not 200."""
        self._socket.sendall(f"GET {path} {self._head}".encode())
        received = b""
        while b"\r\n\r\n" not in received:
            received += self._socket.recv(262_144)
        head, _, body = received.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        assert length is not None, head
        while len(body) < int(length[1]):
            body += self._socket.recv(262_144)
        assert head.startswith(b"HTTP/1.1 200"), received
        return body

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


def fill(store: Store, prefix: str, count: int, rng: random.Random) -> None:
    """Write so many jobs, created and finished in the course of an hour."""
    created = time.time_ns() // 1_000_000 - int(2 * HOUR * 1000)
    states = rng.choices(list(WEIGHTS), list(WEIGHTS.values()), k=count)
    for start in range(0, count, BATCH):
        now = time.monotonic()
        writes = []
        for n in range(start, min(count, start + BATCH)):
            state = states[n]
            record = Record(
                name=f"task_{n % 20}",
                state=state,
                created=created + int(n * HOUR * 1000 / count),
                attempt=int(state is not JobState.PENDING),
                reason="frame 812 of 2000",
                progress=40.6,
                worker="" if state is JobState.PENDING else "render-worker-7d9f8b6c5d-x2x9z",
            )
            lease = 2 * int(HOUR) * 1000 if state is JobState.IN_PROGRESS else 0
            age = HOUR * (1 - n / count)
            happened_at = None if lease else now - age
            key = record_key(prefix, str(UUID(int=rng.getrandbits(128))))
            writes.append(Write(key, record, 6 * int(HOUR) * 1000, lease, now - age, happened_at))
        store.write(writes)


def index_memory(redis: Any, prefix: str, count: int) -> float:
    """Return the bytes of the index for each job."""
    keys = [index_key(f"{prefix}:", state) for state in (*STORED_STATES, "due")]
    return sum(redis.memory_usage(key, samples=0) or 0 for key in keys) / count


def timed(run: Callable[[], object], times: int) -> tuple[float, list[float]]:
    """Return the median ms of so many calls, and all of them."""
    found = []
    for _ in range(times):
        began_at = time.perf_counter()
        run()
        found.append(1000 * (time.perf_counter() - began_at))
    return median(found), found


def pages(port: int, sizes: dict[str, int], rounds: int, calls: int) -> None:
    """Print the time of a page, of the same jobs by their ids, and of the counts."""
    clients = {prefix: Client(port, prefix) for prefix in sizes}
    paths = {"all states": "/api/jobs?limit=50", "failed": "/api/jobs?limit=50&state=failed"}
    all_times: dict[str, list[float]] = {}
    contenders: dict[str, Callable[[], float]] = {}

    def contend(name: str, client: Client, path: str) -> None:
        def run() -> float:
            middle, found = timed(lambda: client.get(path), calls)
            all_times.setdefault(name, []).extend(found)
            return middle

        contenders[name] = run

    smallest = next(iter(sizes))
    for title, path in paths.items():
        for prefix, count in sizes.items():
            contend(f"{title}, of {count:,} jobs", clients[prefix], path)
    for prefix, count in sizes.items():
        middle = _middle_cursor(clients[prefix], 20)
        contend(
            f"the 20th page, of {count:,} jobs", clients[prefix], f"{paths['all states']}{middle}"
        )
    jobs = json.loads(clients[smallest].get(paths["all states"]))["jobs"]
    query = "&".join(f"id={job['id']}" for job in jobs)
    contend("the same 50 by id=", clients[smallest], f"/api/jobs?{query}")
    figures = interleave(contenders, rounds)
    base = f"all states, of {sizes[smallest]:,} jobs"
    rows = [
        (
            name,
            f"{median(values):.2f}",
            f"{quantiles(all_times[name], n=100, method='inclusive')[98]:.2f}",
            f"{ratio(figures, name, _base_of(name, smallest, sizes, base)):.2f}",
        )
        for name, values in figures.items()
    ]
    head = ("a page of 50", "median, ms", "99th percentile, ms", "against the smallest")
    print(markdown(head, rows))
    by_ids = ratio(figures, base, "the same 50 by id=")
    print(f"\nThe page against the same jobs by their ids: {by_ids:.2f}\n")
    rows = []
    for prefix, count in sizes.items():
        found = []
        for _ in range(5):
            time.sleep(1.1)  # until the counts are no longer cached
            found += timed(lambda c=clients[prefix]: c.get("/api/jobs/counts"), 1)[1]  # type: ignore[misc]
        cached, _ = timed(lambda c=clients[prefix]: c.get("/api/jobs/counts"), calls)  # type: ignore[misc]
        rows.append((f"counts of {count:,} jobs", f"{median(found):.2f}", f"{cached:.2f}", ""))
    print(markdown(("counts", "median, ms", "within a second, ms", ""), rows), flush=True)
    for client in clients.values():
        client.close()


def _base_of(name: str, smallest: str, sizes: dict[str, int], default: str) -> str:
    title, of, _ = name.partition(", of ")
    return f"{title}, of {sizes[smallest]:,} jobs" if of else default


def _middle_cursor(client: Client, page: int) -> str:
    """Return the parameter with the cursor of the page with this number."""
    cursor = ""
    for _ in range(page - 1):
        following = json.loads(client.get(f"/api/jobs?limit=50{cursor}"))["next"]
        if following is None:
            break
        cursor = f"&cursor={following}"
    return cursor


class Viewer(asyncio.Protocol):
    """A client that follows a stream.

    Attributes:
        received: The bytes that it has received.
        on_data: Called with each part, if it is set.
    """

    def __init__(self, path: str, key: str, on_data: Callable[[bytes], None] | None = None) -> None:
        self.received = 0
        self._request = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\n\r\n"
        self._on_data = on_data
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        """Send the request."""
        self._transport = transport
        transport.write(self._request.encode())

    def data_received(self, data: bytes) -> None:
        """Count what arrives."""
        self.received += len(data)
        if self._on_data is not None:
            self._on_data(data)

    def close(self) -> None:
        """Close the connection."""
        self._transport.abort()


class StateChanges(threading.Thread):
    """Changes the states of jobs at a fixed rate, until `stop` is set."""

    def __init__(self, url: str, prefix: str, rate: int) -> None:
        super().__init__(daemon=True)
        self.stop = threading.Event()
        self.count = 0
        self._store = load.store_at(url)
        self._prefix = prefix
        self._rate = rate

    def run(self) -> None:
        """Create, begin and finish jobs."""
        rng, began_at, tick = random.Random(7), time.monotonic(), 0.05
        running: list[tuple[str, int]] = []
        while not self.stop.is_set():
            due = int((time.monotonic() - began_at) * self._rate) - self.count
            writes = [self._next(rng, running) for _ in range(due)]
            if writes:
                self._store.write(writes)
            self.count += len(writes)
            time.sleep(tick)
        self._store.close()

    def _next(self, rng: random.Random, running: list[tuple[str, int]]) -> Write:
        if len(running) > 20:
            key, created = running.pop(0)
            record = Record(name="n", state=JobState.SUCCEEDED, created=created, attempt=1)
            return Write(key, record, 600_000, happened_at=time.monotonic())
        key = record_key(self._prefix, str(UUID(int=rng.getrandbits(128))))
        created = time.time_ns() // 1_000_000
        running.append((key, created))
        record = Record(name="n", state=JobState.IN_PROGRESS, created=created, attempt=1)
        return Write(key, record, 600_000, 60_000)


async def viewers(port: int, url: str, prefix: str, rate: int, most: int) -> None:
    """Print what Redis has to do for one viewer of a list, and for many."""
    redis: Any = Redis.from_url(url, decode_responses=True)
    loop, rows = asyncio.get_running_loop(), []
    for count in (1, most):
        changes = StateChanges(url, prefix, rate)
        all_viewers = [Viewer("/api/jobs/events", prefix) for _ in range(count)]
        for viewer in all_viewers:
            await loop.create_connection(lambda each=viewer: each, "127.0.0.1", port)  # type: ignore[misc]
        await asyncio.sleep(2)
        changes.start()
        await asyncio.sleep(1)
        redis.config_resetstat()
        before, seconds = changes.count, 5.0
        bytes_before = [viewer.received for viewer in all_viewers]
        await asyncio.sleep(seconds)
        done = changes.count - before
        calls = {
            name.removeprefix("cmdstat_"): int(each["calls"])
            for name, each in redis.info("commandstats").items()
        }
        received = [
            viewer.received - earlier
            for viewer, earlier in zip(all_viewers, bytes_before, strict=True)
        ]
        changes.stop.set()
        changes.join()
        rows.append(
            (
                f"{count:,} viewers, {done / seconds:,.0f} changes of state a second",
                f"{calls.get('zrevrangebyscore', 0) / seconds:.0f}",
                f"{calls.get('hgetall', 0) / seconds:.0f}",
                f"{min(received) / seconds / 1024:,.0f} to {max(received) / seconds / 1024:,.0f}",
            )
        )
        for viewer in all_viewers:
            viewer.close()
        await asyncio.sleep(2)
    redis.close()
    head = ("one list", "index reads/s", "records read/s", "KiB/s to each viewer")
    print(markdown(head, rows), flush=True)


async def one_stream(port: int, url: str, prefix: str, seconds: float) -> None:
    """Print the delay from a write to its event, in one stream of many jobs."""
    store = load.store_at(url)
    ids = [UUID(int=10**6 + n) for n in range(STREAMED_JOBS)]
    keys = [record_key(prefix, str(job)) for job in ids]
    written: dict[bytes, float] = {}
    delays: list[float] = []
    pattern = re.compile(rb'"id":"([0-9a-f-]{36})"[^\n]*?"progress":([0-9.]+)')

    def note(data: bytes) -> None:
        now = time.perf_counter()
        for job, progress in pattern.findall(data):
            at = written.pop(job + b" " + progress, None)
            if at is not None:
                delays.append(1000 * (now - at))

    def write(n: int, percent: float) -> None:
        record = load.running_record(percent)
        written[f"{ids[n]} {percent}".encode()] = time.perf_counter()
        store.write([Write(keys[n], record, 600_000, 60_000)])

    for n in range(STREAMED_JOBS):
        write(n, 0.01)
    viewer = Viewer("/api/jobs/events?" + "&".join(f"id={job}" for job in ids), prefix, note)
    await asyncio.get_running_loop().create_connection(lambda: viewer, "127.0.0.1", port)
    await asyncio.sleep(1)
    written.clear()
    delays.clear()
    began_at, step = time.perf_counter(), 0
    total = int(seconds * STREAMED_JOBS * CHANGES_PER_SECOND)
    for step in range(total):
        due = began_at + step / (STREAMED_JOBS * CHANGES_PER_SECOND)
        if (left := due - time.perf_counter()) > 0:
            await asyncio.sleep(left)
        write(step % STREAMED_JOBS, round(0.02 + step // STREAMED_JOBS / 100, 2))
    await asyncio.sleep(0.5)
    viewer.close()
    store.close()
    p99 = quantiles(delays, n=100, method="inclusive")[98]
    title = f"one stream of {STREAMED_JOBS} jobs, {CHANGES_PER_SECOND} changes a second each"
    row = (title, f"{len(delays)} of {total}", f"{median(delays):.2f}", f"{p99:.2f}")
    print(markdown(("from write to bytes", "events", "median, ms", "99th percentile, ms"), [row]))


def environment(url: str, prefixes: list[str], folder: Path) -> dict[str, str]:
    """Return the settings of the service; the key of a tenant is its prefix."""
    file = folder / "keys"
    file.write_text("".join(f"{prefix} {digest(prefix)} {prefix}\n" for prefix in prefixes))
    file.chmod(0o600)
    return {"JOBSTATUS_REDIS_URL": url, "JOBSTATUS_API_KEYS_FILE": str(file)}


def names_of(sizes: list[int]) -> Iterator[tuple[str, int]]:
    """Yield the tenants' prefixes with their numbers of jobs."""
    for size in sizes:
        yield f"tenant{size}", size


def main(arguments: list[str]) -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench list", description=__doc__)
    parser.add_argument("--sizes", default="1000,100000,1000000", help="(default %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="(default %(default)s)")
    parser.add_argument("--calls", type=int, default=60, help="calls in each round")
    parser.add_argument("--viewers", type=int, default=1000, help="(default %(default)s)")
    parser.add_argument("--changes", type=int, default=1000, help="changes of state a second")
    parser.add_argument("--seconds", type=float, default=10.0, help="duration of the stream")
    options = parser.parse_args(arguments)
    sizes = dict(names_of([int(size) for size in options.sizes.split(",")]))
    with load.valkey() as url, TemporaryDirectory() as folder:
        store, rng = load.store_at(url), random.Random(1)
        redis: Any = Redis.from_url(url)
        rows = []
        for prefix, count in sizes.items():
            began_at = time.perf_counter()
            fill(store, prefix, count, rng)
            rate = count / (time.perf_counter() - began_at)
            rows.append(
                (f"{count:,} jobs", f"{index_memory(redis, prefix, count):.0f}", f"{rate:,.0f}")
            )
        print(markdown(("index", "bytes per job", "jobs written per second"), rows), flush=True)
        environ = environment(url, [*sizes, "viewed"], Path(folder))
        port = free_port()
        os.sched_setaffinity(0, {load.LOAD_CORE})
        with load.serving(load.jobstatus_serve(port), "/livez", port, environ):
            time.sleep(1)
            print()
            pages(port, sizes, options.rounds, options.calls)
            print()
            uvloop.run(viewers(port, url, "viewed", options.changes, options.viewers))
            print()
            uvloop.run(one_stream(port, url, "viewed", options.seconds))
        store.close()
        redis.close()
