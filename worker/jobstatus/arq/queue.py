"""Where arq's queue is: as the environment says, for those whose code doesn't."""

from dataclasses import dataclass, replace
from typing import Any, cast
from urllib.parse import unquote

from arq.connections import ArqRedis, RedisSettings
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool

from jobstatus.arq.settings import ProcessSettings
from jobstatus.errors import SettingsError
from jobstatus.redis_url import RedisMode, RedisUrl, parse_redis_url
from jobstatus.storage.credentials import FileCredentials

_QUIET = 1.5
"""Seconds after a failover for which no job is taken: every worker says first which it has."""

_TIMEOUT = 5.0
"""Seconds that a primary behind Sentinel may take to answer arq: one that is frozen never does."""


@dataclass
class QueueSettings(RedisSettings):
    """arq's settings, and what arq has no place for.

    Attributes:
        sentinel_username: Who logs in to the Sentinels themselves, and `sentinel_password`.
        sentinel_password: With what.
        url_file: The file that the URL was read from: its login is read again for each connection.
    """

    sentinel_username: str | None = None
    sentinel_password: str | None = None
    url_file: str | None = None


def redis_settings(url: str | None = None) -> RedisSettings:
    """Arq's settings of the queue's Redis.

    Args:
        url: `redis://`, `rediss://`, `unix://` or `redis+sentinel://`, see `jobstatus.redis_url`;
            None: `JOBSTATUS_QUEUE_URL`, else `JOBSTATUS_REDIS_URL`, else arq's own default.

    Raises:
        SettingsError: a setting can't be used, or it names a Cluster: arq's transactions have
            keys in many slots, which a Cluster refuses.
    """
    settings = ProcessSettings.from_env()
    text = url or settings.queue_url or settings.redis_url
    if text is None:
        return RedisSettings()
    file = settings.queue_url_file if settings.queue_url else settings.redis_url_file
    try:
        address = parse_redis_url(text)
    except ValueError as error:
        raise SettingsError(f"JOBSTATUS_QUEUE_URL can't be used: {error}") from None
    if address.mode is RedisMode.CLUSTER:
        raise SettingsError(
            "JOBSTATUS_QUEUE_URL: arq's queue can't be in a Cluster: name a single Redis or a "
            "Sentinel; the status (JOBSTATUS_REDIS_URL) can stay there"
        )
    found = _settings(address)
    found.url_file = None if url else file
    if address.tls:
        found.ssl_ca_certs = settings.ca_file
        found.ssl_certfile = settings.cert_file
        found.ssl_keyfile = settings.key_file
        found.ssl_check_hostname = True
    return found


def _settings(address: RedisUrl) -> QueueSettings:
    if address.mode is RedisMode.STANDALONE:
        found = RedisSettings.from_dsn(address.url)
        password = found.password and unquote(found.password)
        return QueueSettings(**vars(replace(found, password=password)))
    return QueueSettings(
        host=list(address.hosts),
        sentinel=True,
        sentinel_master=address.service,
        database=address.db,
        username=address.username,
        password=address.password,
        ssl=address.tls,
        sentinel_username=address.sentinel_username,
        sentinel_password=address.sentinel_password,
    )


async def close_sentinels(pool: ArqRedis) -> None:
    """Close what redis-py leaves open when a pool is closed."""
    connections: Any = pool.connection_pool
    if isinstance(connections, SentinelConnectionPool):
        for sentinel in connections.sentinel_manager.sentinels:
            await sentinel.aclose()


async def reread_login_on_connect(pool: ArqRedis, settings: RedisSettings) -> None:
    """Have each new connection of the pool log in with what the file of the URL holds then."""
    file = getattr(settings, "url_file", None)
    if file is not None:
        connections: Any = pool.connection_pool
        await connections.disconnect()  # those that were made with the first login
        connections.reset()
        options = connections.connection_kwargs
        known = options.pop("username", None), options.pop("password", None)
        options["credential_provider"] = FileCredentials(file, known)


def sentinel_pool(settings: RedisSettings) -> ArqRedis:
    """A pool to the primary that the Sentinels name.

    As arq 0.28 makes it, and with what arq leaves out there: timeouts, and the files of TLS.
    """
    timeouts = {
        "socket_timeout": _TIMEOUT,
        "socket_connect_timeout": settings.conn_timeout,
        "socket_keepalive": True,
    }
    tls: dict[str, Any] = {"ssl": settings.ssl}
    if settings.ssl:
        tls |= {
            "ssl_keyfile": settings.ssl_keyfile,
            "ssl_certfile": settings.ssl_certfile,
            "ssl_cert_reqs": settings.ssl_cert_reqs,
            "ssl_ca_certs": settings.ssl_ca_certs,
            "ssl_check_hostname": settings.ssl_check_hostname,
        }
    known = (
        getattr(settings, "sentinel_username", None),
        getattr(settings, "sentinel_password", None),
    )
    login: dict[str, Any] = {"username": known[0], "password": known[1]}
    if (file := getattr(settings, "url_file", None)) is not None:
        login = {"credential_provider": FileCredentials(file, known, for_sentinels=True)}
    sentinel: Any = cast("Any", Sentinel)(settings.host, sentinel_kwargs=timeouts | tls | login)
    return sentinel.master_for(  # type: ignore[no-any-return]
        settings.sentinel_master,
        redis_class=ArqRedis,
        db=settings.database,
        username=settings.username,
        password=settings.password,
        encoding="utf8",
        **timeouts,
        **tls,
    )
