"""The clients of Redis: the URL and the TLS files are checked when they are created."""

from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.sentinel import SentinelConnectionPool

from jobstatus.errors import SettingsError
from jobstatus.redis_url import RedisMode
from jobstatus.settings import PublisherSettings
from jobstatus.storage.client import DEFAULT_URL, client, node_client, redis_url_of


def test_default_url() -> None:
    """Without a URL, Redis is expected on this machine."""
    assert redis_url_of(PublisherSettings()).url == DEFAULT_URL


@pytest.mark.parametrize(
    ("scheme", "query"),
    [
        ("redis", "protocol=9"),
        ("rediss", "ssl_cert_reqs=foo"),
        ("redis", "max_connections=x"),
        ("redis", "sokcet_timeout=1"),
        ("rediss", "health=secret"),
    ],
)
def test_query_that_redis_py_rejects(scheme: str, query: str) -> None:
    """A query that redis-py rejects is an error of one line without the query's values."""
    settings = PublisherSettings(redis_url=f"{scheme}://127.0.0.1:1/0?{query}")
    with pytest.raises(SettingsError, match="JOBSTATUS_REDIS_URL is not valid: ") as error:
        redis_url_of(settings)
    assert "\n" not in str(error.value)
    assert "secret" not in str(error.value)


def test_malformed_tls_file(tmp_path: Path) -> None:
    """A TLS file that is not in PEM form is an error that names the variables."""
    file = tmp_path / "ca.pem"
    file.write_text("not a certificate")
    settings = PublisherSettings(redis_url="rediss://h", ca_file=str(file))
    with pytest.raises(SettingsError, match="JOBSTATUS_REDIS_CA_FILE"):
        client(settings)


@pytest.mark.parametrize("url", ["redis://h:1/2", "unix:///run/redis.sock"])
def test_single_server(url: str) -> None:
    """Every timeout is set, and nothing is retried."""
    settings = PublisherSettings(redis_url=url, timeout=0.3, connect_timeout=0.2)
    options = _options(client(settings))
    assert (options["socket_timeout"], options["retry"]._retries) == (0.3, 0)
    assert options["client_name"] == "jobstatus-publisher"


def test_sentinel() -> None:
    """A URL of Sentinels gives a client of the primary that they name."""
    url = "redis+sentinel://u:p@one:1/main?db=3&sentinel_username=s&sentinel_password=t"
    pool: Any = client(PublisherSettings(redis_url=url)).connection_pool
    assert isinstance(pool, SentinelConnectionPool)
    assert pool.service_name == "main"
    assert (pool.connection_kwargs["db"], pool.connection_kwargs["username"]) == (3, "u")
    (sentinel,) = pool.sentinel_manager.sentinels
    assert _options(sentinel)["username"] == "s"


def test_node_of_a_cluster() -> None:
    """A client of a node has the node's address and the login of the URL."""
    settings = PublisherSettings(redis_url="redis+cluster://u:p@one")
    url = redis_url_of(settings)
    assert url.mode is RedisMode.CLUSTER
    options = _options(node_client(settings, url, ("two", 7)))
    assert (options["host"], options["port"], options["username"]) == ("two", 7, "u")


def _options(redis: Redis) -> dict[str, Any]:
    pool: Any = redis.connection_pool
    options: dict[str, Any] = pool.connection_kwargs
    return options
