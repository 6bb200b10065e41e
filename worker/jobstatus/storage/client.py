"""Clients of redis-py as the settings describe them: every timeout is set, nothing is retried."""

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

_NO_SETINFO: Final[dict[str, None]] = (
    {"driver_info": None}
    if find_spec("redis.driver_info")
    else {"lib_name": None, "lib_version": None}
)
"""Turns off CLIENT SETINFO, which an ACL for Redis 7.0 can't allow; redis-py 8 has another name."""

DEFAULT_URL: Final = "redis://127.0.0.1:6379/0"


def redis_url_of(settings: StatusSettings) -> RedisUrl:
    """Return the parsed URL of the Redis that holds the status.

    Raises:
        SettingsError: redis-py can't use the URL, or a TLS file is not valid.
    """
    try:
        url = parse_redis_url(settings.redis_url or DEFAULT_URL)
        if url.mode is RedisMode.STANDALONE:
            _check_query(url)
    except ValueError as error:
        raise SettingsError(f"JOBSTATUS_REDIS_URL is not valid: {error}") from None
    if url.tls:
        _check_tls_files(settings)
    return url


def _check_tls_files(settings: StatusSettings) -> None:
    """Load the TLS files now: when a connection loads them, an error looks like an outage."""
    context = ssl.create_default_context()
    try:
        if settings.ca_file:
            context.load_verify_locations(settings.ca_file)
        if settings.cert_file:
            context.load_cert_chain(settings.cert_file, settings.key_file)
    except (ssl.SSLError, OSError) as error:
        raise SettingsError(
            "JOBSTATUS_REDIS_CA_FILE, JOBSTATUS_REDIS_CERT_FILE and JOBSTATUS_REDIS_KEY_FILE "
            f"must be a certificate authority, a certificate and its key in PEM form: {error}"
        ) from None


def _check_query(url: RedisUrl) -> None:
    """Have redis-py parse the query; its own error is hidden, since it may contain secrets."""
    try:
        cast("Any", ConnectionPool).from_url(url.url).make_connection()
    except Exception:
        raise ValueError("redis-py rejects the query after the ?") from None


def client_options(settings: StatusSettings, *, tls: bool = False) -> dict[str, Any]:
    """Return the options of every client: all timeouts, and no retries, since callers retry.

    Args:
        settings: Timeouts and TLS files.
        tls: Whether to add the options of TLS.
    """
    options = {
        "protocol": 2,
        "socket_timeout": settings.timeout,
        "socket_connect_timeout": settings.connect_timeout,
        "socket_keepalive": True,
        "retry": Retry(NoBackoff(), 0),
        "client_name": "jobstatus-publisher",
        **_NO_SETINFO,
    }
    tls_files = {
        "ssl_ca_certs": settings.ca_file,
        "ssl_certfile": settings.cert_file,
        "ssl_keyfile": settings.key_file,
    }
    return options | {name: path for name, path in tls_files.items() if tls and path}


def login(settings: StatusSettings, url: RedisUrl) -> dict[str, Any]:
    """Return the options of the login; from a file, it is read again for each connection."""
    username, password = login_of(url)
    if settings.redis_url_file is None:
        return {"username": username, "password": password}
    credentials = FileCredentials(settings.redis_url_file, (username, password))
    return {"credential_provider": credentials}


def named_server(settings: StatusSettings, url: RedisUrl) -> dict[str, Any]:
    """Return login and database for a server that a Sentinel or the Cluster has named."""
    return login(settings, url) | {"db": url.db}


def sentinel_options(
    settings: StatusSettings, url: RedisUrl, options: dict[str, Any]
) -> dict[str, Any]:
    """Return the options of a client of a Sentinel: those of Redis with the Sentinels' login."""
    username, password = sentinel_login_of(url)
    login: dict[str, Any] = {"username": username, "password": password}
    if settings.redis_url_file is not None:
        path = settings.redis_url_file
        credentials = FileCredentials(path, (username, password), for_sentinels=True)
        login = {"credential_provider": credentials}
    return options | login | {"ssl": url.tls}


def client(settings: StatusSettings) -> "Redis":
    """Create a client of one server, or of the primary that the Sentinels name.

    Raises:
        SettingsError: The URL is not valid.
    """
    url = redis_url_of(settings)
    options = client_options(settings, tls=url.tls)
    if url.mode is RedisMode.STANDALONE:
        return cast("Any", Redis).from_url(  # type: ignore[no-any-return]
            without_login(url.url), **options, **login(settings, url)
        )
    sentinel = cast("Any", Sentinel)(
        url.hosts, sentinel_kwargs=sentinel_options(settings, url, options)
    )
    return sentinel.master_for(  # type: ignore[no-any-return]
        url.service, **options, **named_server(settings, url), ssl=url.tls
    )


def node_client(settings: StatusSettings, url: RedisUrl, node: HostPort) -> "Redis":
    """Create a client of one node of a Cluster."""
    host, port = node
    options = client_options(settings, tls=url.tls)
    return Redis(host=host, port=port, **options, **named_server(settings, url), ssl=url.tls)
