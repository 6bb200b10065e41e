"""The id of a request, by which log lines and clients refer to it."""

import re
from typing import Any, Final
from uuid import uuid4

_is_request_id: Final = re.compile(rb"[A-Za-z0-9._-]{1,128}").fullmatch


def request_id(scope: Any) -> str:
    """Return the header `X-Request-ID`, or a new id if it is missing or malformed."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _is_request_id(value):
            return str(value, "ascii")
    return uuid4().hex
