"""The service's settings, read from the environment. Each is described in `ServiceSettings`."""

from dataclasses import dataclass
from typing import Final

from jobstatus.settings import StatusSettings, byte_size, choice, env, number, switch, whole_number

MAX_BULK_IDS: Final = 100
"""The limit of the API's contract for one bulk read."""


def plain_keys(text: str) -> tuple[str, ...]:
    """Parse plain API keys that are separated by commas."""
    return tuple(key.strip() for key in text.split(",") if key.strip())


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
        max_watchers_per_key: How many of them one API key may have open.
        max_bulk_ids: How many jobs one bulk read may request.
        rate: Requests per second that are accepted from one API key, on average; 0 for no limit.
        burst: Requests that are accepted at once; 0 for as many as in two seconds.
        client_timeout: Seconds that a client may take to send a request, may leave its connection
            idle between two requests, or may leave an event of a stream unread.
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
    max_bulk_ids: int = env("MAX_BULK_IDS", whole_number(1, MAX_BULK_IDS), MAX_BULK_IDS)
    rate: float = env("RATE_LIMIT", number(0, 1_000_000, "requests a second"), 0.0)
    burst: int = env("RATE_BURST", whole_number(0, 1_000_000), 0)
    client_timeout: float = env("CLIENT_TIMEOUT", number(1, 3_600), 75.0)
    log_format: str = env("LOG_FORMAT", choice("text", "json"), "text")
    access_log: bool = env("ACCESS_LOG", switch, False)
