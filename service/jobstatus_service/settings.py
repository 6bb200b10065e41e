"""Settings of the service."""

from dataclasses import dataclass

from jobstatus.settings import StatusSettings, env


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


@dataclass(frozen=True, kw_only=True)
class ServiceSettings(StatusSettings):
    """How the service answers.

    Attributes:
        api_keys_file: A file of hashed keys, see `jobstatus_service.keys`.
        api_keys: Plain keys, for development.
        no_auth: Whether everybody may ask for everything.
    """

    api_keys_file: str | None = env("API_KEYS_FILE", str)
    api_keys: tuple[str, ...] = env("API_KEYS", keys, ())
    no_auth: bool = env("NO_AUTH", flag, False)
