"""Parsing of the URLs that name a Redis."""

import pytest

from jobstatus.redis_url import RedisMode, RedisUrl, parse_redis_url


@pytest.mark.parametrize(
    ("url", "tls"),
    [("redis://h:1/2", False), ("rediss://u:p@h", True), ("unix:///run/redis.sock?db=2", False)],
)
def test_single_server(url: str, tls: bool) -> None:
    """The URL of a single server is kept for redis-py."""
    assert parse_redis_url(url) == RedisUrl(mode=RedisMode.STANDALONE, url=url, tls=tls)


def test_sentinel() -> None:
    """A URL of Sentinels has their addresses, the service, the database and two logins."""
    url = (
        "rediss+sentinel://user:p%40ss@one:1,two,[::1]:3/main?db=4"
        "&sentinel_username=s&sentinel_password=p%26w"
    )
    assert parse_redis_url(url) == RedisUrl(
        mode=RedisMode.SENTINEL,
        url=url,
        tls=True,
        hosts=(("one", 1), ("two", 26_379), ("::1", 3)),
        service="main",
        db=4,
        username="user",
        password="p@ss",
        sentinel_username="s",
        sentinel_password="p&w",
    )


def test_cluster() -> None:
    """A URL of a Cluster has some nodes and one login; a password may have no user."""
    url = "redis+cluster://:secret@one,two:7"
    assert parse_redis_url(url) == RedisUrl(
        mode=RedisMode.CLUSTER, url=url, hosts=(("one", 6_379), ("two", 7)), password="secret"
    )


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "it must start with one of"),
        ("redis", "it must start with one of"),
        ("http://secret@h", "it must start with one of"),
        ("redis+sentinel://secret@h:1", "must have the name of the service"),
        ("redis+sentinel://h:1/main?db=secret", "db must be a number"),
        ("redis+sentinel://h:1/main?password=secret", "unknown query parameter"),
        ("redis+sentinel://secret@:1/main", "a host is missing"),
        ("redis+cluster://secret@h:1/0", "must have hosts and no path"),
        ("redis+cluster://h:1?db=1", "unknown query parameter"),
        ("redis+cluster://secret@h:99999", "a port must be a number from 0 to 65535"),
        ("redis+cluster://secret@h:x", "a port must be a number from 0 to 65535"),
        ("redis+cluster://secret@h:1,", "a host is missing"),
        ("redis+cluster://", "a host is missing"),
        ("redis://u:TOP/secret@h:1/0", "percent-encode"),
        ("redis://u:TOP#secret@h:1/0", "percent-encode"),
        ("redis://u:TOP?secret=1@h:1/0", "percent-encode"),
        ("redis://h:1/secret", "must be the number of a database"),
        ("redis://h:secret", "a port must be a number from 0 to 65535"),
        ("redis+cluster://u:TOP?secret=1@h:1", "percent-encode"),
        ("redis+sentinel://u:TOP/secret@h:1/main", "percent-encode"),
    ],
)
def test_invalid_urls(url: str, message: str) -> None:
    """The error about an invalid URL is one line without secrets that says what is wrong."""
    with pytest.raises(ValueError, match=message) as error:
        parse_redis_url(url)
    assert "secret" not in str(error.value)
    assert "TOP" not in str(error.value)
    assert "\n" not in str(error.value)
