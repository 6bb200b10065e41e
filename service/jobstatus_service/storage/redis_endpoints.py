"""The servers that a link can connect to: a single server, Sentinel's primary, a Cluster's node.

redis-py connects, because it knows URLs, TLS, logins and Sentinel. Each endpoint has a probe whose
reply shows whether the server is still the one to read from:

- A primary that was cut off and replaced may not know it. So the Sentinels, too, are asked for the
  current primary with every probe.
- A node of a Cluster reports itself that it is cut off, and that the layout may have changed.
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

_PING_COMMAND: Final = b"*1\r\n$4\r\nPING\r\n"
_ROLE_COMMAND: Final = b"*1\r\n$4\r\nROLE\r\n"
_CLUSTER_INFO_COMMAND: Final = b"*2\r\n$7\r\nCLUSTER\r\n$4\r\nINFO\r\n"

_CLUSTER_IS_OK: Final = re.compile(r"cluster_state:ok\b")
_CLUSTER_EPOCH: Final = re.compile(r"cluster_current_epoch:(\d+)")


class Endpoint(Protocol):
    """A server to connect to. After a failover it may be another machine.

    Attributes:
        name: What log lines call the server.
        probe: The command, encoded in RESP, that verifies a connection.
    """

    name: str
    probe: bytes

    async def connect(self, protocol: int, *, is_bare: bool = False) -> Any:
        """Return a new connection object of redis-py, connected.

        Args:
            protocol: The version of RESP: 2 or 3.
            is_bare: Whether to send no command but the login, as some proxies require.

        Raises:
            RedisError, OSError: the server cannot be reached.
        """

    async def is_current(self, redis_py_connection: Any, reply: Any) -> bool:
        """Return whether the reply to the probe shows that this is still the server to read from.

        Args:
            redis_py_connection: The connection that was probed.
            reply: The reply; may be an error.
        """

    async def close(self) -> None:
        """Close the connections that were opened to find the server."""


def endpoint_of(settings: StatusSettings) -> Endpoint:
    """Return the single server, or the primary of Sentinel, that the settings name.

    Raises:
        SettingsError: the URL is not valid.
    """
    address = redis_url_of(settings)
    if address.mode is RedisMode.SENTINEL:
        return SentinelEndpoint(settings, address)
    return StandaloneEndpoint(settings, address)


class StandaloneEndpoint:
    """A server at a fixed address."""

    def __init__(self, settings: StatusSettings, address: RedisUrl) -> None:
        self.name = "Redis"
        self.probe = _PING_COMMAND
        self._pool = cast("Any", ConnectionPool).from_url(
            without_login(address.url), **_options(settings, address), **login(settings, address)
        )

    async def connect(self, protocol: int, *, is_bare: bool = False) -> Any:
        """Connect to the server."""
        return await _connect(self._pool, protocol, is_bare=is_bare)

    async def is_current(self, redis_py_connection: Any, reply: Any) -> bool:
        """Return True: there is no other server."""
        del redis_py_connection, reply
        return True

    async def close(self) -> None:
        """Do nothing: no other connections were opened."""


class SentinelEndpoint:
    """The server that the Sentinels name as the primary."""

    def __init__(self, settings: StatusSettings, address: RedisUrl) -> None:
        self.name = f"the Redis primary {address.service}"
        self.probe = _ROLE_COMMAND
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
        """Connect to the current primary."""
        return await _connect(self._pool, protocol, is_bare=is_bare)

    async def is_current(self, redis_py_connection: Any, reply: Any) -> bool:
        """Return whether it is a primary, and the Sentinels do not name another one.

        If no Sentinel can be asked, the server's own report counts.
        """
        if isinstance(reply, list) and reply[0] != "master":
            return False
        try:
            primary: HostPort = await self._sentinel.discover_master(self._service)
        except (MasterNotFoundError, *REDIS_ERRORS):
            return True
        return primary == (redis_py_connection.host, redis_py_connection.port)

    async def close(self) -> None:
        """Close the connections to the Sentinels."""
        for sentinel in self._sentinel.sentinels:
            await sentinel.aclose()


class ClusterNodeEndpoint:
    """One node of a Cluster."""

    def __init__(
        self,
        settings: StatusSettings,
        address: RedisUrl,
        node: HostPort,
        on_layout_change: Callable[[], None],
    ) -> None:
        """Prepare to connect to a node.

        Args:
            settings: The timeouts, the login and the files for TLS.
            address: The URL of the Cluster.
            node: The host and port of the node.
            on_layout_change: Called when the Cluster's layout may have changed.
        """
        host, port = node
        self.name = f"the Redis Cluster node {host}:{port}"
        self.probe = _CLUSTER_INFO_COMMAND
        self._pool: Any = cast("Any", ConnectionPool)(
            connection_class=SSLConnection if address.tls else Connection,
            host=host,
            port=port,
            **_options(settings, address),
            **named_server(settings, address),
        )
        self._epoch = ""
        self._on_layout_change = on_layout_change

    async def connect(self, protocol: int, *, is_bare: bool = False) -> Any:
        """Connect to the node."""
        return await _connect(self._pool, protocol, is_bare=is_bare)

    async def is_current(self, redis_py_connection: Any, reply: Any) -> bool:
        """Return whether the node reports that the Cluster works.

        A node that is cut off from the Cluster reports that it does not.
        """
        del redis_py_connection
        text = str(reply)
        epoch = _CLUSTER_EPOCH.search(text)
        if epoch is None:  # the user's ACL does not permit CLUSTER INFO
            return True
        if self._epoch not in {"", epoch[1]}:
            self._on_layout_change()
        self._epoch = epoch[1]
        return _CLUSTER_IS_OK.search(text) is not None

    async def close(self) -> None:
        """Do nothing: no other connections were opened."""


def _options(settings: StatusSettings, address: RedisUrl) -> dict[str, Any]:
    return client_options(settings, tls=address.tls) | {
        "client_name": _CLIENT_NAME,
        "retry": Retry(NoBackoff(), 0),
    }


async def _connect(pool: Any, protocol: int, *, is_bare: bool) -> Any:
    pool.connection_kwargs["protocol"] = protocol
    pool.connection_kwargs["client_name"] = None if is_bare else _CLIENT_NAME
    connection = pool.make_connection()
    try:
        await connection.connect()
    except BaseException:
        await connection.disconnect(nowait=True)  # the socket may be open already
        raise
    return connection
