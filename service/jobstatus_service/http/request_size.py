"""Limits on the size of a request's head."""

from typing import Any, Final

_MAX_URL_BYTES: Final = 8_192
"""A bulk read of 100 jobs has a URL of 4,000 bytes."""

MAX_HEADERS_BYTES: Final = 24_576
"""A job token of 100 jobs has 5,500 bytes."""


def size_error(scope: Any) -> tuple[int, str] | None:
    """Return the status and the text with which to reject a request; None if its size is allowed.

    Args:
        scope: As in ASGI.
    """
    if len(scope["raw_path"]) + len(scope["query_string"]) > _MAX_URL_BYTES:
        return 414, f"The URL is longer than {_MAX_URL_BYTES} bytes."
    if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADERS_BYTES:
        return 431, f"The headers are longer than {MAX_HEADERS_BYTES} bytes in total."
    return None
