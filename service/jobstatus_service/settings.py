"""The service's settings, read from the environment. Each is described in `ServiceSettings`."""

import re
from dataclasses import dataclass
from typing import Final

from jobstatus.settings import StatusSettings, byte_size, choice, env, number, switch, whole_number

MAX_BULK_IDS: Final = 100
"""The limit of the API's contract for one bulk read."""


def plain_keys(text: str) -> tuple[str, ...]:
    """Parse plain API keys that are separated by commas."""
    return tuple(key.strip() for key in text.split(",") if key.strip())


_is_origin: Final = re.compile(
    r"(http(?!.*:80$)|https(?!.*:443$))://([a-z0-9._-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?"
).fullmatch


def origins(text: str) -> tuple[str, ...]:
    """Parse the origins of web pages, such as `https://app.example`, separated by commas."""
    found = tuple(origin.strip() for origin in text.split(",") if origin.strip())
    if not all(map(_is_origin, found)):
        raise ValueError(
            "must be exact origins as browsers send them, such as https://app.example or "
            "http://localhost:5173, separated by commas: in lower case, without a path, and "
            "without the standard port"
        )
    return found


@dataclass(frozen=True, kw_only=True)
class ServiceSettings(StatusSettings):
    """The service's settings. Limits that name no scope apply to each process.

    Attributes:
        api_keys_file: The path of a file of hashed API keys, see `jobstatus_service.http.api_keys`.
        api_keys: Plain API keys, for development.
        no_auth: Whether requests without an API key are accepted.
        cache_bytes: The size of the response cache. 0 disables it: then every read asks Redis.
        max_staleness: Seconds for which cached responses may be served after the connection to
            Redis has failed without the service noticing.
        max_watchers: How many long polls and event streams may be open.
        max_watchers_per_key: How many of them one API key may have open, or all job tokens that
            one key has signed.
        max_watchers_per_token: How many of them one job token may have open.
        max_bulk_ids: How many jobs one bulk read may request.
        rate: Requests per second that are accepted from one API key, or with all job tokens that
            one key has signed, on average; 0 for no limit.
        burst: Requests that are accepted at once; 0 for as many as in two seconds.
        token_rate: Requests per second that are accepted with one job token, on average, and
            twice as many at once; 0 for no limit.
        client_timeout: Seconds that a client may take to send a request, may leave its connection
            idle between two requests, or may leave an event of a stream unread.
        cors_origins: The origins whose web pages may read responses.
        ui: Whether the web page is served at `/`.
        log_format: `text` or `json`.
        access_log: Whether each request is logged.
    """

    api_keys_file: str | None = env("API_KEYS_FILE", str)
    api_keys: tuple[str, ...] = env("API_KEYS", plain_keys, (), secret=True)
    no_auth: bool = env("NO_AUTH", switch, False)
    cache_bytes: int = env("CACHE_SIZE", byte_size(), 64 * 2**20)
    max_staleness: float = env("MAX_STALENESS", number(0.1, 60), 2.0)
    max_watchers: int = env("MAX_WATCHERS", whole_number(0, 1_000_000), 20_000)
    max_watchers_per_key: int = env("MAX_WATCHERS_PER_KEY", whole_number(0, 1_000_000), 10_000)
    max_watchers_per_token: int = env("MAX_WATCHERS_PER_TOKEN", whole_number(0, 1_000_000), 32)
    max_bulk_ids: int = env("MAX_BULK_IDS", whole_number(1, MAX_BULK_IDS), MAX_BULK_IDS)
    rate: float = env("RATE_LIMIT", number(0, 1_000_000, "requests a second"), 0.0)
    burst: int = env("RATE_BURST", whole_number(0, 1_000_000), 0)
    token_rate: float = env("TOKEN_RATE_LIMIT", number(0, 1_000_000, "requests a second"), 0.0)
    client_timeout: float = env("CLIENT_TIMEOUT", number(1, 3_600), 75.0)
    cors_origins: tuple[str, ...] = env("CORS_ORIGINS", origins, ())
    ui: bool = env("UI", switch, True)
    log_format: str = env("LOG_FORMAT", choice("text", "json"), "text")
    access_log: bool = env("ACCESS_LOG", switch, False)
