"""Cross-origin requests: which origins' pages may read the service's responses.

The protocol is that of https://fetch.spec.whatwg.org/#http-cors-protocol. Responses never allow
credentials that a browser adds by itself (cookies, TLS certificates): a page must send an API key
or a job token in `Authorization`.
"""

from collections.abc import Iterable
from typing import Any, Final

from litestar.types import Send

from jobstatus_service.lookup.response import Header

_EXPOSED_HEADERS: Final = (
    *("ETag", "Retry-After", "Preference-Applied", "Job-Unknown-Cause", "X-Request-ID"),
)
"""The headers of responses that a page may read."""

_ALLOWED_HEADERS: Final = (
    *("Authorization", "If-None-Match", "Last-Event-ID", "Prefer", "X-Request-ID"),
    *("traceparent", "tracestate"),
)
"""The headers of requests that a page may send."""

_PREFLIGHT_SECONDS: Final = 7_200
"""How long a browser remembers that a request is allowed. Chromium limits it to two hours."""

ALLOW_ORIGIN: Final = b"access-control-allow-origin"

_VARY: Final[Header] = (b"vary", b"Origin")


class Cors:
    """The headers with which a browser lets the pages of other origins read a response.

    Attributes:
        headers: The headers to add to a response, by the request's header `Origin`.
        default: Those for any other origin, or none.
    """

    def __init__(self, origins: Iterable[str]) -> None:
        """Allow exactly these origins, such as `https://app.example`."""
        exposed = (b"access-control-expose-headers", ", ".join(_EXPOSED_HEADERS).encode())
        allowed = [origin.encode() for origin in origins]
        # A single origin is named in all responses. They are then the same for all origins, and
        # need no `Vary`, which would cost a plain read 1 percent.
        vary = () if len(allowed) == 1 else (_VARY,)
        self.headers: dict[bytes | None, tuple[Header, ...]] = {
            each: ((ALLOW_ORIGIN, each), exposed, *vary) for each in allowed
        }
        self.default = self.headers[allowed[0]] if len(allowed) == 1 else (_VARY,)
        self._preflight_headers: dict[bytes | None, tuple[Header, ...]] = {
            origin: (
                (ALLOW_ORIGIN, origin),
                (b"access-control-allow-methods", b"GET, HEAD"),
                (b"access-control-allow-headers", ", ".join(_ALLOWED_HEADERS).encode()),
                (b"access-control-max-age", b"%d" % _PREFLIGHT_SECONDS),
                _VARY,
            )
            for origin in allowed
        }

    def headers_of(self, scope: Any) -> tuple[Header, ...]:
        """Return the headers to add to the response to a request.

        Args:
            scope: As in ASGI.
        """
        return self.headers.get(_origin_of(scope), self.default)

    def preflight_headers(self, scope: Any) -> tuple[Header, ...] | None:
        """Return the headers of the response to a preflight request.

        Args:
            scope: As in ASGI.

        Returns:
            The headers; none if the origin is not allowed; None if this is no preflight request.
        """
        if scope["method"] != "OPTIONS":
            return None
        if not any(name == b"access-control-request-method" for name, _ in scope["headers"]):
            return None
        return self._preflight_headers.get(_origin_of(scope), ())


def _origin_of(scope: Any) -> bytes | None:
    """Return the header `Origin` of a request, the first one if there are several."""
    for name, value in scope["headers"]:
        if name == b"origin":
            origin: bytes = value
            return origin
    return None


def with_headers(send: Send, headers: Iterable[Header]) -> Send:
    """Wrap `send` to add headers to the response, unless it says itself who may read it."""

    async def send_with_headers(message: Any) -> None:
        if message["type"] == "http.response.start":
            own = list(message.get("headers", ()))
            if not any(name == ALLOW_ORIGIN for name, _ in own):
                message = {**message, "headers": [*own, *headers]}
        await send(message)

    return send_with_headers
