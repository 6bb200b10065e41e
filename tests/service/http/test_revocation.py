"""Waits and streams of an API key that is revoked while they are open."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from tests.service.conftest import Poller, Put, polling
from tests.service.exchange import Exchange

from jobstatus_service.http.api_keys import digest
from jobstatus_service.settings import ServiceSettings

JOB = UUID("67c73c6b-ecba-4a4c-bb18-3f37aa64c2f8")
URL = f"/api/jobs/{JOB}"
WITHIN = 2.0
"""Seconds after the change of the key file within which everything of the key has ended."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A key file with the keys `a` and `b`."""
    file = tmp_path / "keys"
    file.write_text(f"one {digest('a')}\ntwo {digest('b')}\n")
    return file


@contextlib.asynccontextmanager
async def opened(client: Poller) -> AsyncIterator[list[Exchange]]:
    """A stream and a wait of each key: a's, then b's."""
    exchanges = [
        Exchange(client, path, authorization=key)
        for key in ("a", "b")
        for path in (f"{URL}/events", f"{URL}?wait=30")
    ]
    watchers = client.app.statuses.watchers
    async with asyncio.timeout(5):
        while watchers.open.total() < len(exchanges):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    yield exchanges
    for exchange in exchanges:
        exchange.disconnect()
    await asyncio.gather(*(exchange.task for exchange in exchanges))


@pytest.mark.parametrize("line", ["", f"one {digest('new')}\n", f"one {digest('a')} other\n"])
async def test_revoked_key(
    service_settings: ServiceSettings, put: Put, file: Path, line: str
) -> None:
    """They end within two seconds: the stream ends, the wait is a 401; other keys' go on.

    A key is revoked when its line goes, gets another hash, or is given to another tenant.
    """
    put(JOB)
    settings = replace(service_settings, api_keys=(), api_keys_file=str(file))
    async with polling(settings, "a") as client, opened(client) as exchanges:
        file.write_text(f"{line}two {digest('b')}\n")
        began_at = time.monotonic()
        stream, wait, other_stream, other_wait = exchanges
        await asyncio.wait_for(asyncio.gather(stream.task, wait.task), 5)
        assert time.monotonic() - began_at < WITHIN
        assert (stream.status, wait.status) == (200, 401)
        assert stream.body.count(b"event: status") == 1
        assert not other_stream.task.done()
        assert not other_wait.task.done()
        put(JOB, progress=50.0)
        await other_stream.until('"progress":50')
        await asyncio.wait_for(other_wait.task, 5)
        assert other_wait.status == 200


async def test_file_that_changes_otherwise(
    service_settings: ServiceSettings, put: Put, file: Path
) -> None:
    """A change of the file that leaves the key as it is ends nothing."""
    put(JOB)
    settings = replace(service_settings, api_keys=(), api_keys_file=str(file))
    async with polling(settings, "a") as client, opened(client) as exchanges:
        file.write_text(f"# more\n{file.read_text()}three {digest('c')}\n")
        async with asyncio.timeout(5):
            while client.app.api_keys.find("c") is None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert not any(exchange.task.done() for exchange in exchanges)
