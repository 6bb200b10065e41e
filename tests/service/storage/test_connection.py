"""Replies and invalidations are passed on in the order in which Redis sent them."""

from typing import Any

import pytest

from jobstatus_service.settings import ServiceSettings
from jobstatus_service.storage.connection import ConnectionLostError, RedisConnection
from jobstatus_service.storage.reader import Reader
from jobstatus_service.storage.redis_endpoints import endpoint_of

TIME_REPLY = b"*2\r\n$1\r\n1\r\n$1\r\n0\r\n"
READ_REPLIES = b"%0\r\n:-2\r\n"
"""The replies to HGETALL and PTTL of a key that does not exist."""

INVALIDATION = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$5\r\njob:1\r\n"
FLUSH = b">2\r\n$10\r\ninvalidate\r\n_\r\n"


class FakeRedisPyConnection:
    """What `RedisConnection` uses of redis-py's connection, of its stream and of its transport.

    Attributes:
        written: The bytes that were sent.
    """

    def __init__(self) -> None:
        self._writer: Any = self
        self.transport: Any = self
        self.written = b""
        self._is_closing = False

    def set_protocol(self, protocol: Any) -> None:
        """Do nothing: the tests call `data_received` themselves."""

    def is_closing(self) -> bool:
        """Return whether the connection was aborted."""
        return self._is_closing

    def write(self, data: bytes) -> None:
        """Store what is sent; raise once the connection is closed, as uvloop does."""
        if self._is_closing:
            raise RuntimeError("unable to perform operation: the handler is closed")
        self.written += data

    def abort(self) -> None:
        """Close the connection."""
        self._is_closing = True


def receive_in_chunks(connection: RedisConnection, stream: bytes, size: int) -> None:
    """Pass bytes to the connection, `size` at a time."""
    for start in range(0, len(stream), size):
        connection.data_received(stream[start : start + size])


@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_events_keep_their_order(size: int) -> None:
    """Replies and invalidations keep their order, however the bytes are split."""
    events: list[Any] = []
    connection = RedisConnection(FakeRedisPyConnection(), events.append)
    connection.send_pipeline(b"", 3, lambda replies: events.append(len(replies)))
    connection.send_pipeline(b"", 1, lambda replies: events.append(str(replies[0])))
    stream = INVALIDATION + TIME_REPLY + READ_REPLIES + INVALIDATION + b"-LOADING wait\r\n" + FLUSH
    receive_in_chunks(connection, stream, size)
    assert events == [["job:1"], 3, ["job:1"], "LOADING wait", None]


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize(("push", "keys"), [(INVALIDATION, ["job:1"]), (FLUSH, None)])
async def test_invalidation_within_a_pipeline(size: int, push: bytes, keys: Any) -> None:
    """An invalidation in the middle of a pipeline is passed on after all of its replies."""
    events: list[Any] = []
    connection = RedisConnection(FakeRedisPyConnection(), events.append)
    connection.send_pipeline(b"", 5, lambda replies: events.append(len(replies)))
    connection.send_pipeline(b"", 1, events.append)
    fields, ttl = READ_REPLIES[:4], READ_REPLIES[4:]
    stream = TIME_REPLY + fields + push + ttl + push + READ_REPLIES + b"+PONG\r\n"
    receive_in_chunks(connection, stream, size)
    assert events == [5, keys, keys, ["PONG"]]


async def test_data_after_close_is_ignored() -> None:
    """What arrives after the connection was closed is ignored."""
    events: list[Any] = []
    connection = RedisConnection(FakeRedisPyConnection(), events.append)
    connection.close()
    connection.data_received(INVALIDATION)
    assert events == []


async def test_command_after_close_fails() -> None:
    """A command that is sent after the connection was closed fails, and nothing is written."""
    redis_py_connection = FakeRedisPyConnection()
    connection = RedisConnection(redis_py_connection, lambda _: None)
    connection.close()
    connection.send_pipeline(b"PING", 1, lambda _: None)
    before_the_loss = connection.execute(b"PING")
    connection.connection_lost(None)
    after_the_loss = connection.execute(b"PING")
    for reply in (before_the_loss, after_the_loss):
        with pytest.raises(ConnectionLostError):
            await reply
    assert redis_py_connection.written == b""


async def test_invalidation_right_after_a_read() -> None:
    """An invalidation in the same packet as the reply follows the response that it invalidates."""
    events: list[Any] = []
    settings = ServiceSettings()
    reader = Reader(
        endpoint_of(settings), settings, lambda key, *_: events.append(key), events.append
    )
    connection = RedisConnection(FakeRedisPyConnection(), events.append)
    reader.link.connection = connection
    reader.request("job:1")
    reader._send()
    connection.data_received(TIME_REPLY + READ_REPLIES + INVALIDATION)
    assert events == ["job:1", ["job:1"]]
