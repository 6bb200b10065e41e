"""Servers are restarted one by one under load, and no request fails."""

import asyncio
import contextlib
import signal
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import pytest
from tests.deploy.haproxy import HAProxy
from tests.processes import free_port, run, running
from tests.service.conftest import Put
from tests.waiting import eventually

POLLERS = 64
WAITS = 16
STREAMS = 16
RESTARTS = 5
"""Of each server."""


class Load:
    """Polls, waits and follows through the balancer.

    Attributes:
        done: How many requests of which kind were answered as they should be.
        failed: What went wrong.
        longest: Seconds that the slowest plain poll took.
    """

    def __init__(self, url: str, jobs: list[UUID]) -> None:
        self.done: Counter[str] = Counter()
        self.failed: list[str] = []
        self.longest = 0.0
        self._url = url
        self._jobs = jobs
        self._stopped = asyncio.Event()

    def _client(self) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
        headers = {"Authorization": "Bearer secret"}
        return httpx.AsyncClient(base_url=self._url, headers=headers, limits=limits, timeout=30)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """While the block runs."""
        tasks = [
            asyncio.create_task(each(number))
            for each, count in ((self._poll, POLLERS), (self._wait, WAITS), (self._follow, STREAMS))
            for number in range(count)
        ]
        try:
            yield
        finally:
            self._stopped.set()
            await asyncio.gather(*tasks)

    async def _poll(self, number: int) -> None:
        etag = ""
        async with self._client() as client:
            while not self._stopped.is_set():
                headers = {"If-None-Match": etag} if etag and number % 2 else {}
                began_at = time.monotonic()
                answer = await self._get(client, f"/api/jobs/{self._jobs[number]}", **headers)
                self.longest = max(self.longest, time.monotonic() - began_at)
                if answer is not None:
                    self._expect(answer, "poll", 200, 304)
                    etag = answer.headers.get("etag", "")
                await asyncio.sleep(0.15)

    async def _wait(self, number: int) -> None:
        async with self._client() as client:
            while not self._stopped.is_set():
                url = f"/api/jobs/{self._jobs[number]}?wait=5&until=done"
                answer = await self._get(client, url)
                if answer is not None:
                    self._expect(answer, "wait", 200)

    async def _follow(self, number: int) -> None:
        async with self._client() as client:
            while not self._stopped.is_set():
                try:
                    async with client.stream(
                        "GET", f"/api/jobs/{self._jobs[number]}/events"
                    ) as answer:
                        last = ""
                        async for line in answer.aiter_lines():
                            last = line or last
                            if self._stopped.is_set():
                                return
                except httpx.HTTPError as error:
                    self.failed.append(f"stream: {error!r}")
                    continue
                self.done["stream"] += 1
                if answer.status_code != 200 or not last.startswith("retry: "):
                    self.failed.append(f"stream: {answer.status_code}, it ended with {last!r}")
                await asyncio.sleep(0.1)  # instead of so many seconds: more streams, more trouble

    async def _get(
        self, client: httpx.AsyncClient, url: str, **headers: str
    ) -> httpx.Response | None:
        try:
            return await client.get(url, headers=headers)
        except httpx.HTTPError as error:
            self.failed.append(f"{url}: {error!r}")
            return None

    def _expect(self, answer: httpx.Response, kind: str, *statuses: int) -> None:
        if answer.status_code in statuses:
            self.done[kind] += 1
        else:
            self.failed.append(f"{kind}: {answer.status_code} {answer.text[:100]}")


class Replica:
    """One `jobstatus serve`, restarted as a pod is."""

    def __init__(self, redis_url: str, stack: contextlib.ExitStack, **environ: str) -> None:
        self.port = free_port()
        keys = {"JOBSTATUS_API_KEYS": "secret"}
        self._environ = {"JOBSTATUS_REDIS_URL": redis_url} | keys | environ
        self._stack = stack
        self.start()

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        self.process: subprocess.Popen[str] = self._stack.enter_context(
            running("jobstatus", "serve", "--port", str(self.port), **self._environ)
        )

        def ready() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return httpx.get(f"http://127.0.0.1:{self.port}/readyz").status_code == 200
            return False

        eventually(ready, 30)

    def leave(self, wait: str) -> None:
        """Drain, then end: what a preStop hook and the kubelet do."""
        assert run("jobstatus", "drain", "--pid", str(self.process.pid), "--wait", wait)[0] == 0
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(10) == 0


@pytest.mark.parametrize("mode", ["http", "tcp"])
async def test_rolling_restarts(service_url: str, put: Put, tmp_path: Path, mode: str) -> None:
    """Ten restarts, by turns, under load: not one request fails.

    `http`: the balancer has its own connections to the servers; `tcp`: a client's connection goes
    all the way, as through a Kubernetes Service.
    """
    jobs = [uuid4() for _ in range(POLLERS)]
    for job in jobs:
        put(job, lease=60_000, progress=1.0)
    with contextlib.ExitStack() as stack:
        replicas = [Replica(service_url, stack) for _ in range(2)]
        balancer = HAProxy(tmp_path, mode, [replica.port for replica in replicas])
        with balancer.running():
            eventually(lambda: len(balancer.up()) == 2)
            load = Load(balancer.url, jobs)
            async with load.running():
                await asyncio.sleep(1)
                for _ in range(RESTARTS):
                    for replica in replicas:
                        await asyncio.to_thread(replica.leave, "1.5")
                        await asyncio.to_thread(replica.start)
                        await asyncio.to_thread(eventually, lambda: len(balancer.up()) == 2)
                        for job in jobs:  # it goes on, and so the records stay
                            put(job, lease=60_000, progress=1.0)
    print(
        f"\n{mode}: {2 * RESTARTS} restarts, {len(load.failed)} failed of {dict(load.done)}; "
        f"the slowest poll {load.longest:.2f} s"
    )
    assert not load.failed, load.failed[:5]
    assert min(load.done.values()) > 50
