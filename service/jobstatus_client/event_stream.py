"""A stream of server-sent events."""

import re
from collections.abc import Iterator
from typing import Final, Protocol

from jobstatus_client.errors import BufferedStreamError, SilenceError, UnavailableError
from jobstatus_client.exchange import Answer, Flow, Open, Read, Send, T
from jobstatus_client.pacing import Clock, Fallback, Random

FIRST_EVENT_SECONDS: Final = 5.0
"""A stream that says nothing for so long is held back by a proxy."""

SILENCE_SECONDS: Final = 35.0
"""The service sends a comment every 15 s, so a stream that is silent for so long is dead."""

_SHORT_STREAM_SECONDS: Final = 5.0
_HEADERS: Final = {"Accept": "text/event-stream", "Accept-Encoding": "identity"}


class Requests(Protocol):
    """Requests with credentials, and what all requests of a client share.

    Attributes:
        clock: Tells the time.
        random: Makes jitter.
        fallback: What to send instead of opening a stream.
        not_before: When the service allows the next request, by the clock.
    """

    clock: Clock
    random: Random
    fallback: Fallback
    not_before: float

    def request(
        self, kind: type[Send], path: str, headers: dict[str, str], timeout: float
    ) -> Flow[Answer]:
        """Send a request with the credential."""


class EventStream:
    """A stream that is open, or being opened."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self._parser = EventParser()
        self._opened_at = requests.clock()
        self._has_begun = False

    @property
    def has_worked(self) -> bool:
        """Whether it has lasted for some time, so that its end does not count as a failure."""
        age = self._requests.clock() - self._opened_at
        return self._has_begun and age > _SHORT_STREAM_SECONDS

    def open(self, path: str) -> Flow[None]:
        """Send the request."""
        yield from self._buffering_noticed(
            self._requests.request(Open, path, _HEADERS, FIRST_EVENT_SECONDS)
        )

    def read(self, until: float) -> Flow[list[tuple[str, bytes]]]:
        """Return the kind and the data of the next events; there may be none.

        Args:
            until: When to stop waiting for them, by the clock.

        Raises:
            BufferedStreamError: There was no event since it was opened.
            SilenceError: It is dead, or `until` has come.
            UnavailableError: It has ended.
        """
        now = self._requests.clock()
        end = now + SILENCE_SECONDS if self._has_begun else self._opened_at + FIRST_EVENT_SECONDS
        chunk = yield from self._buffering_noticed(_read(max(0.0, min(end, until) - now)))
        if not chunk:
            raise UnavailableError("The stream has ended.")
        events = list(self._parser.feed(chunk))
        self._has_begun = self._has_begun or bool(events)
        return events

    def _buffering_noticed(self, flow: Flow[T]) -> Flow[T]:
        try:
            return (yield from flow)
        except SilenceError:
            if self._has_begun:
                raise
            raise BufferedStreamError("A proxy holds back the stream.") from None


def _read(timeout: float) -> Flow[bytes]:
    chunk: bytes = yield Read(timeout)
    return chunk


class EventParser:
    """Parses server-sent events (https://html.spec.whatwg.org/#parsing-an-event-stream).

    An event that the end of the stream cuts off is left out. A field `retry` is an event, too.
    """

    _LINE_END: Final = re.compile(rb"\r\n|\n|\r(?!\Z)")

    def __init__(self) -> None:
        self._rest = b""
        self._kind = b""
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> Iterator[tuple[str, bytes]]:
        """Yield the kind and the data of each event that is complete."""
        *lines, self._rest = self._LINE_END.split(self._rest + chunk)
        for line in lines:
            field, _, content = line.partition(b":")
            content = content.removeprefix(b" ")
            if field == b"event":
                self._kind = content
            elif field == b"data":
                self._data.append(content)
            elif field == b"retry" and content.isdigit():
                yield "retry", content
            elif not line:
                if self._data:
                    yield self._kind.decode() or "message", b"\n".join(self._data)
                self._kind, self._data = b"", []
