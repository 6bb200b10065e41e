"""The publisher connects as arq's pool does, but with its own timeouts."""

import json
from typing import Any

import pytest
from arq.connections import ArqRedis, RedisSettings
from redis.asyncio import ConnectionPool, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.sentinel import Sentinel
from redis.credentials import UsernamePasswordCredentialProvider
from tests.worker.arq.conftest import Spawn, enqueue_many, soon

from jobstatus import job_uuid
from jobstatus.arq import create_pool
from jobstatus.arq.sync_client import is_same_redis, publisher_for_pool
from jobstatus.settings import PublisherSettings

SETTINGS = PublisherSettings(timeout=0.7, connect_timeout=0.3)


def connection_of(pool: ArqRedis) -> Any:
    """Return a connection that the publisher has made; it is not connected."""
    publisher: Any = publisher_for_pool(pool, SETTINGS)
    return publisher._store._redis.connection_pool.make_connection()


def arq(**options: Any) -> ArqRedis:
    return ArqRedis(ConnectionPool(**options))


def test_address_and_login() -> None:
    """Host, port, database and login are those of the pool, and every timeout is set."""
    connection = connection_of(arq(host="h", port=7, db=3, username="u", password="p"))
    assert (connection.host, connection.port, connection.db) == ("h", 7, 3)
    assert (connection.username, connection.password) == ("u", "p")
    assert (connection.socket_timeout, connection.socket_connect_timeout) == (0.7, 0.3)


def test_credential_provider() -> None:
    """The publisher uses the credential provider of the pool."""
    provider = UsernamePasswordCredentialProvider("u", "p")
    assert (
        connection_of(arq(host="h", credential_provider=provider)).credential_provider is provider
    )


def test_unix_socket() -> None:
    """The publisher of a pool with a Unix socket uses the same socket."""
    pool = arq(connection_class=UnixDomainSocketConnection, path="/run/redis.sock", db=2)
    connection = connection_of(pool)
    assert (connection.path, connection.db) == ("/run/redis.sock", 2)


def test_tls() -> None:
    """The publisher of a pool with TLS uses TLS with the same files."""
    pool = arq(
        connection_class=SSLConnection, host="h", ssl_ca_certs="/ca", ssl_cert_reqs="required"
    )
    connection = connection_of(pool)
    assert type(connection).__name__ == "SSLConnection"
    assert connection.ca_certs == "/ca"


@pytest.mark.parametrize("tls", [False, True])
def test_sentinel(tls: bool) -> None:
    """The publisher of a pool with Sentinels asks the same Sentinels, with timeouts."""
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


def test_is_same_redis() -> None:
    """Only a URL that names the queue's own database and user is the same Redis."""
    pool = arq(host="h", port=6379, db=0)
    assert is_same_redis(pool, PublisherSettings())
    assert is_same_redis(pool, PublisherSettings(redis_url="redis://h:6379/0"))
    assert not is_same_redis(pool, PublisherSettings(redis_url="redis://h:6379/1"))
    assert not is_same_redis(pool, PublisherSettings(redis_url="redis://u@h:6379/0"))


async def test_same_server_under_another_name(redis_url: str, redis: Any, spawn: Spawn) -> None:
    """If queue and status name one Redis differently, no write is taken for another worker's."""
    status = PublisherSettings(redis_url=redis_url.replace("127.0.0.1", "localhost"))
    pool = await create_pool(RedisSettings.from_dsn(redis_url), status=status)
    worker = spawn(JOBSTATUS_REDIS_URL=status.redis_url or "", JOBSTATUS_LOG_FORMAT="json")
    keys = [f"job:{job_uuid(job_id)}" for job_id in await enqueue_many(pool, 30, "add", 1, 2)]
    await soon(lambda: {redis.hget(key, "state") for key in keys} == {"succeeded"})
    await pool.aclose()
    _, output = await worker.stop()
    lines = [json.loads(line) for line in output.splitlines()]
    assert lines
    assert not [line for line in lines if line["level"] != "info"]
