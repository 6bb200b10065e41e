"""Watchers: how many may be open, when they are woken, and when they must end."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from jobstatus_service.http.client import Client
from jobstatus_service.lookup.response import StatusResponse
from jobstatus_service.lookup.watchers import TooManyWatchersError, Watcher, Watchers
from jobstatus_service.settings import ServiceSettings

CLIENT = Client("web", "job")
OTHER_CLIENT = Client("mobile", "job")
KEY = "job:1"


def response(etag: bytes) -> StatusResponse:
    return StatusResponse((b"etag", etag), (), b"{}")


async def never_disconnects() -> Any:
    await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def waiting(watchers: Watchers) -> AsyncIterator[tuple[Watcher, asyncio.Task[None]]]:
    """Open a watcher; gives it and the task that waits until it is woken."""
    with (
        watchers.watcher(CLIENT, never_disconnects) as watcher,
        watchers.watch(watcher, {KEY: response(b"1")}),
    ):
        task = asyncio.create_task(watcher.wait(10))
        await asyncio.sleep(0)
        yield watcher, task
        task.cancel()


@pytest.mark.parametrize(
    ("client", "open_before", "is_client_limit"),
    [(CLIENT, 2, True), (OTHER_CLIENT, 3, False)],
)
def test_limits(client: Client, open_before: int, is_client_limit: bool) -> None:
    """A watcher beyond the limit of its client or of the process is rejected until others close."""
    watchers = Watchers(ServiceSettings(max_watchers=3, max_watchers_per_key=2))
    clients = [CLIENT, CLIENT, OTHER_CLIENT][:open_before]
    with contextlib.ExitStack() as stack:
        for each in clients:
            stack.enter_context(watchers.admit(each, "stream"))
        with pytest.raises(TooManyWatchersError) as raised, watchers.admit(client, "stream"):
            pass
        assert raised.value.is_client_limit is is_client_limit
    assert watchers.open.total() == 0
    with watchers.admit(client, "long_poll"):
        assert watchers.open["long_poll"] == 1


@pytest.mark.parametrize(("etag", "is_woken"), [(b"1", False), (b"2", True)])
async def test_publish(etag: bytes, is_woken: bool) -> None:
    """A new response wakes the watchers of its job only if it differs from the last one."""
    watchers = Watchers(ServiceSettings())
    async with waiting(watchers) as (_, task):
        assert watchers.mark_stale(KEY)
        watchers.publish(KEY, response(etag))
        await asyncio.sleep(0)
        assert task.done() is is_woken
        assert watchers.jobs[KEY].response.etag == etag
        assert not watchers.jobs[KEY].is_stale


@pytest.mark.parametrize("valid", [True, False])
async def test_revoked_key(valid: bool) -> None:
    """A watcher must end once its API key is no longer valid."""
    watchers = Watchers(ServiceSettings())
    async with waiting(watchers) as (watcher, task):
        watchers.is_valid = lambda key: valid or key != CLIENT
        watchers.end_revoked()
        await asyncio.sleep(0)
        assert (watcher.must_end, task.done()) == (not valid, not valid)


async def test_key_that_was_revoked_before() -> None:
    """A watcher of a client whose key was removed since it was authenticated must end at once."""
    watchers = Watchers(ServiceSettings())
    watchers.is_valid = lambda _: False
    async with waiting(watchers) as (watcher, _):
        assert watcher.must_end


async def test_drain() -> None:
    """A draining process ends its watchers, and each that is opened later."""
    watchers = Watchers(ServiceSettings())
    async with waiting(watchers) as (watcher, task):
        watchers.drain()
        await asyncio.sleep(0)
        assert watcher.must_end
        assert task.done()
    async with waiting(watchers) as (watcher, _):
        assert watcher.must_end


async def test_closed_watchers_leave_nothing() -> None:
    """A job is forgotten with its last watcher, and its changes are then of no interest."""
    watchers = Watchers(ServiceSettings())
    async with waiting(watchers):
        assert list(watchers.jobs) == [KEY]
    assert not watchers.jobs
    assert not watchers.mark_stale(KEY)
