"""Wait in the test's event loop for a condition that has no event of its own."""

import asyncio
from collections.abc import Awaitable, Callable

from tests.service.conftest import Poller


async def until(condition: Callable[[], Awaitable[bool]], timeout: float = 5.0) -> None:
    """Check a condition every 10 ms until it is true.

    Raises:
        TimeoutError: it is not true within `timeout` seconds.
    """
    async with asyncio.timeout(timeout):
        while not await condition():  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0.01)


async def long_polls_are_open(client: Poller, count: int = 1) -> None:
    """Wait until the service holds this many long polls."""

    async def are_open() -> bool:
        return client.app.statuses.watchers.open["long_poll"] >= count

    await until(are_open)
