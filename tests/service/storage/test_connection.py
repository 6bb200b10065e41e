"""Replies and invalidations come in the order in which Redis sent them."""

from typing import Any

import pytest

from jobstatus_service.settings import ServiceSettings
from jobstatus_service.storage.connection import ConnectionLostError, RedisConnection
from jobstatus_service.storage.endpoints import endpoint_of
from jobstatus_service.storage.reader import Reader

TIME = b"*2\r\n$1\r\n1\r\n$1\r\n0\r\n"
FOUND = b"%0\r\n:-2\r\n"
CHANGED = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$5\r\njob:1\r\n"
FLUSHED = b">2\r\n$10\r\ninvalidate\r\n_\r\n"


class Connection:
    """As much of redis-py's connection as is needed; and its own stream and transport."""

    def __init__(self) -> None:
        self._writer: Any = self
        self.transport: Any = self
        self.written = b""
        self.closing = False

    def set_protocol(self, protocol: Any) -> None:
        """Nothing will come but by hand."""

    def is_closing(self) -> bool:
        """Whether it was aborted."""
        return self.closing

    def write(self, data: bytes) -> None:
        """Keep what is sent; refuse it once the connection is closed, as uvloop does."""
        if self.closing:
            raise RuntimeError("unable to perform operation: the handler is closed")
        self.written += data

    def abort(self) -> None:
        """Close."""
        self.closing = True


@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_order(size: int) -> None:
    """However the bytes are cut, what was read before a change comes before it."""
    events: list[Any] = []
    connection = RedisConnection(Connection(), events.append)
    connection.send(b"", 3, lambda responses: events.append(len(responses)))
    connection.send(b"", 1, lambda responses: events.append(str(responses[0])))
    stream = CHANGED + TIME + FOUND + CHANGED + b"-LOADING wait\r\n" + FLUSHED
    for start in range(0, len(stream), size):
        connection.data_received(stream[start : start + size])
    assert events == [["job:1"], 3, ["job:1"], "LOADING wait", None]


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize(("word", "told"), [(CHANGED, ["job:1"]), (FLUSHED, None)])
async def test_change_between_replies(size: int, word: bytes, told: Any) -> None:
    """What Redis says in the middle of a pipeline comes after all that was read before it."""
    events: list[Any] = []
    connection = RedisConnection(Connection(), events.append)
    connection.send(b"", 5, lambda responses: events.append(len(responses)))
    connection.send(b"", 1, events.append)
    stream = TIME + FOUND[:4] + word + FOUND[4:] + word + FOUND + b"+PONG\r\n"
    for start in range(0, len(stream), size):
        connection.data_received(stream[start : start + size])
    assert events == [5, told, told, ["PONG"]]


async def test_nothing_after_close() -> None:
    """Of what comes after the connection was dropped nothing is believed."""
    events: list[Any] = []
    connection = RedisConnection(Connection(), events.append)
    connection.close()
    connection.data_received(CHANGED)
    assert events == []


async def test_send_after_close() -> None:
    """What is asked for after the connection was dropped fails; nothing is raised."""
    connected = Connection()
    connection = RedisConnection(connected, lambda _: None)
    connection.close()
    connection.send(b"PING", 1, lambda _: None)
    asked = connection.ask(b"PING")
    connection.connection_lost(None)
    later = connection.ask(b"PING")
    for response in (asked, later):
        with pytest.raises(ConnectionLostError):
            await response
    assert connected.written == b""


async def test_change_while_reading() -> None:
    """What was read is forgotten when the change comes in the same packet, before anybody runs."""
    events: list[Any] = []
    settings = ServiceSettings()
    reader = Reader(
        endpoint_of(settings), settings, lambda key, *_: events.append(key), events.append
    )
    connection = RedisConnection(Connection(), reader.link._changed)
    reader.link.connection = connection
    future = reader.read("job:1")
    reader.request("job:1")
    reader._send()
    connection.data_received(TIME + FOUND + CHANGED)
    assert events == ["job:1", ["job:1"]]
    future.close()
