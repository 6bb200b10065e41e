"""What a URL says of where Redis is, and who has which key of a Cluster."""

import pytest

from jobstatus.redis_url import RedisMode, parse_redis_url


@pytest.mark.parametrize(
    ("url", "tls"),
    [("redis://h:1/2", False), ("rediss://u:p@h", True), ("unix:///run/redis.sock?db=2", False)],
)
def test_one_server(url: str, tls: bool) -> None:
    """A single server's URL is left to redis-py."""
    address = parse_redis_url(url)
    assert (address.mode, address.url, address.tls) == (RedisMode.STANDALONE, url, tls)


def test_sentinel() -> None:
    """Sentinels, the service, the database, and both logins."""
    address = parse_redis_url(
        "rediss+sentinel://user:p%40ss@one:1,two,[::1]:3/main?db=4"
        "&sentinel_username=s&sentinel_password=p%26w"
    )
    assert address.mode is RedisMode.SENTINEL
    assert address.tls
    assert address.hosts == (("one", 1), ("two", 26_379), ("::1", 3))
    assert (address.service, address.db) == ("main", 4)
    assert (address.username, address.password) == ("user", "p@ss")
    assert (address.sentinel_username, address.sentinel_password) == ("s", "p&w")


def test_cluster() -> None:
    """Some nodes, and who logs in; without a name it is the default user's password."""
    address = parse_redis_url("redis+cluster://:secret@one,two:7")
    assert address.mode is RedisMode.CLUSTER
    assert address.hosts == (("one", 6_379), ("two", 7))
    assert (address.username, address.password) == (None, "secret")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "redis",
        "http://secret@h",
        "redis+sentinel://secret@h:1",
        "redis+sentinel://h:1/main?db=secret",
        "redis+sentinel://h:1/main?password=secret",
        "redis+sentinel://secret@:1/main",
        "redis+cluster://secret@h:1/0",
        "redis+cluster://h:1?db=1",
        "redis+cluster://secret@h:99999",
        "redis+cluster://secret@h:x",
        "redis+cluster://secret@h:1,",
        "redis+cluster://",
        "redis://u:TOP/secret@h:1/0",
        "redis://u:TOP#secret@h:1/0",
        "redis://u:TOP?secret=1@h:1/0",
        "redis://h:1/secret",
        "redis://h:secret",
        "redis+cluster://u:TOP?secret=1@h:1",
        "redis+sentinel://u:TOP/secret@h:1/main",
    ],
)
def test_urls_that_cannot_be(url: str) -> None:
    """What can't be used is refused in one line that holds nothing of the URL's secrets."""
    with pytest.raises(ValueError, match=r"\w") as refused:
        parse_redis_url(url)
    assert "secret" not in str(refused.value)
    assert "TOP" not in str(refused.value)
    assert "\n" not in str(refused.value)
