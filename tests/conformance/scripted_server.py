"""A server whose answers are scripted: each request takes the next answer of its kind.

The last answer of a kind is repeated. What an answer may contain is in `README.md`.
"""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from email.utils import formatdate
from typing import Any, Final

from tests.conformance.statuses import Statuses

_CORS: Final = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Headers": "authorization, if-none-match",
    "Access-Control-Expose-Headers": "ETag, Retry-After, Date",
    "Access-Control-Max-Age": "600",
}


def kind_of(path: str) -> str:
    """Return the kind of a request: what it asks for."""
    path, _, query = path.partition("?")
    if path.endswith(("/events", "/details", "/result", "/counts")):
        return path.rpartition("/")[2]
    if path == "/api/jobs":
        return "poll" if "id=" in query else "list"
    return "status"


class Request:
    """A request that has arrived.

    Attributes:
        kind: What it asks for.
        path: Its path and query.
        headers: Its headers, by their names in lower case.
        at: When it arrived, by `time.monotonic()`.
    """

    def __init__(self, head: str) -> None:
        first, *lines = head.split("\r\n")
        self.method, self.path, _ = first.split(" ")
        self.kind = kind_of(self.path)
        self.at = time.monotonic()
        pairs = (line.partition(": ") for line in lines if line)
        self.headers = {name.lower(): value for name, _, value in pairs}


class ScriptedServer:
    """One server for one run of a scenario.

    Attributes:
        requests: What has arrived, without preflight requests.
        open_streams: How many streams are being sent.
        port: Where it listens.
    """

    def __init__(self, script: dict[str, list[Any]], statuses: Statuses) -> None:
        self.requests: list[Request] = []
        self.open_streams = 0
        self.port = 0
        self._script = script
        self._statuses = statuses
        self._taken: dict[str, int] = {}
        self._server: asyncio.Server
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close all connections."""
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task: Any = asyncio.current_task()
        self._tasks.add(task)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                if not await self._respond(Request(head[:-4]), writer, reader):
                    break
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _respond(
        self, request: Request, writer: asyncio.StreamWriter, reader: asyncio.StreamReader
    ) -> bool:
        """Answer a request; return whether the connection stays open."""
        if request.method == "OPTIONS":
            writer.write(_head(204, {}))
            return True
        self.requests.append(request)
        answers = self._script.get(request.kind, [{"status": 404, "body": {"detail": "no script"}}])
        number = self._taken.get(request.kind, 0)
        self._taken[request.kind] = number + 1
        answer = answers[min(number, len(answers) - 1)]
        if answer == "cut":
            return False
        if answer == "silence":
            await reader.read()  # until the client gives up
            return False
        await asyncio.sleep(answer.get("delay", 0))
        if "stream" in answer:
            self.open_streams += 1
            try:
                await self._stream(answer, writer, reader)
            finally:
                self.open_streams -= 1
            return False
        body, etag = self._body(answer), answer.get("etag")
        headers = self._headers(answer) | {"Content-Type": "application/json"}
        status = answer.get("status", 200)
        if etag is not None:
            headers["ETag"] = etag
            if request.headers.get("if-none-match") == etag:
                status, body = 304, b""
        if status not in {204, 304}:
            headers["Content-Length"] = str(len(body))
        writer.write(_head(status, headers) + body)
        return True

    def _headers(self, answer: Any) -> dict[str, str]:
        headers = dict(answer.get("headers", {}))
        if "retry_after" in answer:
            headers["Retry-After"] = str(answer["retry_after"])
        if "retry_after_date" in answer:  # seconds from now, by a clock that is off
            now = time.time() + answer.get("clock_error", 0)
            headers["Date"] = formatdate(now, usegmt=True)
            headers["Retry-After"] = formatdate(now + answer["retry_after_date"], usegmt=True)
        return headers

    def _body(self, answer: Any) -> bytes:
        if "jobs" in answer:
            jobs = [self._statuses.details(each) for each in answer["jobs"]]
            return json.dumps({"jobs": jobs, "next": None}).encode()
        if "job" in answer:
            return json.dumps(self._statuses.details(answer["job"])).encode()
        body = answer.get("body", "")
        return body.encode() if isinstance(body, str) else json.dumps(body).encode()

    async def _stream(
        self, answer: Any, writer: asyncio.StreamWriter, reader: asyncio.StreamReader
    ) -> None:
        headers = {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"}
        writer.write(_head(200, self._headers(answer) | headers))
        gone = asyncio.ensure_future(reader.read())  # ends when the client closes the connection
        left = answer.get("cut_after")
        try:
            for part in answer["stream"]:
                if isinstance(part, dict) and "pause" in part:
                    await asyncio.wait([gone], timeout=part["pause"])
                    continue
                data = self._event(part)
                data = data if left is None else data[:left]
                left = None if left is None else left - len(data)
                size = answer.get("piece", len(data)) or 1
                for start in range(0, len(data), size):
                    piece = data[start : start + size]
                    writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                    await writer.drain()
                    if size < len(data):
                        await asyncio.sleep(0)
            await writer.drain()
            end = answer.get("end", "close")
            if end == "hold":
                await gone
            elif end == "close":
                writer.write(b"0\r\n\r\n")
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        finally:
            gone.cancel()

    def _event(self, part: Any) -> bytes:
        """Return the bytes of a part of a stream."""
        if isinstance(part, str):
            part = {"event": "status", "data": self._statuses.details(part)}
        if "raw" in part:
            return str(part["raw"]).encode()
        if "list" in part:
            jobs = [self._statuses.details(each) for each in part["list"]]
            part = {"event": "list", "data": {"jobs": jobs, "next": None}}
        return f"event: {part['event']}\ndata: {json.dumps(part['data'])}\n\n".encode()

    def size_of_stream(self, answer: Any) -> int:
        """Return the number of bytes of a scripted stream."""
        return sum(
            len(self._event(part))
            for part in answer["stream"]
            if isinstance(part, str) or "pause" not in part
        )


def _head(status: int, headers: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} Scripted"]
    if status == 204:
        headers = headers | {"Content-Length": "0"}
    lines += [f"{name}: {value}" for name, value in (_CORS | headers).items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


class Loop:
    """An event loop in a thread of its own, for servers of tests that wait for other processes."""

    @contextlib.contextmanager
    def running(self) -> Iterator["Loop"]:
        """Run it during the block."""
        self._loop = asyncio.new_event_loop()
        thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join()
            self._loop.close()

    def call(self, function: Callable[[], Awaitable[Any]]) -> Any:
        """Run a coroutine in the loop, and return what it returns."""

        async def run() -> Any:
            return await function()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(60)
