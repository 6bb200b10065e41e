"""The service goes on when its Redis password is rotated."""

import asyncio
from uuid import uuid4

import pytest
from tests.password_rotation import Rotation
from tests.service.conftest import polling

from jobstatus_service.settings import ServiceSettings


@pytest.mark.parametrize("cache", ["64MiB", "0"])
async def test_rotated_password(rotation: Rotation, cache: str) -> None:
    """It logs in again with the password that the file holds then, without a restart."""
    settings = ServiceSettings.from_env(
        {
            "JOBSTATUS_REDIS_URL_FILE": str(rotation.file),
            "JOBSTATUS_API_KEYS": "secret",
            "JOBSTATUS_CACHE_SIZE": cache,
        }
    )
    async with polling(settings) as client:
        url = f"/api/jobs/{uuid4()}"
        assert (await client.get(url)).status_code == 200
        flushes = client.app.metrics.cache_flushes
        await asyncio.to_thread(rotation.revoke)
        await client.flushed(flushes)
        assert (await client.get(url)).status_code == 503
        rotation.write("new")
        async with asyncio.timeout(5):
            while (await client.get(url)).status_code != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
