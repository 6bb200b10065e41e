"""The service in the test's own event loop, and records to find."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import httpx
import pytest
from tests.service.proxy import Proxy

from jobstatus.status import JobState, Record
from jobstatus.storage.store import Store
from jobstatus.storage.write import Write
from jobstatus_service.http.app import create_app
from jobstatus_service.http.fast_path import FastPathApp
from jobstatus_service.settings import ServiceSettings

Put = Callable[..., None]


@pytest.fixture
def put(settings: Any) -> Any:
    """Writes one record, as a worker would."""
    store = Store.from_settings(settings)

    def write(job_id: object, *, prefix: str = "job", lease: int = 30_000, **fields: Any) -> None:
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
        store.write([Write(f"{prefix}:{job_id}", record, 60_000, lease)])

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
        """Wait until the service has been told of all that was written so far."""
        for link in self.app.statuses.reader.links:
            await link.ping()

    async def flushed(self, since: int) -> None:
        """Wait until the near cache was emptied once more than `since` times."""
        async with asyncio.timeout(10):
            while self.app.metrics.cache_flushes <= since:  # noqa: ASYNC110
                await asyncio.sleep(0.001)

    async def proven(self) -> None:
        """Wait until the near cache is trusted."""
        async with asyncio.timeout(10):
            while not all(  # noqa: ASYNC110
                link.verification.valid_until > time.monotonic()
                for link in self.app.statuses.reader.links
            ):
                await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def polling(settings: ServiceSettings, key: str = "secret") -> AsyncIterator[Poller]:
    """A poller of a service of its own."""
    app = create_app(settings)
    async with app.lifespan(), Poller(app, key) as client:
        yield client


@pytest.fixture
async def client(service_settings: ServiceSettings) -> AsyncIterator[Poller]:
    """A poller with the key `secret`."""
    async with polling(service_settings) as client:
        yield client


@pytest.fixture
async def proxy(service_url: str) -> AsyncIterator[Proxy]:
    """A way to the empty server that the test may cut."""
    async with Proxy(service_url).running() as proxy:
        yield proxy
