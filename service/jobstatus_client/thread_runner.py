"""Carries out the commands of the protocol in a thread."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

import httpx

from jobstatus_client.channel import SILENCE_SECONDS
from jobstatus_client.errors import SilenceError, UnavailableError
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

CONNECT_SECONDS: Final = 5.0


class ThreadRunner:
    """Carries out the commands of flows, one flow after the other.

    Args:
        http: Sends the requests.
        lock: Held while a flow decides, since flows change what all threads share.
        authorize: Returns the credential, if its argument is no longer valid.
    """

    def __init__(
        self,
        http: httpx.Client,
        lock: "threading.RLock",
        authorize: Callable[[str | None], str | None],
    ) -> None:
        self._http = http
        self._url = str(http.base_url).rstrip("/")
        self._lock = lock
        self._authorize = authorize
        self._interrupted = threading.Event()
        self._connection: Any = None
        self._response: httpx.Response | None = None
        self._chunks: Iterator[bytes] = iter(())

    def run(self, flow: Flow[T]) -> T:
        """Run a flow to its end, and return its value."""
        reply: Any = None
        error: Exception | None = None
        while True:
            with self._lock:
                try:
                    command = flow.send(reply) if error is None else flow.throw(error)
                except StopIteration as end:
                    value: T = end.value
                    return value
            reply, error = None, None
            try:
                reply = self._reply_to(command)
            except Exception as failure:
                error = failure
            if self._interrupted.is_set():
                self._interrupted.clear()
                error = InterruptedFlow()
            if error is not None:
                self._close_response()

    def interrupt(self) -> None:
        """End the present command with `InterruptedFlow`; called by any thread."""
        self._interrupted.set()
        self._cut()

    @contextlib.contextmanager
    def closing(self) -> Iterator[None]:
        """Close the connections after the block."""
        try:
            yield
        finally:
            self._close_response()
            self._http.close()

    def _reply_to(self, command: Command) -> Any:
        match command:
            case Sleep(seconds):
                return self._interrupted.wait(seconds)
            case Authorize(rejected):
                return self._authorize(rejected)
        try:
            match command:
                case Read(timeout):
                    with self._limit(timeout):
                        return next(self._chunks, b"")
                case Open(timeout=timeout):
                    with self._limit(timeout):
                        return self._open(command)
                case Send(timeout=timeout):
                    response = self._http.send(self._request(command, timeout))
                    return Answer(response.status_code, response.headers, response.content)
        except SilenceError:
            raise
        except httpx.TimeoutException:
            raise SilenceError(f"{self._url} does not answer in time.") from None
        except (httpx.TransportError, OSError) as error:
            raise UnavailableError(f"{self._url} can't be reached: {error}") from error

    def _open(self, command: Open) -> Answer:
        self._close_response()
        response = self._http.send(self._request(command, SILENCE_SECONDS), stream=True)
        self._response, self._chunks = response, response.iter_bytes()
        if response.status_code != httpx.codes.OK:
            response.read()
        body = response.content if response.is_closed else b""
        return Answer(response.status_code, response.headers, body)

    def _request(self, command: Send, read_timeout: float) -> httpx.Request:
        timeout = httpx.Timeout(read_timeout, connect=min(read_timeout, CONNECT_SECONDS))
        return self._http.build_request(
            "GET",
            command.path,
            headers=command.headers,
            timeout=timeout,
            extensions={"trace": self._on_http_event},
        )

    def _on_http_event(self, name: str, info: dict[str, Any]) -> None:
        """Note the connection, to be able to cut it."""
        if name in {"connection.connect_tcp.complete", "connection.start_tls.complete"}:
            self._connection = info["return_value"]

    @contextlib.contextmanager
    def _limit(self, seconds: float) -> Iterator[None]:
        """Raise `SilenceError` if the block takes longer; httpx notices a longer silence itself."""
        if seconds >= SILENCE_SECONDS:
            yield
            return
        is_late = threading.Event()

        def cut() -> None:
            is_late.set()
            self._cut()

        timer = threading.Timer(seconds, cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        except (httpx.TransportError, OSError):
            if not is_late.is_set():
                raise
        finally:
            timer.cancel()
        if is_late.is_set():
            raise SilenceError(f"{self._url} does not answer in time.")

    def _cut(self) -> None:
        """End what is being received: what another thread may do is to shut the socket down."""
        if self._connection is not None:
            with contextlib.suppress(OSError, AttributeError):
                self._connection.get_extra_info("socket").shutdown(socket.SHUT_RDWR)

    def _close_response(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None
