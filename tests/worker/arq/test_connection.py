"""The publisher's own connection is like the pool's, with timeouts of its own."""

import asyncio
import signal
from collections.abc import Callable
from typing import Any

import pytest
from arq.connections import ArqRedis, RedisSettings
from redis.asyncio import ConnectionPool, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.sentinel import Sentinel
from redis.credentials import UsernamePasswordCredentialProvider
from tests.worker.arq.conftest import WorkerProcess, soon

from jobstatus import job_uuid
from jobstatus.arq import create_pool
from jobstatus.arq.connection import is_same_redis, publisher_for_pool
from jobstatus.settings import PublisherSettings

SETTINGS = PublisherSettings(timeout=0.7, connect_timeout=0.3)


def connection_of(pool: ArqRedis) -> Any:
    """A connection as the publisher would make it; it is not connected."""
    publisher: Any = publisher_for_pool(pool, SETTINGS)
    return publisher._store._redis.connection_pool.make_connection()


def arq(**options: Any) -> ArqRedis:
    return ArqRedis(ConnectionPool(**options))


def test_address_and_login() -> None:
    """Host, port, database and login are the pool's; every timeout is set."""
    connection = connection_of(arq(host="h", port=7, db=3, username="u", password="p"))
    assert (connection.host, connection.port, connection.db) == ("h", 7, 3)
    assert (connection.username, connection.password) == ("u", "p")
    assert (connection.socket_timeout, connection.socket_connect_timeout) == (0.7, 0.3)


def test_credential_provider() -> None:
    """Credentials that rotate are asked for where the pool asks."""
    provider = UsernamePasswordCredentialProvider("u", "p")
    assert (
        connection_of(arq(host="h", credential_provider=provider)).credential_provider is provider
    )


def test_unix_socket() -> None:
    """A unix socket stays one."""
    pool = arq(connection_class=UnixDomainSocketConnection, path="/run/redis.sock", db=2)
    connection = connection_of(pool)
    assert (connection.path, connection.db) == ("/run/redis.sock", 2)


def test_tls() -> None:
    """TLS stays TLS, with its files."""
    pool = arq(
        connection_class=SSLConnection, host="h", ssl_ca_certs="/ca", ssl_cert_reqs="required"
    )
    connection = connection_of(pool)
    assert type(connection).__name__ == "SSLConnection"
    assert connection.ca_certs == "/ca"


@pytest.mark.parametrize("tls", [False, True])
def test_sentinel(tls: bool) -> None:
    """Behind Sentinel the primary is looked up as the pool does, in bounded time, by TLS or not."""
    options = {"ssl": True, "ssl_ca_certs": "/ca"} if tls else {}
    sentinel: Any = Sentinel([("s1", 26379), ("s2", 26380)])  # type: ignore[no-untyped-call]
    pool = sentinel.master_for("mymaster", redis_class=ArqRedis, **options)
    publisher: Any = publisher_for_pool(pool, SETTINGS)
    connections = publisher._store._redis.connection_pool
    assert connections.service_name == "mymaster"
    assert ("SSL" in connections.connection_class.__name__) == tls
    connections.make_connection()
    for client in connections.sentinel_manager.sentinels:
        kwargs = client.connection_pool.connection_kwargs
        assert kwargs["socket_timeout"] == 0.7
    assert not is_same_redis(pool, PublisherSettings(redis_url="redis://h/0"))


def test_same_place() -> None:
    """A URL that names the queue's own database is the same Redis; any other isn't."""
    pool = arq(host="h", port=6379, db=0)
    assert is_same_redis(pool, PublisherSettings())
    assert is_same_redis(pool, PublisherSettings(redis_url="redis://h:6379/0"))
    assert not is_same_redis(pool, PublisherSettings(redis_url="redis://h:6379/1"))
    assert not is_same_redis(pool, PublisherSettings(redis_url="redis://u@h:6379/0"))


async def test_same_server_by_another_name(
    redis_url: str, redis: Any, spawn: Callable[..., WorkerProcess]
) -> None:
    """Where queue and status are one Redis under two names, no healthy job is said to be lost."""
    status = PublisherSettings(redis_url=redis_url.replace("127.0.0.1", "localhost"))
    pool = await create_pool(RedisSettings.from_dsn(redis_url), status=status)
    worker = spawn(
        "WorkerSettings", TEST_REDIS_URL=redis_url, JOBSTATUS_REDIS_URL=status.redis_url or ""
    )
    jobs = [await pool.enqueue_job("add", n, 1) for n in range(30)]
    keys = [f"job:{job_uuid(job.job_id)}" for job in jobs if job is not None]
    await soon(lambda: {redis.hget(key, "state") for key in keys} == {"succeeded"})
    await pool.aclose()
    worker.send(signal.SIGTERM)
    _, output = await asyncio.to_thread(worker.end)
    assert "taken over" not in output
