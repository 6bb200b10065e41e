"""Parsing of the URLs that name a Redis. Pure.

One server: `redis://`, `rediss://` (TLS) or `unix://`, as redis-py parses them. A primary that
Sentinels name: `redis+sentinel://host:port,host:port/service?db=0`. A Cluster:
`redis+cluster://host:port,host:port`. With TLS, the last two begin with `rediss+`.
"""

import re
from enum import StrEnum
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

HostPort = tuple[str, int]

_SINGLE_SCHEMES: Final = ("redis", "rediss", "unix")
_MULTI_SCHEMES: Final = ("redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")
_DEFAULT_PORTS: Final = {"sentinel": 26_379, "cluster": 6_379}
_ESCAPE: Final = "percent-encode / ? # @ : % in a password"

_QUERY_PARAMETERS: Final = {
    "sentinel": {"db", "sentinel_username", "sentinel_password"},
    "cluster": set[str](),
}


class RedisMode(StrEnum):
    """How the server of a key is found."""

    STANDALONE = "standalone"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


class RedisUrl(msgspec.Struct, frozen=True, kw_only=True):
    """A parsed URL.

    Attributes:
        mode: How the server of a key is found.
        url: The URL itself.
        tls: Whether connections use TLS, those to Sentinels included.
        hosts: The Sentinels, or some nodes of the Cluster; empty for a single server.
        service: The name under which the Sentinels know the primary.
        db: The number of the database, with Sentinel.
        username: The user name to log in with; for a single server it is in `url` only.
        password: The password to log in with; for a single server it is in `url` only.
        sentinel_username: The user name to log in to the Sentinels with.
        sentinel_password: The password to log in to the Sentinels with.
    """

    mode: RedisMode
    url: str
    tls: bool = False
    hosts: tuple[HostPort, ...] = ()
    service: str = ""
    db: int = 0
    username: str | None = None
    password: str | None = None
    sentinel_username: str | None = None
    sentinel_password: str | None = None


def parse_redis_url(url: str) -> RedisUrl:
    """Parse a URL.

    Raises:
        ValueError: The URL is not valid; the message contains no secret.
    """
    scheme, _, rest = url.partition("://")
    if scheme in _SINGLE_SCHEMES and rest:
        _check_single(url)
        return RedisUrl(mode=RedisMode.STANDALONE, url=url, tls=scheme == "rediss")
    if scheme not in _MULTI_SCHEMES:
        known = ", ".join(f"{each}://" for each in (*_SINGLE_SCHEMES, *_MULTI_SCHEMES))
        raise ValueError(f"it must start with one of {known}")
    return _parse_multi(url, RedisMode(scheme.partition("+")[2]), tls=scheme.startswith("rediss"))


def _check_single(url: str) -> None:
    """Check a URL that redis-py parses; redis-py's own errors would contain parts of a password."""
    parts = urlsplit(url)
    if parts.fragment or "@" in parts.query or (parts.scheme != "unix" and "@" in parts.path):
        raise ValueError(_ESCAPE)
    if parts.scheme == "unix":
        return
    _parse_host(parts.netloc.rpartition("@")[2] or "localhost", 6_379)
    path = parts.path.strip("/")
    if path and not (path.isascii() and path.isdigit()):
        raise ValueError(f"the path after the host must be the number of a database; {_ESCAPE}")


def _parse_multi(url: str, mode: RedisMode, *, tls: bool) -> RedisUrl:
    rest = url.partition("://")[2]
    netloc = re.split("[/?#]", rest, maxsplit=1)[0]
    # urlsplit is not given the list of hosts: recent versions of Python reject an IPv6 address
    # that is not its beginning.
    parts = urlsplit(f"//hosts{rest.removeprefix(netloc)}")
    login, _, hosts = netloc.rpartition("@")
    username, _, password = login.partition(":")
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    if parts.fragment or "@" in parts.query + parts.path:
        raise ValueError(_ESCAPE)
    if query.keys() - _QUERY_PARAMETERS[mode]:
        known = ", ".join(sorted(_QUERY_PARAMETERS[mode])) or "none"
        raise ValueError(f"unknown query parameter; a {mode} URL may have: {known}")
    service = unquote(parts.path.strip("/"))
    if (mode is RedisMode.SENTINEL) != bool(service):
        must_have = (
            "the name of the service after the hosts"
            if mode is RedisMode.SENTINEL
            else "hosts and no path"
        )
        raise ValueError(f"a {mode} URL must have {must_have}")
    db = query.get("db", "0")
    if not (db.isascii() and db.isdigit()):
        raise ValueError("db must be a number")
    return RedisUrl(
        mode=mode,
        url=url,
        tls=tls,
        hosts=tuple(_parse_host(each, _DEFAULT_PORTS[mode]) for each in hosts.split(",")),
        service=service,
        db=int(db),
        username=unquote(username) or None,
        password=unquote(password) or None,
        sentinel_username=query.get("sentinel_username"),
        sentinel_password=query.get("sentinel_password"),
    )


def _parse_host(text: str, default_port: int) -> HostPort:
    try:
        parts = urlsplit(f"//{text}")
        port = parts.port or default_port
    except ValueError:
        raise ValueError("a port must be a number from 0 to 65535") from None
    if not parts.hostname:
        raise ValueError("a host is missing: write host:port,host:port")
    return parts.hostname, port
