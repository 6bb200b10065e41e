"""The store: sends writes to one Redis server, many in one round trip."""

import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, Self

from redis import Redis
from redis.exceptions import AuthenticationError, NoScriptError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.sentinel import MasterNotFoundError, SentinelConnectionPool

from jobstatus.settings import StatusSettings
from jobstatus.status import WriteResult
from jobstatus.storage.client import client
from jobstatus.storage.refusals import Refusal, error_text, is_permanent
from jobstatus.storage.write import (
    Run,
    Write,
    packed_sweep,
    read_run,
    result_of,
    script_of,
    server_ms_of,
    with_script,
)

PRIMARY_CHECK_SECONDS: Final = 1.0
"""Seconds between two questions to the Sentinels which server is the primary."""

_SCRIPT_LOADS: Final = 4
"""Times that the script is loaded for one exchange: a proxy may have several servers behind it."""

_MIN_REPLIES_TO_AWAIT: Final = 16
"""Replies from which on it pays to let the kernel wait for all of them."""

_ROUNDING_MS: Final = 1
"""The server's time is rounded down to whole ms, so the estimate may be early by that much."""

_SOCKET_BUFFER_BYTES: Final = 16_384
"""Bytes that every socket's receive buffer can hold."""


class Store:
    """Writes records through one client.

    Not thread-safe. Every method raises one of `REDIS_ERRORS` if Redis is unavailable.

    Attributes:
        is_replaced: Whether another server may have taken over without the last writes. The
            caller sets it back to False.
    """

    def __init__(self, client: "Redis") -> None:
        self._redis: Any = client  # redis-py's types mix the sync and the async client
        pool: Any = client.connection_pool
        self._sentinels: Any = pool if isinstance(pool, SentinelConnectionPool) else None
        self._primary_checked_at = float("-inf")
        self._server_offset_ms: float | None = None
        self.is_replaced = False

    @classmethod
    def from_settings(cls, settings: StatusSettings) -> Self:
        """Create a store at the URL of the settings. It connects when it is first used.

        Raises:
            SettingsError: The URL is not valid.
        """
        return cls(client(settings))

    def write(self, writes: Sequence[Write]) -> list[WriteResult | Refusal]:
        """Write all records in one round trip; each has a result of its own."""
        now = time.monotonic()
        server_ms = self.server_ms(now)
        replies = self.send([write.packed(now, server_ms) for write in writes])
        self.learn_server_time(replies, now, time.monotonic())
        return [result_of(reply) for reply in replies]

    def server_ms(self, now: float) -> int:
        """Return the server's time at `now` (on the monotonic clock), in ms; 0 if unknown.

        The estimate is late rather than early, by the duration of the fastest exchange so far.
        """
        return 0 if self._server_offset_ms is None else int(1000 * now + self._server_offset_ms)

    def learn_server_time(self, replies: Sequence[Any], sent_at: float, received_at: float) -> None:
        """Learn the server's time from replies to writes.

        Args:
            replies: The replies; errors say nothing of the time.
            sent_at: When the writes were sent, on the monotonic clock.
            received_at: When the replies had arrived, on the monotonic clock.
        """
        reply = next((each for each in reversed(replies) if isinstance(each, int)), None)
        if reply is None:
            return
        server_ms = server_ms_of(reply)
        latest, earliest = server_ms - 1000 * sent_at, server_ms - 1000 * received_at
        offset = self._server_offset_ms
        if offset is None or earliest > offset + _ROUNDING_MS:  # the clock was set forward
            offset = latest
        self._server_offset_ms = min(offset, latest)

    def send(self, packed: Sequence[bytes]) -> list[Any]:
        """Send commands in RESP, and return all replies; the error of a command is its reply."""
        replies = self._exchange(packed)
        for _ in range(_SCRIPT_LOADS):
            unknown = [n for n, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
            if not unknown:
                break
            # The server is new or was restarted. Writing the same record twice changes nothing.
            self._load_script(packed[unknown[0]])
            replies = self._exchange(packed)
        return replies

    def _load_script(self, packed: bytes) -> None:
        """Load the script of a command into the server.

        A proxy such as twemproxy closes the connection on SCRIPT LOAD. EVAL, with one of the
        writes, reaches the very server behind it that does not have the script.

        Args:
            packed: A command to that server.

        Raises:
            RedisError: It can't be loaded.
        """
        try:
            self._redis.script_load(script_of(packed))
        except RedisConnectionError:
            self._exchange([with_script(packed)])

    def _exchange(self, packed: Sequence[bytes]) -> list[Any]:
        """Send all commands at once. redis-py's own pipeline needs three times the CPU time."""
        self._check_primary()
        pool = self._redis.connection_pool
        connection = self._connection(pool)
        try:
            connection.send_packed_command([b"".join(packed)])
            with _waiting_for_all(connection, len(packed)):
                first = _reply(connection)
            return [first, *(_reply(connection) for _ in packed[1:])]
        except BaseException:
            connection.disconnect()  # replies may still arrive: the connection can't be reused
            raise
        finally:
            pool.release(connection)

    @staticmethod
    def _connection(pool: Any) -> Any:
        """Take a connection of the pool; without a name if a proxy rejects CLIENT SETNAME."""
        try:
            return pool.get_connection()
        except AuthenticationError:
            raise
        except RedisConnectionError:
            name = pool.connection_kwargs.pop("client_name", None)
            if name is None:
                raise
            pool.reset()  # it holds a connection with the name, which could not be opened
            try:
                return pool.get_connection()
            except BaseException:
                pool.connection_kwargs["client_name"] = name
                pool.reset()
                raise

    def _check_primary(self) -> None:
        """Ask the Sentinels once a second: a primary that was replaced may not know it.

        Raises:
            ConnectionError: It was replaced; the last writes to it may be lost.
        """
        now = time.monotonic()
        if self._sentinels is None or now - self._primary_checked_at < PRIMARY_CHECK_SECONDS:
            return
        before = self._sentinels.master_address
        self._primary_checked_at = now
        try:
            # If it has changed, redis-py also drops the connections to the old one.
            primary = self._sentinels.get_master_address()
        except MasterNotFoundError:
            if before is None:
                raise
            return  # no Sentinel names another one
        if before not in {None, primary}:
            self._server_offset_ms = None  # the new primary has another clock
            raise ConnectionError(f"another primary has taken over: {primary}")

    def runs(self, keys: Sequence[str]) -> "list[Run | Refusal | None]":
        """Read the run of each record; None if the record is missing or malformed."""
        return [
            Refusal(error_text(reply), is_permanent=False)
            if isinstance(reply, ResponseError) and not is_permanent(reply)
            else Run.from_fields(reply)
            for reply in self._exchange([read_run(key) for key in keys])
        ]

    def sweep(
        self, shard_start: str, key: str, group: str, skip: int, limit: int
    ) -> tuple[str, int] | None:
        """Do one step of a sweep of the index.

        Args:
            shard_start: What all keys of the shard begin with.
            key: Any key on the server.
            group: The group to continue with; empty for the first one.
            skip: How many of its entries to skip.
            limit: How many entries to examine at most.

        Returns:
            The arguments `group` and `skip` of the next step; None if nothing is left to do.

        Raises:
            RedisError, OSError: Redis is unavailable, or refuses the script.
        """
        (reply,) = self.send([packed_sweep(shard_start, key, group, skip, limit)])
        if isinstance(reply, ResponseError):
            raise reply
        return (reply[0].decode(), reply[1]) if reply else None

    def close(self) -> None:
        """Close every connection."""
        self._redis.close()
        for sentinel in self._sentinels.sentinel_manager.sentinels if self._sentinels else ():
            sentinel.close()


def _reply(connection: Any) -> Any:
    try:
        return connection.read_response()
    except ResponseError as error:
        return error


@contextmanager
def _waiting_for_all(connection: Any, replies: int) -> Iterator[None]:
    """Sleep until all replies have arrived, instead of waking up for every few of them.

    A reply, such as `:1`, has at least four bytes, so the kernel may wait for that many. This does
    not work with TLS, which reads whole records.
    """
    sock = getattr(connection, "_sock", None)
    if type(sock) is not socket.socket or replies < _MIN_REPLIES_TO_AWAIT:
        yield
        return
    minimum = min(4 * replies, _SOCKET_BUFFER_BYTES)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, minimum)
    try:
        yield
    finally:
        with suppress(OSError):  # redis-py has closed it after a timeout
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
