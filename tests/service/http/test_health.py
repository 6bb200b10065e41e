"""Probes."""

import pytest
from tests.service.conftest import Poller, polling

from jobstatus_service.settings import ServiceSettings


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
async def test_no_key(client: Poller, path: str) -> None:
    """The probes need no API key."""
    del client.headers["Authorization"]
    response = await client.get(path)
    assert (response.status_code, response.text) == (200, "ok\n")


async def test_before_redis_was_reached() -> None:
    """A process that has never reached Redis is alive but not ready."""
    settings = ServiceSettings(redis_url="redis://127.0.0.1:1/0", api_keys=("secret",))
    async with polling(settings) as client:
        response = await client.get("/readyz")
        assert (response.status_code, response.text) == (
            503,
            "not ready: Redis has not been reached yet\n",
        )
        assert (await client.get("/livez")).status_code == 200


async def test_draining(client: Poller) -> None:
    """A draining process is alive but not ready."""
    client.app.statuses.watchers.drain()
    response = await client.get("/readyz")
    assert (response.status_code, response.text) == (
        503,
        "not ready: the process is shutting down\n",
    )
    assert (await client.get("/livez")).status_code == 200
