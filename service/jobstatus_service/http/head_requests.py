"""HEAD: the response to GET without its body (RFC 9110, 9.3.2)."""

from typing import Any, Final

from litestar.types import ASGIApp, Message, Receive, Scope, Send

_CONTENT_LENGTH: Final = b"content-length"


class _HeadSentError(BaseException):
    """Ends the application after a stream's head. Its base keeps exception handlers off it."""


async def respond_to_head(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Respond to a HEAD request with the status and headers of the GET request.

    An event stream is ended before its first event.

    Args:
        app: Responds to the GET request.
        scope: The HEAD request, as in ASGI.
        receive: As in ASGI.
        send: As in ASGI.
    """
    start: Any = None

    async def send_head(message: Message) -> None:
        nonlocal start
        if message["type"] == "http.response.start":
            start = message
            return
        body: Any = message
        is_stream = body.get("more_body")
        headers = list(start["headers"])
        if not is_stream and not any(name == _CONTENT_LENGTH for name, _ in headers):
            headers.append((_CONTENT_LENGTH, b"%d" % len(body["body"])))
        head: Any = {**start, "headers": headers}
        await send(head)
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        if is_stream:
            raise _HeadSentError

    as_get: Any = {**scope, "method": "GET"}
    try:
        await app(as_get, receive, send_head)
    except _HeadSentError:
        return
