"""Carries out the commands of the protocol in an asyncio task."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx

from jobstatus_client.errors import ClientClosedError, SilenceError, UnavailableError
from jobstatus_client.exchange import (
    Answer,
    Authorize,
    Command,
    Flow,
    InterruptedFlow,
    Open,
    Read,
    Send,
    Sleep,
    T,
)
from jobstatus_client.thread_runner import CONNECT_SECONDS


class TaskRunner:
    """Carries out the commands of flows, one flow after the other.

    Args:
        http: Sends the requests.
        authorize: Returns the credential, if its argument is no longer valid.
    """

    def __init__(
        self,
        http: httpx.AsyncClient,
        authorize: Callable[[str | None], Awaitable[str | None]],
    ) -> None:
        self._http = http
        self._url = str(http.base_url).rstrip("/")
        self._authorize = authorize
        self._is_executing = False
        self._is_interrupted = False
        self._task: asyncio.Task[Any] | None = None
        self._response: httpx.Response | None = None
        self._chunks: AsyncIterator[bytes]

    async def run(self, flow: Flow[T]) -> T:
        """Run a flow to its end, and return its value."""
        self._task = asyncio.current_task()
        reply: Any = None
        error: Exception | None = None
        try:
            while True:
                command = flow.send(reply) if error is None else flow.throw(error)
                reply, error = None, None
                self._is_executing = True
                try:
                    reply = await self._reply_to(command)
                except asyncio.CancelledError as failure:
                    error = self._meaning_of(failure)
                except Exception as failure:
                    error = failure
                finally:
                    self._is_executing = self._is_interrupted = False
                if error is not None:
                    await self.close_response()
        except StopIteration as end:
            value: T = end.value
            return value
        finally:
            flow.close()

    def interrupt(self) -> None:
        """End the present command with `InterruptedFlow`."""
        if self._task is not None and self._is_executing and not self._is_interrupted:
            self._is_interrupted = True
            self._task.cancel()

    def _meaning_of(self, error: asyncio.CancelledError) -> Exception:
        """Return what a cancellation means, if it is not one of the task.

        Raises:
            asyncio.CancelledError: Somebody has cancelled the task.
        """
        if self._task is not None:
            if self._is_interrupted and self._task.uncancel() == 0:
                return InterruptedFlow()
            if self._task.cancelling() == 0:  # the function for credentials has awaited another one
                return UnavailableError("What the client has waited for was cancelled.")
        raise error

    async def close_response(self) -> None:
        """Close the open stream, if there is one."""
        if self._response is not None:
            response, self._response = self._response, None
            await response.aclose()

    async def _reply_to(self, command: Command) -> Any:
        match command:
            case Sleep(seconds):
                return await asyncio.sleep(seconds)
            case Authorize(rejected):
                return await self._authorize(rejected)
        try:
            async with asyncio.timeout(command.timeout):
                match command:
                    case Read():
                        return await anext(self._chunks, b"")
                    case Open():
                        return await self._open(command)
                    case Send():
                        response = await self._http.send(self._request(command))
                        return Answer(response.status_code, response.headers, response.content)
        except (TimeoutError, httpx.TimeoutException):
            raise SilenceError(f"{self._url} does not answer in time.") from None
        except RuntimeError as error:
            if self._http.is_closed:
                raise ClientClosedError("The client was closed.") from error
            raise
        except (httpx.RequestError, OSError) as error:
            raise UnavailableError(f"{self._url} can't be reached: {error}") from error

    async def _open(self, command: Open) -> Answer:
        await self.close_response()
        response = await self._http.send(self._request(command), stream=True)
        self._response, self._chunks = response, response.aiter_bytes()
        if response.status_code != httpx.codes.OK:
            await response.aread()
        body = response.content if response.is_closed else b""
        return Answer(response.status_code, response.headers, body)

    def _request(self, command: Send) -> httpx.Request:
        timeout = httpx.Timeout(None, connect=CONNECT_SECONDS)
        return self._http.build_request(
            "GET", command.path, headers=command.headers, timeout=timeout
        )
