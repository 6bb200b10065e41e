"""Where Redis is: what a URL says. Pure.

One server, `redis://`, `rediss://` (TLS) or `unix://`, as redis-py reads them; a primary that
Sentinel names, `redis+sentinel://host:port,host:port/service?db=0`; or a Cluster,
`redis+cluster://host:port,host:port`. The last two with TLS begin with `rediss+`.
"""

from enum import StrEnum
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

HostPort = tuple[str, int]

_SINGLE: Final = ("redis", "rediss", "unix")
_MANY: Final = ("redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")
_PORT: Final = {"sentinel": 26_379, "cluster": 6_379}
_ESCAPE: Final = "percent-encode / ? # @ : in a password"

_QUERY: Final = {
    "sentinel": {"db", "sentinel_username", "sentinel_password"},
    "cluster": set[str](),
}


class RedisMode(StrEnum):
    """How the server is found."""

    STANDALONE = "standalone"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


class RedisUrl(msgspec.Struct, frozen=True, kw_only=True):
    """Where Redis is.

    Attributes:
        kind: How the server is found.
        url: The URL.
        tls: Whether it is spoken to over TLS; Sentinels too.
        hosts: Sentinels, or some nodes of the Cluster; none of a single server.
        service: The name by which the Sentinels know the primary.
        db: The database's number, behind Sentinel.
        username: Who logs in, and `password`; of a single server the URL says so.
        password: With what.
        sentinel_username: Who logs in to the Sentinels, and `sentinel_password`.
        sentinel_password: With what.
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
    """Read a URL.

    Raises:
        ValueError: it can't be used; the message holds no secret.
    """
    scheme, _, rest = url.partition("://")
    if scheme in _SINGLE and rest:
        _check_single(url)
        return RedisUrl(mode=RedisMode.STANDALONE, url=url, tls=scheme == "rediss")
    if scheme not in _MANY:
        known = ", ".join(f"{each}://" for each in (*_SINGLE, "redis+sentinel", "redis+cluster"))
        raise ValueError(f"must start with one of {known}; with TLS rediss")
    return _of_many(url, RedisMode(scheme.partition("+")[2]), tls=scheme.startswith("rediss"))


def _check_single(url: str) -> None:
    """See whether redis-py can use a URL; its own words would hold parts of a password."""
    parts = urlsplit(url)
    if parts.fragment or "@" in parts.query or (parts.scheme != "unix" and "@" in parts.path):
        raise ValueError(_ESCAPE)
    if parts.scheme == "unix":
        return
    _host(parts.netloc.rpartition("@")[2] or "localhost", 6_379)
    path = parts.path.strip("/")
    if path and not (path.isascii() and path.isdigit()):
        raise ValueError(f"what follows the host is no database's number; {_ESCAPE}")


def _of_many(url: str, mode: RedisMode, *, tls: bool) -> RedisUrl:
    parts = urlsplit(url)
    login, _, hosts = parts.netloc.rpartition("@")
    username, _, password = login.partition(":")
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    if parts.fragment or "@" in parts.query + parts.path:
        raise ValueError(_ESCAPE)
    if query.keys() - _QUERY[mode]:
        known = ", ".join(sorted(_QUERY[mode])) or "nothing"
        raise ValueError(f"after the ? of a {mode} may stand {known}")
    service = unquote(parts.path.strip("/"))
    if (mode is RedisMode.SENTINEL) != bool(service):
        wanted = (
            "the service's name after the hosts" if mode is RedisMode.SENTINEL else "hosts only"
        )
        raise ValueError(f"a {mode} has {wanted}")
    db = query.get("db", "0")
    if not (db.isascii() and db.isdigit()):
        raise ValueError("db must be a number")
    return RedisUrl(
        mode=mode,
        url=url,
        tls=tls,
        hosts=tuple(_host(each, _PORT[mode]) for each in hosts.split(",")),
        service=service,
        db=int(db),
        username=unquote(username) or None,
        password=unquote(password) or None,
        sentinel_username=query.get("sentinel_username"),
        sentinel_password=query.get("sentinel_password"),
    )


def _host(text: str, default_port: int) -> HostPort:
    try:
        parts = urlsplit(f"//{text}")
        port = parts.port or default_port
    except ValueError:
        raise ValueError("a port is out of range or no number") from None
    if not parts.hostname:
        raise ValueError("a host is missing: write host:port,host:port")
    return parts.hostname, port
