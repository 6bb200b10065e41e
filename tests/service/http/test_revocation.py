"""Long polls and streams of an API key that is revoked while they are open."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.service.asgi_exchange import Exchange
from tests.service.conftest import JOB, URL, Poller, Put, polling, until

from jobstatus_service.http.api_keys import digest
from jobstatus_service.settings import ServiceSettings

MAX_SECONDS = 2.0
"""How long after the change of the key file the last watcher of the key may end."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A key file with the keys `a` and `b`."""
    file = tmp_path / "keys"
    file.write_text(f"one {digest('a')}\ntwo {digest('b')}\n")
    return file


@contextlib.asynccontextmanager
async def opened(client: Poller) -> AsyncIterator[list[Exchange]]:
    """Open a stream and a long poll with the key `a`, and then with the key `b`."""
    exchanges = [
        Exchange(client, path, authorization=key)
        for key in ("a", "b")
        for path in (f"{URL}/events", f"{URL}?wait=30")
    ]
    await until(lambda: client.app.statuses.watchers.open.total() == len(exchanges))
    yield exchanges
    for exchange in exchanges:
        exchange.disconnect()
    await asyncio.gather(*(exchange.task for exchange in exchanges))


@pytest.mark.parametrize("line", ["", f"one {digest('new')}\n", f"one {digest('a')} other\n"])
async def test_revoked_key(
    service_settings: ServiceSettings, put: Put, file: Path, line: str
) -> None:
    """The stream ends and the long poll is a 401; those of other keys stay open.

    A key is revoked when its line is removed, gets another hash, or gets another tenant.
    """
    put(JOB)
    settings = replace(service_settings, api_keys=(), api_keys_file=str(file))
    async with polling(settings, "a") as client, opened(client) as exchanges:
        file.write_text(f"{line}two {digest('b')}\n")
        began_at = time.monotonic()
        stream, long_poll, other_stream, other_long_poll = exchanges
        await asyncio.wait_for(asyncio.gather(stream.task, long_poll.task), 5)
        assert time.monotonic() - began_at < MAX_SECONDS
        assert (stream.status, long_poll.status) == (200, 401)
        assert stream.body.count(b"event: status") == 1
        assert not other_stream.task.done()
        assert not other_long_poll.task.done()
        put(JOB, progress=50.0)
        await other_stream.until('"progress":50')
        await asyncio.wait_for(other_long_poll.task, 5)
        assert other_long_poll.status == 200


async def test_other_change_of_the_file(
    service_settings: ServiceSettings, put: Put, file: Path
) -> None:
    """A change of the file that leaves the keys as they are ends no watcher."""
    put(JOB)
    settings = replace(service_settings, api_keys=(), api_keys_file=str(file))
    async with polling(settings, "a") as client, opened(client) as exchanges:
        file.write_text(f"# more\n{file.read_text()}three {digest('c')}\n")
        await until(lambda: client.app.api_keys.find("c") is not None)
        put(JOB, progress=50.0)
        for stream in exchanges[::2]:
            await stream.until('"progress":50')
        for long_poll in exchanges[1::2]:
            await asyncio.wait_for(long_poll.task, 5)
            assert long_poll.status == 200
        assert not any(stream.task.done() for stream in exchanges[::2])
