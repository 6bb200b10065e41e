"""The service continues when its Redis password is rotated."""

import asyncio
from uuid import uuid4

import pytest
from tests.password_rotation import Rotation
from tests.service.conftest import polling
from tests.service.storage.waiting import until

from jobstatus_service.settings import ServiceSettings


@pytest.mark.parametrize("cache_size", ["64MiB", "0"])
async def test_rotated_password_is_read_from_the_file(rotation: Rotation, cache_size: str) -> None:
    """The service logs in again with the file's current password, without a restart."""
    settings = ServiceSettings.from_env(
        {
            "JOBSTATUS_REDIS_URL_FILE": str(rotation.file),
            "JOBSTATUS_API_KEYS": "secret",
            "JOBSTATUS_CACHE_SIZE": cache_size,
        }
    )
    async with polling(settings) as client:
        url = f"/api/jobs/{uuid4()}"

        async def is_answered() -> bool:
            return (await client.get(url)).status_code == 200

        assert await is_answered()
        flushes = client.app.metrics.cache_flushes
        await asyncio.to_thread(rotation.revoke)
        await client.cache_flushed(flushes)
        assert (await client.get(url)).status_code == 503
        rotation.write("new")
        await until(is_answered)
