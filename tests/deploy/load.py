"""Replicas of the service that are restarted like pods, and clients that load them meanwhile."""

import asyncio
import contextlib
import signal
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator
from uuid import UUID

import httpx
from tests.deploy.haproxy import HAProxy
from tests.processes import free_port, run, running
from tests.waiting import eventually, is_ready

POLLERS = 64
LONG_POLLS = 16
STREAMS = 16


class Load:
    """Clients that poll, long-poll and stream through a load balancer.

    Attributes:
        done: How many requests of each kind succeeded.
        failed: A description of each request that failed.
        longest_poll_seconds: How long the slowest plain poll took.
    """

    def __init__(self, url: str, jobs: list[UUID]) -> None:
        self.done: Counter[str] = Counter()
        self.failed: list[str] = []
        self.longest_poll_seconds = 0.0
        self._url = url
        self._jobs = jobs
        self._stopped = asyncio.Event()

    def _client(self) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
        headers = {"Authorization": "Bearer secret"}
        return httpx.AsyncClient(base_url=self._url, headers=headers, limits=limits, timeout=30)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Send requests while the block runs."""
        kinds = ((self._poll, POLLERS), (self._long_poll, LONG_POLLS), (self._stream, STREAMS))
        tasks = [
            asyncio.create_task(kind(number)) for kind, count in kinds for number in range(count)
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
                response = await self._get(client, f"/api/jobs/{self._jobs[number]}", **headers)
                seconds = time.monotonic() - began_at
                self.longest_poll_seconds = max(self.longest_poll_seconds, seconds)
                if response is not None:
                    self._expect(response, "poll", 200, 304)
                    etag = response.headers.get("etag", "")
                await asyncio.sleep(0.15)

    async def _long_poll(self, number: int) -> None:
        async with self._client() as client:
            while not self._stopped.is_set():
                url = f"/api/jobs/{self._jobs[number]}?wait=5&until=done"
                response = await self._get(client, url)
                if response is not None:
                    self._expect(response, "long poll", 200)

    async def _stream(self, number: int) -> None:
        url = f"/api/jobs/{self._jobs[number]}/events"
        async with self._client() as client:
            while not self._stopped.is_set():
                last_line = ""
                try:
                    async with client.stream("GET", url) as response:
                        async for line in response.aiter_lines():
                            last_line = line or last_line
                            if self._stopped.is_set():
                                return
                except httpx.HTTPError as error:
                    self.failed.append(f"stream: {error!r}")
                    continue
                self.done["stream"] += 1
                if response.status_code != 200 or not last_line.startswith("retry: "):
                    self.failed.append(f"stream: {response.status_code}, last line {last_line!r}")
                # A real client waits for the seconds that `retry:` names; this one opens more
                # streams during the restarts.
                await asyncio.sleep(0.1)

    async def _get(
        self, client: httpx.AsyncClient, url: str, **headers: str
    ) -> httpx.Response | None:
        try:
            return await client.get(url, headers=headers)
        except httpx.HTTPError as error:
            self.failed.append(f"{url}: {error!r}")
            return None

    def _expect(self, response: httpx.Response, kind: str, *statuses: int) -> None:
        if response.status_code in statuses:
            self.done[kind] += 1
        else:
            self.failed.append(f"{kind}: {response.status_code} {response.text[:100]}")


class Replica:
    """One `jobstatus serve` process, which is restarted like a pod.

    Attributes:
        port: The port of 127.0.0.1 where it listens.
        process: The process that runs now.
    """

    def __init__(self, redis_url: str, stack: contextlib.ExitStack, **environ: str) -> None:
        self.port = free_port()
        keys = {"JOBSTATUS_API_KEYS": "secret"}
        self._environ = {"JOBSTATUS_REDIS_URL": redis_url} | keys | environ
        self._stack = stack
        self._start()

    def _start(self) -> None:
        self.process: subprocess.Popen[str] = self._stack.enter_context(
            running("jobstatus", "serve", "--port", str(self.port), **self._environ)
        )
        eventually(lambda: is_ready(f"http://127.0.0.1:{self.port}"), 30)

    def restart(self) -> None:
        """Drain and stop the process, as a preStop hook and the kubelet do, and start it again."""
        assert run("jobstatus", "drain", "--pid", str(self.process.pid), "--wait", "1.5")[0] == 0
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(10) == 0
        self._start()


async def restart_in_turn(replicas: list[Replica], balancer: HAProxy) -> None:
    """Restart each replica once; go on when the balancer sends requests to all of them again."""
    for replica in replicas:
        await asyncio.to_thread(replica.restart)
        await asyncio.to_thread(eventually, lambda: len(balancer.up()) == len(replicas))
