"""The header `Prefer` (RFC 7240): which wait a client would like."""

from collections.abc import Iterable
from typing import Final

MAX_WAIT_SECONDS: Final = 60
"""Seconds that a long poll may wait."""


def preferred_wait(headers: Iterable[str]) -> int | None:
    """Seconds of the first `wait=SECONDS`, at most `MAX_WAIT_SECONDS`; None where there is none.

    A preference that can't be understood is passed over, as the RFC has it.

    Args:
        headers: Each a list of preferences, such as `respond-async, wait=10`.
    """
    for preference in ",".join(headers).split(","):
        name, _, value = preference.partition(";")[0].partition("=")
        seconds = value.strip().strip('"')
        if name.strip().lower() == "wait":
            is_number = seconds.isascii() and seconds.isdecimal()
            return min(int(seconds[:9]), MAX_WAIT_SECONDS) if is_number else None
    return None
