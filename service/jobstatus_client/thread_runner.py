"""Carries out the commands of the protocol in a thread."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import httpx

from jobstatus_client.errors import ClientClosedError, SilenceError, UnavailableError
from jobstatus_client.event_stream import SILENCE_SECONDS
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

_BEGINNINGS: Final = ("connect_tcp.started", "start_tls.started", "request_headers.started")
"""Ends of the names of httpcore's events before which a request can still be prevented."""


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
        try:
            while True:
                with self._lock:
                    command = flow.send(reply) if error is None else flow.throw(error)
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
        except StopIteration as end:
            value: T = end.value
            return value
        finally:
            with self._lock:
                flow.close()

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
            return self._exchange(command)
        except SilenceError:
            raise
        except httpx.TimeoutException:
            raise SilenceError(f"{self._url} does not answer in time.") from None
        except (httpx.RequestError, OSError) as error:
            raise UnavailableError(f"{self._url} can't be reached: {error}") from error
        except RuntimeError as error:
            if self._http.is_closed:
                raise ClientClosedError("The client was closed.") from error
            raise

    def _exchange(self, command: Send | Read) -> Answer | bytes:
        match command:
            case Read(timeout):
                with self._limit(timeout):
                    return next(self._chunks, b"")
            case Open(timeout=timeout):
                with self._limit(timeout):
                    return self._open(command)
            case Send(timeout=timeout):
                return self._send(command, timeout)

    def _open(self, command: Open) -> Answer:
        self._close_response()
        response = self._http.send(self._request(command, SILENCE_SECONDS), stream=True)
        self._response, self._chunks = response, response.iter_bytes()
        if response.status_code != httpx.codes.OK:
            response.read()
        body = response.content if response.is_closed else b""
        return Answer(response.status_code, response.headers, body)

    def _send(self, command: Send, timeout: float) -> Answer:
        end = time.monotonic() + timeout  # the timeout of httpx begins again with each byte
        response = self._http.send(self._request(command, timeout), stream=True)
        with contextlib.closing(response):
            body = bytearray()
            for chunk in response.iter_bytes():
                body += chunk
                if time.monotonic() > end:
                    raise SilenceError(f"{self._url} does not answer in time.")
        return Answer(response.status_code, response.headers, bytes(body))

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
        """Note the connection, to be able to cut it; that of a proxy has events of other names."""
        if name.endswith(("connect_tcp.complete", "socket.complete", "start_tls.complete")):
            self._connection = info["return_value"]
        # Before there was anything to cut: what only cleans up must not be prevented.
        if self._interrupted.is_set() and name.endswith(_BEGINNINGS):
            raise InterruptedFlow

    @contextlib.contextmanager
    def _limit(self, seconds: float) -> Iterator[None]:
        """Raise `SilenceError` if the block takes longer; httpx notices a long silence itself."""
        if seconds > SILENCE_SECONDS - 1:
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
        """End what is being received: what another thread may do is to shut the socket down.

        `SSLSocket.shutdown` would first make it a socket without TLS, for the other thread, too.
        """
        if self._connection is not None:
            with contextlib.suppress(OSError, TypeError):
                socket.socket.shutdown(self._connection.get_extra_info("socket"), socket.SHUT_RDWR)

    def _close_response(self) -> None:
        if self._response is not None:
            response, self._response = self._response, None
            response.close()
