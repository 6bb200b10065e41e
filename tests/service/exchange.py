"""One request, whose client may read slowly or go away: what httpx's transport can't do."""

import asyncio
from typing import Any

from tests.service.conftest import Poller


class Exchange:
    """A request under way.

    Attributes:
        reads: While it isn't set, the client reads nothing.
        sent: What was sent to it so far, after the head.
        status: The status, once there is one.
    """

    def __init__(self, client: Poller, path: str, **headers: str) -> None:
        path, _, query = path.partition("?")
        names = {"authorization": "secret"} | headers
        scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in names.items()],
            "http_version": "1.1",
            "scheme": "http",
            "server": ("test", 80),
            "client": ("test", 1),
            "root_path": "",
            "state": {},
        }
        self.reads = asyncio.Event()
        self.reads.set()
        self.sent = b""
        self.status = 0
        self._gone = asyncio.Event()
        self._is_asked = False
        self.task = asyncio.create_task(client.app(scope, self._receive, self._send))

    def go_away(self) -> None:
        """The client closes its connection."""
        self._gone.set()

    async def until(self, text: str) -> None:
        """Wait until this was sent."""
        async with asyncio.timeout(5):
            while text.encode() not in self.sent:  # noqa: ASYNC110
                await asyncio.sleep(0.001)

    async def _receive(self) -> Any:
        if not self._is_asked:
            self._is_asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            return
        self.sent += message["body"]
        await self.reads.wait()
