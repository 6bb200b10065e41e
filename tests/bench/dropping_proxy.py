"""An HTTP proxy that counts requests and bytes, and may drop some requests."""

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from tests.conformance.scripted_server import Loop


class DroppingProxy:
    """Forwards each connection to the first server that accepts it, in an event loop of its own.

    Attributes:
        port: Where it listens on 127.0.0.1.
        targets: The ports of the servers; tried in turn, beginning with the next one each time.
        drop_every: Every so many requests are dropped: the connection is closed; 0: none.
        requests: How many have arrived.
        connections: How many were opened.
        received: Bytes from clients.
        sent: Bytes to clients.
    """

    def __init__(self, targets: Sequence[int], drop_every: int = 0) -> None:
        self.port = 0
        self.targets = list(targets)
        self.drop_every = drop_every
        self.requests = self.connections = self.received = self.sent = 0
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    @contextlib.contextmanager
    def running(self) -> Iterator["DroppingProxy"]:
        """Forward during the block."""
        with Loop().running() as loop:
            loop.call(self._start)
            try:
                yield self
            finally:
                loop.call(self._stop)

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task: Any = asyncio.current_task()
        self._tasks.add(task)
        self.connections += 1
        writers = [writer]
        try:
            server_reader, server_writer = await self._connect()
            writers.append(server_writer)
            sending = asyncio.create_task(self._send(server_reader, writer))
            self._tasks.add(sending)
            sending.add_done_callback(self._tasks.discard)
            while head := await reader.readuntil(b"\r\n\r\n"):  # a GET has no body
                self.requests += 1
                self.received += len(head)
                if self.drop_every and self.requests % self.drop_every == 0:
                    break
                server_writer.write(head)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            for each in writers:
                each.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self.targets.append(self.targets.pop(0))
        for port in self.targets:
            with contextlib.suppress(OSError):
                return await asyncio.open_connection("127.0.0.1", port)
        raise ConnectionRefusedError

    async def _send(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                self.sent += len(data)
                writer.write(data)
                await writer.drain()
            writer.close()
