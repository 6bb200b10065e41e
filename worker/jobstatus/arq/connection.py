"""The publisher's own connection to the Redis that arq's pool speaks to."""

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

_LOGIN = ("username", "password", "db", "credential_provider")


def is_same_redis(pool: ArqRedis, settings: PublisherSettings) -> bool:
    """Whether the status is kept in the very database that the queue is in."""
    if settings.redis_url is None:
        return True
    address = parse_redis_url(settings.redis_url)
    if isinstance(pool.connection_pool, SentinelConnectionPool):
        return _is_primary_of(pool.connection_pool, address)
    if address.mode is not RedisMode.STANDALONE:
        return False
    return _place(cast("Any", parse_url)(settings.redis_url)) == _place(
        pool.connection_pool.connection_kwargs
    )


def _is_primary_of(pool: SentinelConnectionPool, address: RedisUrl) -> bool:
    """Whether the same Sentinels are asked for the same service, and the database is the same."""
    known: Any = pool
    sentinels = {
        (kwargs["host"], kwargs["port"])
        for kwargs in (
            s.connection_pool.connection_kwargs for s in known.sentinel_manager.sentinels
        )
    }
    return (
        address.mode is RedisMode.SENTINEL
        and known.service_name == address.service
        and bool(sentinels & set(address.hosts))
        and (known.connection_kwargs.get("db") or 0) == address.db
    )


def _place(kwargs: Any) -> tuple[Any, ...]:
    path = kwargs.get("path")
    address = path or (kwargs.get("host") or "localhost", kwargs.get("port") or 6379)
    provider = kwargs.get("credential_provider")
    username = (
        provider.username if isinstance(provider, FileCredentials) else kwargs.get("username")
    )
    return (address, kwargs.get("db") or 0, username)


def publisher_for_pool(pool: ArqRedis, settings: PublisherSettings) -> Publisher:
    """A publisher to where the settings say, else to the Redis of the pool."""
    if settings.redis_url is not None:
        return Publisher(store_for(settings), settings)
    return Publisher(Store(sync_client_for_pool(pool, settings)), settings)


def sync_client_for_pool(pool: ArqRedis, settings: PublisherSettings) -> Any:
    """A sync client to the pool's Redis, with timeouts of its own."""
    connections: Any = pool.connection_pool
    kwargs = connections.connection_kwargs
    timeouts = client_options(settings)
    options = timeouts | {k: kwargs[k] for k in _LOGIN if kwargs.get(k) is not None}
    if issubclass(connections.connection_class, SSLConnection):
        options |= {k: v for k, v in kwargs.items() if k.startswith("ssl_")} | {"ssl": True}
    if isinstance(connections, SentinelConnectionPool):
        manager = connections.sentinel_manager
        addresses = [
            (
                s.connection_pool.connection_kwargs["host"],
                s.connection_pool.connection_kwargs["port"],
            )
            for s in manager.sentinels
        ]
        known = timeouts | (manager.sentinel_kwargs or {})
        sentinel = cast("Any", Sentinel)(addresses, sentinel_kwargs=known)
        return sentinel.master_for(connections.service_name, **options)
    if issubclass(connections.connection_class, UnixDomainSocketConnection):
        return Redis(unix_socket_path=kwargs["path"], **options)
    return Redis(host=kwargs.get("host", "localhost"), port=kwargs.get("port", 6379), **options)
