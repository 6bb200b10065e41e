"""The service in the test's own event loop, and records to find."""

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from jobstatus.status import JobState, Record
from jobstatus.store import Store, Write
from jobstatus_service.app import create_app
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


@contextlib.asynccontextmanager
async def polling(settings: ServiceSettings, key: str = "secret") -> AsyncIterator[Any]:
    """A poller of a service of its own."""
    app: Any = create_app(settings)
    async with (
        app.lifespan(),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app),
            base_url="http://test",
            headers={"Authorization": key},
        ) as client,
    ):
        yield client


@pytest.fixture
async def client(service_settings: ServiceSettings) -> AsyncIterator[httpx.AsyncClient]:
    """A poller with the key `secret`."""
    async with polling(service_settings) as client:
        yield client
