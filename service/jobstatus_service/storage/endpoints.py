"""The servers that a link may go to: how each is connected to, and what proves that it is still it.

redis-py connects: URLs, TLS, passwords, Sentinel. A Sentinel's primary may be frozen or cut off and
replaced without knowing it, so the Sentinels are asked as often as the connection is proven; a node
of a Cluster says itself when it is out of the Cluster, and when the layout has changed.
"""

import re
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

from redis.asyncio import Connection, ConnectionPool, SSLConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff

from jobstatus.redis_url import HostPort, RedisMode, RedisUrl
from jobstatus.settings import StatusSettings
from jobstatus.storage.client import (
    client_options,
    login,
    named_server,
    redis_url_of,
    sentinel_options,
)
from jobstatus.storage.credentials import without_login
from jobstatus.storage.refusals import REDIS_ERRORS

_CLIENT_NAME: Final = "jobstatus-service"

_PING: Final = b"*1\r\n$4\r\nPING\r\n"
_ROLE: Final = b"*1\r\n$4\r\nROLE\r\n"
_INFO: Final = b"*2\r\n$7\r\nCLUSTER\r\n$4\r\nINFO\r\n"

_IS_OK = re.compile(r"cluster_state:ok\b")
_EPOCH = re.compile(r"cluster_current_epoch:(\d+)")


class Endpoint(Protocol):
    """One server, which may be another one after a failover.

    Attributes:
        probe: The command, in RESP, whose reply proves that it lives.
    """

    probe: bytes

    async def connect(self, protocol: int, *, is_bare: bool = False) -> Any:
        """A connection of redis-py's, connected.

        Args:
            protocol: RESP2 or 3.
            is_bare: Whether to log in and nothing else, as a proxy may need.

        Raises:
            RedisError, OSError: it can't be reached.
        """

    async def stands(self, connection: Any, reply: Any) -> bool:
        """Whether the reply to the probe says that this is still the server to ask."""

    async def close(self) -> None:
        """Close what was opened to find it."""


def endpoint_of(settings: StatusSettings) -> Endpoint:
    """The server, or what Sentinel says is it.

    Raises:
        SettingsError: the URL can't be used.
    """
    address = redis_url_of(settings)
    if address.mode is RedisMode.SENTINEL:
        return SentinelEndpoint(settings, address)
    return StandaloneEndpoint(settings, address)


class StandaloneEndpoint:
    """A server that is where it is."""

    def __init__(self, settings: StatusSettings, address: RedisUrl) -> None:
        self.probe = _PING
        options = _options(settings, address)
        self._pool = cast("Any", ConnectionPool).from_url(
            without_login(address.url), **options, **login(settings, address)
        )

    async def connect(self, protocol: int, *, is_bare: bool = False) -> Any:
        """A connection, connected."""
        return await _connected(self._pool, protocol, is_bare=is_bare)

    async def stands(self, connection: Any, reply: Any) -> bool:
        """It does."""
        del connection, reply
        return True

    async def close(self) -> None:
        """Nothing was."""


class SentinelEndpoint:
    """Whoever the Sentinels say is the primary."""

    def __init__(self, settings: StatusSettings, address: RedisUrl) -> None:
        self.probe = _ROLE
        options = _options(settings, address)
        self._service = address.service
        self._sentinel: Any = cast("Any", Sentinel)(
            address.hosts, sentinel_kwargs=sentinel_options(settings, address, options)
        )
        self._pool: Any = cast("Any", SentinelConnectionPool)(
            address.service,
            self._sentinel,
            ssl=address.tls,
            **options,
            **named_server(settings, address),
        )

    async def connect(self, protocol: int, *, is_bare: bool = False) -> Any:
        """A connection to the primary, connected."""
        return await _connected(self._pool, protocol, is_bare=is_bare)

    async def stands(self, connection: Any, reply: Any) -> bool:
        """Whether it is a primary, and the Sentinels, if one can be asked, name no other."""
        if isinstance(reply, list) and reply[0] != "master":
            return False
        try:
            named: HostPort = await self._sentinel.discover_master(self._service)
        except (MasterNotFoundError, *REDIS_ERRORS):
            return True
        return named == (connection.host, connection.port)

    async def close(self) -> None:
        """Let the Sentinels go."""
        for sentinel in self._sentinel.sentinels:
            await sentinel.aclose()


class ClusterNodeEndpoint:
    """One node of a Cluster."""

    def __init__(
        self,
        settings: StatusSettings,
        address: RedisUrl,
        node: HostPort,
        layout_changed: Callable[[], None],
    ) -> None:
        """A node.

        Args:
            settings: How it is spoken to.
            address: The Cluster's.
            node: Where it is.
            layout_changed: Called when the Cluster's layout may have changed.
        """
        self.probe = _INFO
        host, port = node
        mode = SSLConnection if address.tls else Connection
        options = _options(settings, address) | named_server(settings, address)
        self._pool: Any = cast("Any", ConnectionPool)(
            connection_class=mode, host=host, port=port, **options
        )
        self._epoch = ""
        self._layout_changed = layout_changed

    async def connect(self, protocol: int, *, is_bare: bool = False) -> Any:
        """A connection, connected."""
        return await _connected(self._pool, protocol, is_bare=is_bare)

    async def stands(self, connection: Any, reply: Any) -> bool:
        """Whether it says that the Cluster is well: one that was cut off from it doesn't."""
        del connection
        text = str(reply)
        found = _EPOCH.search(text)
        if found is None:  # it may not say
            return True
        if self._epoch not in {"", found[1]}:
            self._layout_changed()
        self._epoch = found[1]
        return _IS_OK.search(text) is not None

    async def close(self) -> None:
        """Nothing was."""


def _options(settings: StatusSettings, address: RedisUrl) -> dict[str, Any]:
    return client_options(settings, tls=address.tls) | {
        "client_name": _CLIENT_NAME,
        "retry": Retry(NoBackoff(), 0),
    }


async def _connected(pool: Any, protocol: int, *, is_bare: bool) -> Any:
    pool.connection_kwargs["protocol"] = protocol
    pool.connection_kwargs["client_name"] = None if is_bare else _CLIENT_NAME
    connection = pool.make_connection()
    try:
        await connection.connect()
    except BaseException:
        await connection.disconnect(nowait=True)  # it may stand half
        raise
    return connection
