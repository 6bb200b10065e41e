"""Settings of the service."""

import re
from dataclasses import dataclass
from typing import Final

from jobstatus.settings import StatusSettings, choice, env, number, switch, whole_number

MAX_BULK_IDS: Final = 100
"""Jobs that one bulk read may ask for by the contract."""

_UNITS = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def plain_keys(text: str) -> tuple[str, ...]:
    """Plain keys, separated by commas."""
    return tuple(key.strip() for key in text.split(",") if key.strip())


def size(text: str) -> int:
    """A number of bytes, such as 67108864 or 64MiB."""
    found = re.fullmatch(r"(\d+)(|KiB|MiB|GiB)", text)
    if found is None:
        raise ValueError("must be a number of bytes, such as 67108864, 64MiB or 1GiB; 0 for none")
    return int(found[1]) * _UNITS[found[2]]


@dataclass(frozen=True, kw_only=True)
class ServiceSettings(StatusSettings):
    """How the service answers.

    Attributes:
        api_keys_file: A file of hashed keys, see `jobstatus_service.http.api_keys`.
        api_keys: Plain keys, for development.
        no_auth: Whether everybody may ask for everything.
        near_cache_bytes: What the near cache of one process may take; 0: there is none, and
            every read asks Redis.
        max_staleness: Seconds by which an answer may be behind Redis at most, where the connection
            to Redis has failed and that isn't known yet.
        max_watchers: Waits and streams that one process holds open at most.
        watchers_per_key: Those of one API key.
        max_bulk_ids: Jobs that one bulk read may ask for.
        rate: Requests a second that each process answers to one API key, on average; 0: all.
        burst: Requests that may come at once; 0: as many as in two seconds.
        client_timeout: Seconds that a client may take to send a request, stay silent between two,
            or leave a stream's event unread.
        log_format: `text` or `json`.
        access_log: Whether each request is logged.
    """

    api_keys_file: str | None = env("API_KEYS_FILE", str)
    api_keys: tuple[str, ...] = env("API_KEYS", plain_keys, (), secret=True)
    no_auth: bool = env("NO_AUTH", switch, False)
    cache_bytes: int = env("CACHE_SIZE", size, 64 * 2**20)
    max_staleness: float = env("MAX_STALENESS", number(0.1, 60), 2.0)
    max_watchers: int = env("MAX_WATCHERS", whole_number(0, 1_000_000), 20_000)
    max_watchers_per_key: int = env("MAX_WATCHERS_PER_KEY", whole_number(0, 1_000_000), 10_000)
    max_bulk_ids: int = env("MAX_BULK_IDS", whole_number(1, MAX_BULK_IDS), MAX_BULK_IDS)
    rate: float = env("RATE_LIMIT", number(0, 1_000_000, "requests a second"), 0.0)
    burst: int = env("RATE_BURST", whole_number(0, 1_000_000), 0)
    client_timeout: float = env("CLIENT_TIMEOUT", number(1, 3_600), 75.0)
    log_format: str = env("LOG_FORMAT", choice("text", "json"), "text")
    access_log: bool = env("ACCESS_LOG", switch, False)
