"""Keep a connection to one server open, and verify it with probes.

The link sends a probe (PING, or a command that also shows the server's role) several times within
the staleness bound. When a probe is answered, every invalidation up to the moment it was sent has
arrived. Therefore cached responses are valid until the bound has passed since that moment.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Final

from jobstatus_service.settings import ServiceSettings
from jobstatus_service.storage.connection import (
    TIMEOUT_REASON,
    ConnectionLostError,
    OnInvalidation,
    RedisConnection,
    ReplyError,
)
from jobstatus_service.storage.redis_endpoints import Endpoint

_PROBES_PER_STALENESS_BOUND: Final = 4

_MIN_RECONNECT_DELAY_SECONDS: Final = 0.02
_MAX_RECONNECT_DELAY_SECONDS: Final = 0.5

_STALL_GRACE_SECONDS: Final = 0.01
"""How much longer to wait for a reply: it may have arrived while this process was stalled."""

_NOT_CURRENT: Final = "the server is no longer the primary, or is cut off from its Cluster"

_log = logging.getLogger("jobstatus.service")


class UnavailableError(Exception):
    """Redis cannot answer in time."""


class Verification:
    """Until when invalidations of a link are known to be complete.

    Attributes:
        valid_until: Until then, by the monotonic clock, cached responses may be served.
    """

    __slots__ = ("valid_until",)

    def __init__(self) -> None:
        self.valid_until = float("-inf")


class Link:
    """Keeps a connection to one server open. Belongs to one event loop.

    Attributes:
        connection: The open connection; None while there is none.
        is_tracking: Whether Redis reports changes of the keys that are read.
        verification: Until when cached responses are valid.
        has_connected: Whether a connection has ever been opened.
        fault: Why there is no connection, or why the last one was lost.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        settings: ServiceSettings,
        on_invalidation: OnInvalidation,
        on_connected: Callable[[], None],
        on_lost: Callable[[str], None],
    ) -> None:
        """Prepare a link. Call `start` to connect it.

        Args:
            endpoint: The server to connect to.
            settings: The timeouts and the staleness bound.
            on_invalidation: Called with the keys that have changed; with None when any key may
                have changed, which includes every loss of the connection.
            on_connected: Called when a connection has been opened.
            on_lost: Called when it was lost, with the reason.
        """
        self.connection: RedisConnection | None = None
        self.is_tracking = self.has_connected = False
        self.verification = Verification()
        self.fault = "it has not been connected yet"
        self._endpoint = endpoint
        self._settings = settings
        self._on_invalidation = on_invalidation
        self._on_connected = on_connected
        self._on_lost = on_lost
        self._connected = asyncio.Event()
        self._down_since = float("-inf")  # monotonic
        self._is_closing = False  # asyncio.wait_for in Python 3.11 may swallow a cancellation
        self._task: asyncio.Task[None] | None = None

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection."""
        return self._connected.is_set()

    def is_down_for(self, seconds: float) -> bool:
        """Return whether there has been no connection for at least this long."""
        return self.connection is None and time.monotonic() - self._down_since >= seconds

    def timeout_reason(self) -> str:
        """Return why a reply did not arrive in time."""
        return TIMEOUT_REASON if self.is_connected else self.fault

    def start(self) -> None:
        """Connect, and reconnect whenever the connection is lost."""
        self._down_since = time.monotonic()
        self._task = asyncio.get_running_loop().create_task(self._stay_connected())

    async def close(self) -> None:
        """Close the connection, and do not reconnect."""
        self._is_closing = True
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._endpoint.close()

    async def connected(self) -> RedisConnection:
        """Wait for a connection, and return it."""
        while self.connection is None:
            await self._connected.wait()
        return self.connection

    async def ping(self) -> None:
        """Wait until Redis answers a probe.

        Raises:
            UnavailableError: it does not answer within the timeout, or refuses the command.
        """
        try:
            async with asyncio.timeout(self._settings.timeout):
                connection = await self.connected()
                reply = await connection.execute(self._endpoint.probe)
        except TimeoutError:
            raise UnavailableError(self.timeout_reason()) from None
        except ConnectionLostError as error:
            raise UnavailableError(str(error)) from None
        if isinstance(reply, ReplyError):
            raise UnavailableError(str(reply))

    async def _stay_connected(self) -> None:
        """Connect, verify the connection until it is lost, and reconnect, until closed."""
        delay = _MIN_RECONNECT_DELAY_SECONDS
        while not self._is_closing:
            try:
                connection = await self._connect()
            except ConnectionLostError as error:
                if str(error) != self.fault:
                    _log.warning(
                        "cannot connect to %s, which JOBSTATUS_REDIS_URL names, retrying: %s",
                        self._endpoint.name,
                        error,
                    )
                self.fault = str(error)
                await asyncio.sleep(delay)
                delay = min(2 * delay, _MAX_RECONNECT_DELAY_SECONDS)
                continue
            connected_at = time.monotonic()
            try:
                self._begin(connection)
                await self._verify_until_lost(connection)
            finally:
                self._end(connection)
            if time.monotonic() - connected_at > _MAX_RECONNECT_DELAY_SECONDS:
                delay = _MIN_RECONNECT_DELAY_SECONDS
            else:
                delay = min(2 * delay, _MAX_RECONNECT_DELAY_SECONDS)
            await asyncio.sleep(delay)

    async def _connect(self) -> RedisConnection:
        """Connect, and probe that this is the server to read from.

        Raises:
            ConnectionLostError: it cannot be reached, or is not the server to read from.
        """
        connection = await RedisConnection.connect(
            self._endpoint, self._settings, self._on_invalidation
        )
        is_current = False
        try:
            async with asyncio.timeout(self._settings.timeout):
                reply = await connection.execute(self._endpoint.probe)
                is_current = await self._endpoint.is_current(connection.redis_py_connection, reply)
        except TimeoutError:
            raise ConnectionLostError(TIMEOUT_REASON) from None
        finally:
            if not is_current:
                connection.close()
        if not is_current:
            raise ConnectionLostError(_NOT_CURRENT)
        return connection

    def _begin(self, connection: RedisConnection) -> None:
        self.connection = connection
        self.is_tracking = connection.is_tracking
        self.has_connected = True
        self._connected.set()
        self._log_connected(connection)
        self._on_connected()

    def _log_connected(self, connection: RedisConnection) -> None:
        if connection.is_tracking:
            cache = "the response cache is on"
        elif self._settings.cache_bytes:
            cache = (
                "the response cache is off, so every read asks Redis: the server or a proxy lacks "
                "RESP3 or CLIENT TRACKING, or the user's ACL lacks +client|tracking"
            )
        else:
            cache = "the response cache is off, as JOBSTATUS_CACHE_SIZE says"
        _log.info("connected to %s; %s", self._endpoint.name, cache)
        if not connection.has_time:
            _log.warning(
                "%s does not answer the command TIME, so leases expire by this machine's clock: "
                "keep it synchronized with the clock of Redis",
                self._endpoint.name,
            )

    def _end(self, connection: RedisConnection) -> None:
        connection.close()
        self.connection = None
        self._connected.clear()
        self._down_since = time.monotonic()
        self.fault = "the connection was lost"
        self.verification.valid_until = float("-inf")
        if not self._is_closing:
            _log.warning("lost the connection to %s, reconnecting", self._endpoint.name)
        self._on_lost(self.fault)
        self._on_invalidation(None)

    async def _verify_until_lost(self, connection: RedisConnection) -> None:
        """Probe the server at intervals.

        Return when the connection is lost, when a probe is not answered within the staleness bound,
        or when the server is no longer the one to read from.
        """
        bound = self._settings.max_staleness
        while not (connection.lost.done() or self._is_closing):
            sent_at = time.monotonic()
            probe = connection.execute(self._endpoint.probe)
            await asyncio.wait((probe,), timeout=bound)
            if not probe.done():
                await asyncio.wait((probe,), timeout=_STALL_GRACE_SECONDS)
            if not probe.done():
                _log.warning(
                    "%s did not answer for %g s, disconnecting", self._endpoint.name, bound
                )
                return
            if probe.exception() is not None:
                return
            reply = probe.result()
            if not await self._endpoint.is_current(connection.redis_py_connection, reply):
                _log.warning("disconnecting from %s: %s", self._endpoint.name, _NOT_CURRENT)
                return
            if self.is_tracking and not isinstance(reply, ReplyError):
                self.verification.valid_until = sent_at + bound
            await asyncio.wait((connection.lost,), timeout=bound / _PROBES_PER_STALENESS_BOUND)
