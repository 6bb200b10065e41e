"""The settings and connections of the queue's Redis."""

from dataclasses import dataclass, replace
from typing import Any, Final, cast
from urllib.parse import unquote

from arq.connections import ArqRedis, RedisSettings
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff

from jobstatus.arq.process_settings import ProcessSettings
from jobstatus.errors import SettingsError
from jobstatus.redis_url import RedisMode, RedisUrl, parse_redis_url
from jobstatus.storage.credentials import FileCredentials

_SENTINEL_TIMEOUT_SECONDS: Final = 5.0
"""Seconds for one reply of a primary behind Sentinels, since a frozen primary never replies."""


@dataclass
class QueueSettings(RedisSettings):
    """arq's Redis settings, and settings for which arq has no field.

    Attributes:
        sentinel_username: The username for the Sentinels themselves.
        sentinel_password: The password for the Sentinels themselves.
        url_file: The file from which the URL was read. The username and password in it are read
            again for each connection.
    """

    sentinel_username: str | None = None
    sentinel_password: str | None = None
    url_file: str | None = None


def redis_settings(url: str | None = None) -> RedisSettings:
    """Return arq's settings for the queue's Redis.

    Args:
        url: `redis://`, `rediss://`, `unix://` or `redis+sentinel://`, see `jobstatus.redis_url`;
            None: `JOBSTATUS_QUEUE_URL`, else `JOBSTATUS_REDIS_URL`, else arq's own default.

    Raises:
        SettingsError: A setting has an invalid value, or the URL names a Cluster, which refuses
            arq's transactions because their keys belong to different slots.
    """
    settings = ProcessSettings.from_env()
    text = url or settings.queue_url or settings.redis_url
    if text is None:
        return RedisSettings()
    try:
        parsed = parse_redis_url(text)
    except ValueError as error:
        raise SettingsError(f"JOBSTATUS_QUEUE_URL is not valid: {error}") from None
    if parsed.mode is RedisMode.CLUSTER:
        if not (url or settings.queue_url):
            raise SettingsError(
                "JOBSTATUS_QUEUE_URL must be set: JOBSTATUS_REDIS_URL names a Cluster, where the "
                "status can be, and arq's queue can't"
            )
        raise SettingsError(
            "JOBSTATUS_QUEUE_URL must be a single Redis or a Sentinel: arq's queue can't be in a "
            "Cluster; the status (JOBSTATUS_REDIS_URL) can"
        )
    found = _queue_settings(parsed)
    if url is None:
        found.url_file = settings.queue_url_file if settings.queue_url else settings.redis_url_file
    if parsed.tls:
        found.ssl_ca_certs = settings.ca_file
        found.ssl_certfile = settings.cert_file
        found.ssl_keyfile = settings.key_file
        found.ssl_check_hostname = True
    return found


def _queue_settings(url: RedisUrl) -> QueueSettings:
    if url.mode is RedisMode.STANDALONE:
        settings = RedisSettings.from_dsn(url.url)
        password = settings.password and unquote(settings.password)
        return QueueSettings(**vars(replace(settings, password=password)))
    return QueueSettings(
        host=list(url.hosts),
        sentinel=True,
        sentinel_master=url.service,
        database=url.db,
        username=url.username,
        password=url.password,
        ssl=url.tls,
        sentinel_username=url.sentinel_username,
        sentinel_password=url.sentinel_password,
    )


async def reread_login_on_connect(pool: ArqRedis, settings: RedisSettings) -> None:
    """Make each new connection of the pool use the login that is then in the URL's file."""
    file = getattr(settings, "url_file", None)
    if file is not None:
        connections: Any = pool.connection_pool
        await connections.disconnect()  # connections that were made with the first login
        connections.reset()
        options = connections.connection_kwargs
        login = options.pop("username", None), options.pop("password", None)
        options["credential_provider"] = FileCredentials(file, login)


def do_not_retry(pool: ArqRedis, settings: RedisSettings | None) -> None:
    """Have the pool raise the first error of a command, as redis-py does before version 6.

    Later versions retry for several seconds. The worker notices an outage by the error, and then
    waits for its end itself. Retries that the settings ask for are kept.
    """
    names = ("retry", "retry_on_timeout", "retry_on_error")  # since arq 0.26
    if not any(getattr(settings, name, None) for name in names):
        untyped: Any = pool
        untyped.set_retry(Retry(NoBackoff(), 0))


def sentinel_pool(settings: RedisSettings) -> ArqRedis:
    """Return a pool to the primary that the Sentinels name.

    It is made as arq 0.28 makes it, with two things that arq leaves out: timeouts, and TLS files.
    """
    timeouts = {
        "socket_timeout": _SENTINEL_TIMEOUT_SECONDS,
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
    username = getattr(settings, "sentinel_username", None)
    password = getattr(settings, "sentinel_password", None)
    login: dict[str, Any] = {"username": username, "password": password}
    if (file := getattr(settings, "url_file", None)) is not None:
        provider = FileCredentials(file, (username, password), for_sentinels=True)
        login = {"credential_provider": provider}
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


async def close_sentinels(pool: ArqRedis) -> None:
    """Close the connections to the Sentinels, which redis-py leaves open when a pool is closed."""
    connections: Any = pool.connection_pool
    if isinstance(connections, SentinelConnectionPool):
        for sentinel in connections.sentinel_manager.sentinels:
            await sentinel.aclose()
