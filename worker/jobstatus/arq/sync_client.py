"""Synchronous clients of the Redis server to which arq's pool is connected."""

import threading
from typing import Any, cast

from arq.connections import ArqRedis
from redis import Redis, Sentinel
from redis.asyncio import SSLConnection, UnixDomainSocketConnection
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.connection import parse_url

from jobstatus.publishing.publisher import Publisher
from jobstatus.redis_url import RedisMode, RedisUrl, parse_redis_url
from jobstatus.settings import PublisherSettings
from jobstatus.storage.client import client_options
from jobstatus.storage.cluster_store import store_for
from jobstatus.storage.credentials import FileCredentials
from jobstatus.storage.store import Store

_LOGIN_OPTIONS = ("username", "password", "db", "credential_provider")


def is_same_redis(pool: ArqRedis, settings: PublisherSettings) -> bool:
    """Return whether the status is stored in the same database as the queue."""
    if settings.redis_url is None:
        return True
    url = parse_redis_url(settings.redis_url)
    if isinstance(pool.connection_pool, SentinelConnectionPool):
        return _is_same_primary(pool.connection_pool, url)
    if url.mode is not RedisMode.STANDALONE:
        return False
    options = cast("Any", parse_url)(settings.redis_url)
    return _database(options) == _database(pool.connection_pool.connection_kwargs)


def _is_same_primary(connections: SentinelConnectionPool, url: RedisUrl) -> bool:
    """Return whether both use a common Sentinel, the same service name and the same database."""
    untyped: Any = connections
    return (
        url.mode is RedisMode.SENTINEL
        and untyped.service_name == url.service
        and bool(set(_sentinel_addresses(connections)) & set(url.hosts))
        and (untyped.connection_kwargs.get("db") or 0) == url.db
    )


def _sentinel_addresses(connections: SentinelConnectionPool) -> list[tuple[str, int]]:
    untyped: Any = connections
    options = [
        sentinel.connection_pool.connection_kwargs
        for sentinel in untyped.sentinel_manager.sentinels
    ]
    return [(each["host"], each["port"]) for each in options]


def _database(options: Any) -> tuple[Any, ...]:
    """Return what identifies a database and its user in the options of a connection."""
    address = options.get("path") or (
        options.get("host") or "localhost",
        options.get("port") or 6379,
    )
    provider = options.get("credential_provider")
    username = (
        provider.username if isinstance(provider, FileCredentials) else options.get("username")
    )
    return (address, options.get("db") or 0, username)


def publisher_for_pool(pool: ArqRedis, settings: PublisherSettings) -> Publisher:
    """Return a publisher to the Redis of the settings, or else to the Redis of the pool."""
    if settings.redis_url is not None:
        return Publisher(store_for(settings), settings)
    return Publisher(Store(sync_client_for_pool(pool, settings)), settings)


def sync_client_for_pool(pool: ArqRedis, settings: PublisherSettings) -> Any:
    """Return a synchronous client of the pool's Redis, with the timeouts of the settings."""
    connections: Any = pool.connection_pool
    kwargs = connections.connection_kwargs
    timeouts = client_options(settings)
    options = timeouts | {k: kwargs[k] for k in _LOGIN_OPTIONS if kwargs.get(k) is not None}
    if issubclass(connections.connection_class, SSLConnection):
        options |= {k: v for k, v in kwargs.items() if k.startswith("ssl_")} | {"ssl": True}
    if isinstance(connections, SentinelConnectionPool):
        untyped: Any = connections
        sentinel = cast("Any", Sentinel)(
            _sentinel_addresses(connections),
            sentinel_kwargs=timeouts | (untyped.sentinel_manager.sentinel_kwargs or {}),
        )
        return sentinel.master_for(untyped.service_name, **options)
    if issubclass(connections.connection_class, UnixDomainSocketConnection):
        return Redis(unix_socket_path=kwargs["path"], **options)
    return Redis(host=kwargs.get("host", "localhost"), port=kwargs.get("port", 6379), **options)


class QueueClient:
    """A synchronous client of the queue's Redis, made when a thread first needs it."""

    def __init__(self, pool: ArqRedis, settings: PublisherSettings) -> None:
        self._pool = pool
        self._settings = settings
        self._lock = threading.Lock()
        self._client: Any = None

    def get(self) -> Any:
        """Return the client, the same one for all threads."""
        with self._lock:
            if self._client is None:
                self._client = sync_client_for_pool(self._pool, self._settings)
            return self._client

    def close(self) -> None:
        """Close the client's connections."""
        if self._client is not None:
            self._client.close()
