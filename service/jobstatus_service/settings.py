"""Settings of the service."""

import re
from dataclasses import dataclass
from typing import Final

from jobstatus.settings import Parse, StatusSettings, env, seconds

MOST_IDS: Final = 100
"""Jobs that one bulk read may ask for by the contract."""

_UNITS = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def keys(text: str) -> tuple[str, ...]:
    """Plain keys, separated by commas."""
    return tuple(key.strip() for key in text.split(",") if key.strip())


def flag(text: str) -> bool:
    """A switch: 1, true, yes or on; 0, false, no or off."""
    switches = dict.fromkeys(("1", "true", "yes", "on"), True)
    switches |= dict.fromkeys(("0", "false", "no", "off"), False)
    try:
        return switches[text.lower()]
    except KeyError:
        raise ValueError("must be 1 or 0") from None


def size(text: str) -> int:
    """A number of bytes, such as 67108864 or 64MiB."""
    found = re.fullmatch(r"(\d+)(|KiB|MiB|GiB)", text)
    if found is None:
        raise ValueError("must be a number of bytes, such as 67108864, 64MiB or 1GiB; 0 for none")
    return int(found[1]) * _UNITS[found[2]]


def whole(least: int, most: int) -> Parse:
    """A parser of a whole number in `least`..`most`."""

    def parse(text: str) -> int:
        value = int(text)
        if not least <= value <= most:
            raise ValueError(f"must be {least} to {most}")
        return value

    return parse


@dataclass(frozen=True, kw_only=True)
class ServiceSettings(StatusSettings):
    """How the service answers.

    Attributes:
        api_keys_file: A file of hashed keys, see `jobstatus_service.keys`.
        api_keys: Plain keys, for development.
        no_auth: Whether everybody may ask for everything.
        near_cache_bytes: What the near cache of one process may take; 0: there is none, and
            every read asks Redis.
        staleness: Seconds by which an answer may be behind Redis at most, where the connection
            to Redis has failed and that isn't known yet.
        watchers: Waits and streams that one process holds open at most.
        watchers_per_key: Those of one API key.
        ids: Jobs that one bulk read may ask for.
    """

    api_keys_file: str | None = env("API_KEYS_FILE", str)
    api_keys: tuple[str, ...] = env("API_KEYS", keys, ())
    no_auth: bool = env("NO_AUTH", flag, False)
    near_cache_bytes: int = env("NEAR_CACHE", size, 64 * 2**20)
    staleness: float = env("STALENESS", seconds(0.1, 60), 2.0)
    watchers: int = env("WATCHERS", whole(0, 1_000_000), 20_000)
    watchers_per_key: int = env("WATCHERS_PER_KEY", whole(0, 1_000_000), 10_000)
    ids: int = env("IDS", whole(1, MOST_IDS), MOST_IDS)
