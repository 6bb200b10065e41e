"""One connection to Redis: it carries reads, and Redis's invalidations of the keys read over it.

redis-py connects and logs in (see `redis_endpoints`). From then on this module owns the socket: it
writes commands as bytes, and passes replies and invalidations on in the order in which Redis sent
them.

A pipeline is not atomic: Redis may send an invalidation between two of its replies. The replies are
passed on together and those invalidations after them, so that an invalidation never comes before
the reply that it makes stale. RESP3:
https://github.com/redis/redis-specifications/blob/master/protocol/RESP3.md; tracking:
https://valkey.io/topics/client-side-caching/.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Self

import hiredis
from redis.exceptions import AuthenticationError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from jobstatus.storage.refusals import REDIS_ERRORS
from jobstatus_service.settings import ServiceSettings
from jobstatus_service.storage.redis_endpoints import Endpoint

OnReplies = Callable[[Sequence[Any]], None]
"""Called with the replies to a pipeline. An error of Redis is a reply of type `ReplyError`."""

OnInvalidation = Callable[[Sequence[str] | None], None]
"""Called with the keys that have changed; with None when any key may have changed, because Redis
was flushed or no longer reports changes."""

ReplyError = hiredis.ReplyError

TIME_COMMAND: Final = b"*1\r\n$4\r\nTIME\r\n"
"""Asks Redis for its time, encoded in RESP."""

TIMEOUT_REASON: Final = "Redis did not answer in time"
_LOST_REASON: Final = "the connection was lost"

_TRACKING_COMMAND: Final = b"*3\r\n$6\r\nCLIENT\r\n$8\r\nTRACKING\r\n$2\r\nON\r\n"
_INCOMPLETE: Final = object()
"""What the parser returns while a reply has not arrived completely."""


class ConnectionLostError(Exception):
    """Redis cannot be reached, or the connection to it was lost."""


class RedisConnection(asyncio.Protocol):
    """An open connection. Once lost, it stays lost: connect another one.

    Attributes:
        is_tracking: Whether Redis reports changes of the keys that were read over this connection.
        has_time: Whether the server accepts the command TIME.
        lost: A future that is done when the connection has been lost.
        redis_py_connection: The connection object of redis-py that opened the socket.
    """

    def __init__(self, redis_py_connection: Any, on_invalidation: OnInvalidation) -> None:
        self.is_tracking = False
        self.has_time = True
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Keep a reference: redis-py closes the socket when this object is garbage-collected.
        self.redis_py_connection = redis_py_connection
        self._transport: asyncio.Transport = redis_py_connection._writer.transport  # noqa: SLF001
        self._on_invalidation = on_invalidation
        self._parser = hiredis.Reader(
            encoding="utf-8", errors="replace", notEnoughData=_INCOMPLETE, replyError=ReplyError
        )
        self._replies: list[Any] = []
        self._invalidations: list[Sequence[str] | None] = []
        self._pending: set[asyncio.Future[Any]] = set()
        self._expected: deque[tuple[int, OnReplies, bool]] = deque()
        self._is_binary = False
        self._transport.set_protocol(self)

    @classmethod
    async def connect(
        cls, endpoint: Endpoint, settings: ServiceSettings, on_invalidation: OnInvalidation
    ) -> Self:
        """Connect, with tracking if the cache is enabled and the server supports it.

        Args:
            endpoint: The server to connect to.
            settings: The timeouts, and whether the cache is enabled.
            on_invalidation: Called with each invalidation.

        Raises:
            ConnectionLostError: Redis cannot be reached.
        """
        try:
            async with asyncio.timeout(settings.connect_timeout + settings.timeout):
                return await cls._connect_best(endpoint, settings, on_invalidation)
        except (*REDIS_ERRORS, TimeoutError) as error:
            raise ConnectionLostError(str(error) or TIMEOUT_REASON) from None

    @classmethod
    async def _connect_best(
        cls, endpoint: Endpoint, settings: ServiceSettings, on_invalidation: OnInvalidation
    ) -> Self:
        """Return the best connection that the server, or a proxy in front of it, supports.

        The first of these that succeeds: RESP3 with tracking; RESP2; RESP2 with no command but the
        login. A proxy such as twemproxy closes the connection on a command that it does not know.
        """
        was_closed = False
        if settings.cache_bytes:
            try:
                return await cls._connect_tracking(endpoint, on_invalidation)
            except AuthenticationError:
                raise
            except ResponseError:
                pass  # the server does not support RESP3
            except (RedisConnectionError, ConnectionLostError):
                was_closed = True
        connection = await cls._connect_untracked(endpoint, on_invalidation)
        if was_closed:
            # Perhaps the server was restarting, and there is no such proxy: try once more.
            return await cls._replace_by_tracking(connection, endpoint, on_invalidation)
        return connection

    @classmethod
    async def _connect_tracking(cls, endpoint: Endpoint, on_invalidation: OnInvalidation) -> Self:
        """Connect with RESP3; track if the server and the user's ACL permit it."""
        connection = cls(await endpoint.connect(3), on_invalidation)
        connection.is_tracking = await connection._accepts(_TRACKING_COMMAND)
        return connection

    @classmethod
    async def _connect_untracked(cls, endpoint: Endpoint, on_invalidation: OnInvalidation) -> Self:
        """Connect with RESP2; if that is closed, without any command but the login."""
        try:
            connection = cls(await endpoint.connect(2), on_invalidation)
            connection.has_time = await connection._accepts(TIME_COMMAND)
        except AuthenticationError:
            raise
        except (RedisConnectionError, ConnectionLostError):
            connection = cls(await endpoint.connect(2, is_bare=True), on_invalidation)
            connection.has_time = False
        return connection

    @classmethod
    async def _replace_by_tracking(
        cls, untracked: Self, endpoint: Endpoint, on_invalidation: OnInvalidation
    ) -> Self:
        """Connect with RESP3 and close `untracked`; if that fails, return `untracked`."""
        try:
            tracking = await cls._connect_tracking(endpoint, on_invalidation)
        except (RedisError, ConnectionLostError):
            return untracked
        except BaseException:
            untracked.close()
            raise
        untracked.close()
        return tracking

    async def _accepts(self, command: bytes) -> bool:
        """Return whether the server answers a command without an error.

        Raises:
            ConnectionLostError: the server has closed the connection.
        """
        try:
            reply = await self.execute(command)
        except BaseException:
            self.close()
            raise
        return not isinstance(reply, ReplyError)

    def send_pipeline(
        self,
        commands: bytes,
        reply_count: int,
        on_replies: OnReplies,
        *,
        is_binary: bool = False,
    ) -> None:
        """Send commands, encoded in RESP.

        Args:
            commands: The commands.
            reply_count: How many replies they have.
            on_replies: Called with the replies; never called if the connection is lost before.
            is_binary: Whether strings in the replies are bytes, rather than text.
        """
        self._expected.append((reply_count, on_replies, is_binary))
        if not self._transport.is_closing():
            self._transport.write(commands)

    def execute(self, command: bytes) -> asyncio.Future[Any]:
        """Send one command, encoded in RESP.

        Returns:
            A future of the reply. Its exception is `ConnectionLostError` if the connection is lost.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self.lost.done():
            future.set_exception(ConnectionLostError(_LOST_REASON))
            return future

        def on_replies(replies: Sequence[Any]) -> None:
            self._pending.discard(future)
            if not future.done():
                future.set_result(replies[0])

        self._pending.add(future)
        self.send_pipeline(command, 1, on_replies)
        return future

    def close(self) -> None:
        """Close the connection at once, without waiting for replies."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Parse what Redis sent, and pass it on in Redis's order (called by asyncio)."""
        if self._transport.is_closing():
            return
        self._parser.feed(data)
        while True:
            if self._expected and self._expected[0][2] is not self._is_binary:
                self._set_binary(is_binary=not self._is_binary)
            reply = self._parser.gets()
            if reply is _INCOMPLETE:
                return
            if isinstance(reply, hiredis.PushNotification):
                if reply[0] in {"invalidate", b"invalidate"}:
                    self._invalidations.append(_as_text(reply[1]))
            else:
                self._replies.append(reply)
                if len(self._replies) == self._expected[0][0]:
                    replies, self._replies = self._replies, []
                    self._expected.popleft()[1](replies)
            if not self._replies:
                self._pass_on_invalidations()

    def _set_binary(self, *, is_binary: bool) -> None:
        """Have the parser return strings as bytes, or as text."""
        self._is_binary = is_binary
        if is_binary:
            self._parser.set_encoding(encoding=None, errors=None)
        else:
            self._parser.set_encoding(encoding="utf-8", errors="replace")

    def _pass_on_invalidations(self) -> None:
        """Report what has changed, now that no pipeline is partly answered."""
        invalidations, self._invalidations = self._invalidations, []
        for keys in invalidations:
            self._on_invalidation(keys)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the pending commands (called by asyncio)."""
        del exc
        for future in self._pending:
            if not future.done():
                future.set_exception(ConnectionLostError(_LOST_REASON))
                future.exception()  # mark it as retrieved: its caller may have been cancelled
        self.redis_py_connection._writer = None  # noqa: SLF001 - redis-py must not close it again
        if not self.lost.done():
            self.lost.set_result(None)


def _as_text(keys: Sequence[str | bytes] | None) -> Sequence[str] | None:
    """Return the keys of an invalidation that arrived between binary replies, too, as text."""
    if keys is None:
        return None
    return [key.decode(errors="replace") if isinstance(key, bytes) else key for key in keys]
