"""One request whose client can read slowly or disconnect, which httpx's transport can't."""

import asyncio
from typing import Any

from tests.service.conftest import Poller, until


class Exchange:
    """A request and its response so far.

    Attributes:
        reading: While this event isn't set, the client reads nothing.
        status: The response's status; 0 before its head was sent.
        body: What was sent of the response's body.
        task: The application's task.
    """

    def __init__(self, client: Poller, path: str, **headers: str) -> None:
        path, _, query = path.partition("?")
        all_headers = {"authorization": "secret"} | headers
        scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in all_headers.items()],
            "http_version": "1.1",
            "scheme": "http",
            "server": ("test", 80),
            "client": ("test", 1),
            "root_path": "",
            "state": {},
        }
        self.reading = asyncio.Event()
        self.reading.set()
        self.body = b""
        self.status = 0
        self._disconnected = asyncio.Event()
        self._is_request_sent = False
        self.task = asyncio.create_task(client.app(scope, self._receive, self._send))

    def disconnect(self) -> None:
        """Close the client's connection."""
        self._disconnected.set()

    async def until(self, text: str) -> None:
        """Wait until a text was sent."""
        await until(lambda: text.encode() in self.body)

    async def _receive(self) -> Any:
        if not self._is_request_sent:
            self._is_request_sent = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._disconnected.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            return
        self.body += message["body"]
        await self.reading.wait()
