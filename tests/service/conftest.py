"""A service in the test's own event loop, a client of it, and records for it to read."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, cast
from uuid import UUID

import httpx
import pytest
from tests.service.cuttable_proxy import Proxy

from jobstatus.keys import record_key
from jobstatus.status import JobState, Record
from jobstatus.storage.store import Store
from jobstatus.storage.write import Write
from jobstatus_service.http.app import create_app
from jobstatus_service.http.fast_path import FastPathApp
from jobstatus_service.lookup.watchers import WatcherKind
from jobstatus_service.settings import ServiceSettings

JOB = UUID("67c73c6b-ecba-4a4c-bb18-3f37aa64c2f8")
URL = f"/api/jobs/{JOB}"

Put = Callable[..., None]


async def until(condition: Callable[[], bool], timeout: float = 10) -> None:
    """Wait until a condition is true, for what has no event to wait for."""
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


@pytest.fixture
def put(settings: Any) -> Any:
    """Return a function that writes one record, as a worker does."""
    store = Store.from_settings(settings)

    def write(
        job_id: UUID | str, *, prefix: str = "job", lease: int = 30_000, **fields: Any
    ) -> None:
        record = Record(
            **{
                "name": "render",
                "state": JobState.IN_PROGRESS,
                "created": 1_700_000_000_000,
                "attempt": 1,
                **fields,
            }
        )
        lease = lease if record.state is JobState.IN_PROGRESS else 0
        store.write([Write(record_key(prefix, str(job_id)), record, 60_000, lease)])

    yield write
    store.close()


class Poller(httpx.AsyncClient):
    """A client of a service in the same event loop.

    Attributes:
        app: The service.
    """

    def __init__(self, app: FastPathApp, key: str) -> None:
        transport: Any = httpx.ASGITransport(app=cast("Any", app))
        super().__init__(
            transport=transport, base_url="http://test", headers={"Authorization": key}
        )
        self.app = app

    async def settle(self) -> None:
        """Wait until the service has received the invalidations of all writes so far.

        Redis sends them before it answers a later ping.
        """
        for link in self.app.statuses.reader.links:
            await link.ping()

    async def cache_flushed(self, since: int) -> None:
        """Wait until the cache has been flushed more than `since` times."""
        await until(lambda: self.app.metrics.cache_flushes > since)

    async def cache_valid(self) -> None:
        """Wait until the service serves cached responses."""
        links = self.app.statuses.reader.links
        await until(lambda: all(link.verification.valid_until > time.monotonic() for link in links))

    async def watchers_open(self, number: int, kind: WatcherKind = "long_poll") -> None:
        """Wait until so many long polls or streams are open."""
        await until(lambda: self.app.statuses.watchers.open[kind] == number)


@contextlib.asynccontextmanager
async def polling(settings: ServiceSettings, key: str = "secret") -> AsyncIterator[Poller]:
    """Run a service during the block; gives a client of it."""
    app = create_app(settings)
    async with app.lifespan(), Poller(app, key) as client:
        yield client


@pytest.fixture
async def client(service_settings: ServiceSettings) -> AsyncIterator[Poller]:
    """A client with the key `secret`."""
    async with polling(service_settings) as client:
        yield client


@pytest.fixture
async def proxy(service_url: str) -> AsyncIterator[Proxy]:
    """A proxy of the empty server, which the test can cut or stall."""
    async with Proxy(service_url).running() as proxy:
        yield proxy
