"""Waiting for what must come, without guessing how long it takes."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(look: Callable[[], T], timeout: float = 10.0) -> T:
    """What `look` returns as soon as that is true; fails when it isn't within `timeout` s."""
    deadline = time.monotonic() + timeout
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {timeout} s; the last look: {found!r}"
        time.sleep(0.01)
    return found
