"""Clients of redis-py, made as the settings say: every timeout set, no retries."""

import ssl
from importlib.util import find_spec
from typing import Any, Final, cast

from redis import ConnectionPool, Redis, Sentinel
from redis.backoff import NoBackoff
from redis.retry import Retry

from jobstatus.errors import SettingsError
from jobstatus.redis_url import HostPort, RedisMode, RedisUrl, parse_redis_url
from jobstatus.settings import StatusSettings
from jobstatus.storage.credentials import (
    FileCredentials,
    login_of,
    sentinel_login_of,
    without_login,
)

_UNNAMED: Final[dict[str, None]] = (
    {"driver_info": None}
    if find_spec("redis.driver_info")
    else {"lib_name": None, "lib_version": None}
)
"""No CLIENT SETINFO, which an ACL for Redis 7.0 can't allow; redis-py 8 has another word for it."""

DEFAULT_URL: Final = "redis://127.0.0.1:6379/0"


def redis_url_of(settings: StatusSettings) -> RedisUrl:
    """Where the status is kept.

    Raises:
        SettingsError: redis-py can't use the URL.
    """
    try:
        address = parse_redis_url(settings.redis_url or DEFAULT_URL)
        if address.mode is RedisMode.STANDALONE:
            _check_query(address)
    except ValueError as error:
        raise SettingsError(f"JOBSTATUS_REDIS_URL can't be used: {error}") from None
    if address.tls:
        _check_files(settings)
    return address


def _check_files(settings: StatusSettings) -> None:
    """See whether the files of TLS are what they should be: later that would be an outage."""
    context = ssl.create_default_context()
    try:
        if settings.ca_file:
            context.load_verify_locations(settings.ca_file)
        if settings.cert_file:
            context.load_cert_chain(settings.cert_file, settings.key_file)
    except (ssl.SSLError, OSError) as error:
        raise SettingsError(
            "JOBSTATUS_REDIS_CA_FILE, JOBSTATUS_REDIS_CERT_FILE, JOBSTATUS_REDIS_KEY_FILE: "
            f"they are not what TLS needs: {error}"
        ) from None


def _check_query(address: RedisUrl) -> None:
    """See whether redis-py takes what stands after the ?; its own words may hold secrets."""
    try:
        cast("Any", ConnectionPool).from_url(address.url).make_connection()
    except Exception:
        raise ValueError("redis-py doesn't take what stands after the ?") from None


def client_options(settings: StatusSettings, *, tls: bool = False) -> dict[str, Any]:
    """Options of any client: every timeout set, no retries; the caller has its own.

    Args:
        settings: Timeouts, and the files of TLS.
        tls: Whether to add what TLS needs.
    """
    options = {
        "protocol": 2,
        "socket_timeout": settings.timeout,
        "socket_connect_timeout": settings.connect_timeout,
        "socket_keepalive": True,
        "retry": Retry(NoBackoff(), 0),
        "client_name": "jobstatus-publisher",
        **_UNNAMED,
    }
    files = {
        "ssl_ca_certs": settings.ca_file,
        "ssl_certfile": settings.cert_file,
        "ssl_keyfile": settings.key_file,
    }
    return options | {name: path for name, path in files.items() if tls and path}


def login(settings: StatusSettings, address: RedisUrl) -> dict[str, Any]:
    """Options that log in to Redis; the file of the URL, if it has one, is read again each time."""
    username, password = login_of(address)
    if settings.redis_url_file is None:
        return {"username": username, "password": password}
    known = FileCredentials(settings.redis_url_file, (username, password))
    return {"credential_provider": known}


def named_server(settings: StatusSettings, address: RedisUrl) -> dict[str, Any]:
    """Login and database of a server that Sentinel or the Cluster names."""
    return login(settings, address) | {"db": address.db}


def sentinel_options(
    settings: StatusSettings, address: RedisUrl, options: dict[str, Any]
) -> dict[str, Any]:
    """Options of a client of a Sentinel: as for Redis, but with a login of its own."""
    username, password = sentinel_login_of(address)
    login: dict[str, Any] = {"username": username, "password": password}
    if settings.redis_url_file is not None:
        known = FileCredentials(settings.redis_url_file, (username, password), for_sentinels=True)
        login = {"credential_provider": known}
    return options | login | {"ssl": address.tls}


def client(settings: StatusSettings) -> "Redis":
    """A client of one server, or of the primary that the Sentinels name.

    Raises:
        SettingsError: the URL can't be used.
    """
    address = redis_url_of(settings)
    options = client_options(settings, tls=address.tls)
    if address.mode is RedisMode.STANDALONE:
        return cast("Any", Redis).from_url(  # type: ignore[no-any-return]
            without_login(address.url), **options, **login(settings, address)
        )
    sentinel = cast("Any", Sentinel)(
        address.hosts, sentinel_kwargs=sentinel_options(settings, address, options)
    )
    return sentinel.master_for(  # type: ignore[no-any-return]
        address.service, **options, **named_server(settings, address), ssl=address.tls
    )


def node_client(settings: StatusSettings, address: RedisUrl, node: HostPort) -> "Redis":
    """A client of one node of a Cluster."""
    host, port = node
    options = client_options(settings, tls=address.tls)
    return Redis(
        host=host, port=port, **options, **named_server(settings, address), ssl=address.tls
    )
