"""The request header `Prefer` (RFC 7240), by which a client can ask for a long poll."""

from collections.abc import Iterable
from typing import Final

MAX_WAIT_SECONDS: Final = 60
"""How long a long poll may wait."""


def preferred_wait(headers: Iterable[str]) -> int | None:
    """Return the seconds of the first `wait=SECONDS`, at most `MAX_WAIT_SECONDS`.

    Args:
        headers: Each value is a list of preferences, such as `respond-async, wait=10`.

    Returns:
        None if there is no wait, or if it is malformed: RFC 7240 has such preferences ignored.
    """
    for preference in ",".join(headers).split(","):
        name, _, value = preference.partition(";")[0].partition("=")
        seconds = value.strip().strip('"')
        if name.strip().lower() == "wait":
            is_number = seconds.isascii() and seconds.isdecimal()
            return min(int(seconds[:9]), MAX_WAIT_SECONDS) if is_number else None
    return None
