"""Wait for a condition instead of for a guessed time."""

import contextlib
import time
from collections.abc import Callable
from typing import TypeVar

import httpx

T = TypeVar("T")


def eventually(check: Callable[[], T], timeout: float = 10.0, interval: float = 0.01) -> T:
    """Call `check` every `interval` seconds until it returns a true value, and return that value.

    Raises:
        AssertionError: `check` returned no true value within `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while not (found := check()):
        assert time.monotonic() < deadline, f"not within {timeout} s; last result: {found!r}"
        time.sleep(interval)
    return found


def is_ready(url: str) -> bool:
    """Return whether the service at the URL can be connected to and is ready."""
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{url}/readyz").status_code == 200
    return False
