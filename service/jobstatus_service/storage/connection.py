"""One connection to Redis over which records are read and changes are told.

redis-py connects (`servers`); from then on the socket is ours, and nobody else speaks to it:
commands go out as bytes, replies and invalidations are handed on in the order in which Redis sent
them.

A pipeline is not atomic: its replies are handed on together, and what Redis said between them
afterwards, so that no word of a change comes before the reply that it makes old. RESP3,
https://github.com/redis/redis-specifications/blob/master/protocol/RESP3.md; tracking,
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
from jobstatus_service.storage.endpoints import Endpoint

Replied = Callable[[Sequence[Any]], None]
"""Takes the replies to what was sent; an error is a reply, of type `ReplyError`."""

Changed = Callable[[Sequence[str] | None], None]
"""Takes the keys that have changed; None: all of them, since they are no longer told."""

ReplyError = hiredis.ReplyError
_TRACK: Final = b"*3\r\n$6\r\nCLIENT\r\n$8\r\nTRACKING\r\n$2\r\nON\r\n"
_TIME: Final = b"*1\r\n$4\r\nTIME\r\n"
_NOTHING: Final = object()


class ConnectionLostError(Exception):
    """Redis can't be reached, or the connection is lost."""


class RedisConnection(asyncio.Protocol):
    """A connection, once it stands. Lost for ever when it is lost.

    Attributes:
        tracks: Whether Redis tells which of the keys that were read here have changed.
        has_time: Whether Redis can be asked for its time.
        lost: Done when the connection is.
        connection: redis-py's, whose socket this is.
    """

    def __init__(self, connection: Any, changed: Changed) -> None:
        self.is_tracking = False
        self.has_time = True
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.connection = connection  # it would close the socket, were it collected
        self._transport: asyncio.Transport = connection._writer.transport  # noqa: SLF001
        self._changed = changed
        self._parser = hiredis.Reader(
            encoding="utf-8", errors="replace", notEnoughData=_NOTHING, replyError=ReplyError
        )
        self._replies: list[Any] = []
        self._between: list[Sequence[str] | None] = []
        self._asked: set[asyncio.Future[Any]] = set()
        self._expected: deque[tuple[int, Replied]] = deque()
        self._transport.set_protocol(self)

    @classmethod
    async def connect(cls, server: Endpoint, settings: ServiceSettings, changed: Changed) -> Self:
        """Connect, and have Redis track what is read if it can and should.

        Args:
            server: Where to.
            settings: How long it may take, and whether tracking is wanted.
            changed: Called with what has changed.

        Raises:
            LostError: Redis can't be reached.
        """
        try:
            async with asyncio.timeout(settings.connect_timeout + settings.timeout):
                return await cls._best(server, settings, changed)
        except (*REDIS_ERRORS, TimeoutError) as error:
            raise ConnectionLostError(str(error) or "Redis did not answer in time") from None

    @classmethod
    async def _best(cls, server: Endpoint, settings: ServiceSettings, changed: Changed) -> Self:
        """The best connection that the server, or a proxy before it, allows.

        A proxy such as twemproxy closes the connection on every command that it doesn't know.
        """
        was_closed = False
        if settings.cache_bytes:
            try:
                return await cls._tracking(server, changed)
            except AuthenticationError:
                raise
            except ResponseError:  # it doesn't know RESP3
                pass
            except (RedisConnectionError, ConnectionLostError):
                was_closed = True
        try:
            connection = cls(await server.connect(2), changed)
            await connection._check_time()
        except AuthenticationError:
            raise
        except (RedisConnectionError, ConnectionLostError):
            connection = cls(await server.connect(2, is_bare=True), changed)
            connection.has_time = False
        if was_closed:
            # Perhaps it was no proxy but Redis, which was just being restarted.
            try:
                better = await cls._tracking(server, changed)
            except (RedisError, ConnectionLostError):
                return connection
            except BaseException:
                connection.close()
                raise
            connection.close()
            return better
        return connection

    @classmethod
    async def _tracking(cls, server: Endpoint, changed: Changed) -> Self:
        """A connection over which Redis reports what has changed, if it may be asked to."""
        connection = cls(await server.connect(3), changed)
        await connection._track()
        return connection

    async def _check_time(self) -> None:
        """See whether the server can be asked for its time.

        Raises:
            LostError: it has closed the connection.
        """
        try:
            reply = await self.ask(_TIME)
        except BaseException:
            self.close()
            raise
        self.has_time = not isinstance(reply, ReplyError)

    async def _track(self) -> None:
        try:
            reply = await self.ask(_TRACK)
        except BaseException:
            self.close()
            raise
        self.is_tracking = not isinstance(reply, ReplyError)

    def send(self, commands: bytes, replies: int, replied: Replied) -> None:
        """Send commands in RESP; `replied` gets their replies, unless the connection is lost."""
        self._expected.append((replies, replied))
        if not self._transport.is_closing():
            self._transport.write(commands)

    def ask(self, command: bytes) -> asyncio.Future[Any]:
        """Send one command; its reply, or a `ConnectionLostError` when the connection is lost."""
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self.lost.done():
            reply.set_exception(ConnectionLostError("the connection was lost"))
            return reply

        def replied(replies: Sequence[Any]) -> None:
            self._asked.discard(reply)
            if not reply.done():
                reply.set_result(replies[0])

        self._asked.add(reply)
        self.send(command, 1, replied)
        return reply

    def close(self) -> None:
        """Drop the connection; what was sent gets no reply."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Take what Redis sent apart, in its order."""
        if self._transport.is_closing():
            return
        self._parser.feed(data)
        while (reply := self._parser.gets()) is not _NOTHING:
            if isinstance(reply, hiredis.PushNotification):
                if reply[0] == "invalidate":
                    self._between.append(reply[1])
            else:
                self._replies.append(reply)
                if len(self._replies) == self._expected[0][0]:
                    replies, self._replies = self._replies, []
                    self._expected.popleft()[1](replies)
            if not self._replies:
                self._tell()

    def _tell(self) -> None:
        """Tell what has changed, now that no reply is waiting for others of its pipeline."""
        between, self._between = self._between, []
        for keys in between:
            self._changed(keys)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits."""
        del exc
        for reply in self._asked:
            if not reply.done():
                reply.set_exception(ConnectionLostError("the connection was lost"))
                reply.exception()  # whoever asked may have gone
        self.connection._writer = None  # noqa: SLF001 - there is nothing to close any more
        if not self.lost.done():
            self.lost.set_result(None)
