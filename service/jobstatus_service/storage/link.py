"""The link to Redis: connected again whenever it is lost, and proven to live.

It is proven with a ping several times within the staleness bound: until the bound has passed since
the last ping that was answered, every change that Redis knew of has been told.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Final, cast

from jobstatus_service.settings import ServiceSettings
from jobstatus_service.storage.connection import (
    Changed,
    ConnectionLostError,
    RedisConnection,
    ReplyError,
)
from jobstatus_service.storage.endpoints import Endpoint

_PINGS: Final = 4
"""Proofs within one staleness bound."""

_BACKOFF: Final = (0.02, 0.5)
"""Seconds before connecting again: the first, and the longest."""

_ANOTHER: Final = "another server has taken over, or this one is out of its Cluster"

_NEAR: Final = "it tells what changes, so the near cache is on"
_FAR: Final = "it doesn't tell what changes, so the near cache is off"
_NO_TIME: Final = "; it doesn't tell the time, so leases are judged by this machine's clock"

_log = logging.getLogger("jobstatus.service")


class UnavailableError(Exception):
    """Redis can't answer in time."""


class Verification:
    """Until when a link is trusted.

    Attributes:
        until: Until when, on the monotonic clock, all changes are known to have been told.
    """

    __slots__ = ("valid_until",)

    def __init__(self) -> None:
        self.valid_until = float("-inf")


class Link:
    """The way to one server. Belongs to one event loop.

    Attributes:
        wire: The connection, while there is one.
        tracks: Whether Redis tells what of that which was read has changed.
        proof: Until when that is believed.
        was_up: Whether there has ever been a connection.
        fault: Why there is no connection, or why the last one was lost.
    """

    def __init__(
        self,
        server: Endpoint,
        settings: ServiceSettings,
        changed: Changed,
        up: Callable[[], None],
        down: Callable[[str], None],
    ) -> None:
        """A link that connects when it is started.

        Args:
            server: Where it goes.
            settings: How long it may take.
            changed: Called with the keys that have changed; with None when that holds for all,
                or is not known any more.
            up: Called when a connection stands.
            down: Called when it is lost, with the reason.
        """
        self.connection: RedisConnection | None = None
        self.is_tracking = self.has_connected = False
        self.verification = Verification()
        self.fault = "it was not asked yet"
        self._server = server
        self._settings = settings
        self._changed = changed
        self._tell_up = up
        self._tell_down = down
        self._up = asyncio.Event()
        self._down_since = float("-inf")
        self._closing = False  # a cancellation may be lost: asyncio.wait_for in Python 3.11
        self._keeping: asyncio.Task[None] | None = None

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection."""
        return self._up.is_set()

    def is_down_for(self, seconds: float) -> bool:
        """Whether there was no connection for so long."""
        return self.connection is None and time.monotonic() - self._down_since >= seconds

    def late(self) -> str:
        """Why an answer did not come in time."""
        return "Redis did not answer in time" if self.is_connected else self.fault

    def start(self) -> None:
        """Connect, and stay connected."""
        self._down_since = time.monotonic()
        self._keeping = asyncio.get_running_loop().create_task(self._keep())

    async def close(self) -> None:
        """Close the connection."""
        self._closing = True
        if self._keeping is not None:
            self._keeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeping
        await self._server.close()

    async def ping(self) -> None:
        """See whether Redis answers.

        Raises:
            UnavailableError: it doesn't, in time.
        """
        try:
            async with asyncio.timeout(self._settings.timeout):
                await self._up.wait()
                reply = await cast("RedisConnection", self.connection).ask(self._server.probe)
        except TimeoutError:
            raise UnavailableError(self.late()) from None
        except ConnectionLostError as error:
            raise UnavailableError(str(error)) from None
        if isinstance(reply, ReplyError):
            raise UnavailableError(str(reply))

    async def _keep(self) -> None:
        """Connect, watch over the connection until it is lost, and connect again, for ever."""
        least, most = _BACKOFF
        pause = least
        while not self._closing:
            try:
                connection = await self._connect()
            except ConnectionLostError as error:
                if str(error) != self.fault:
                    _log.warning("Redis can't be reached: %s", error)
                self.fault = str(error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, most)
                continue
            began_at = time.monotonic()
            try:
                self._rise(connection)
                await self._prove(connection)
            finally:
                self._fall(connection)
            pause = least if time.monotonic() - began_at > most else min(2 * pause, most)
            await asyncio.sleep(pause)

    async def _connect(self) -> RedisConnection:
        """A connection to a server that says that it is the one to ask.

        Raises:
            LostError: there is none.
        """
        connection = await RedisConnection.connect(self._server, self._settings, self._changed)
        stands = False
        try:
            async with asyncio.timeout(self._settings.timeout):
                reply = await connection.ask(self._server.probe)
                stands = await self._server.stands(connection.connection, reply)
        except TimeoutError:
            raise ConnectionLostError("Redis did not answer in time") from None
        finally:
            if not stands:
                connection.close()
        if not stands:
            raise ConnectionLostError(_ANOTHER)
        return connection

    def _rise(self, connection: RedisConnection) -> None:
        self.connection = connection
        self.is_tracking = connection.is_tracking
        self._up.set()
        what = (_NEAR if self.is_tracking else _FAR) + ("" if connection.has_time else _NO_TIME)
        _log.info("connected to Redis; %s", what)
        self.has_connected = True
        self._tell_up()

    def _fall(self, connection: RedisConnection) -> None:
        connection.close()
        self.connection = None
        self._up.clear()
        self._down_since = time.monotonic()
        self.fault = "the connection was lost"
        self.verification.valid_until = float("-inf")
        if not self._closing:
            _log.warning("the connection to Redis was lost")
        self._tell_down(self.fault)
        self._changed(None)

    async def _prove(self, connection: RedisConnection) -> None:
        """Probe until the connection is lost, doesn't answer in time, or it is the wrong server."""
        bound = self._settings.max_staleness
        while not (connection.lost.done() or self._closing):
            sent = time.monotonic()
            ping = connection.ask(self._server.probe)
            await asyncio.wait((ping,), timeout=bound)
            if not ping.done():
                # Perhaps it was this process that stood still, and the answer is here already.
                await asyncio.wait((ping,), timeout=0.01)
            if not ping.done() or ping.exception() is not None:
                return
            if not await self._server.stands(connection.connection, ping.result()):
                _log.warning(_ANOTHER)
                return
            if self.is_tracking and not isinstance(ping.result(), ReplyError):
                self.verification.valid_until = sent + bound
            await asyncio.wait((connection.lost,), timeout=bound / _PINGS)
