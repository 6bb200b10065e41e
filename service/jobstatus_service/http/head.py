"""HEAD: whatever GET would answer, without the body (RFC 9110, 9.3.2)."""

from typing import Any, Final

from litestar.types import ASGIApp, Message, Receive, Scope, Send

_LENGTH: Final = b"content-length"


class _AnsweredError(BaseException):
    """The head has been sent; no exception handler is meant to catch this."""


async def respond_to_head(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a HEAD request with the status and headers of the GET request.

    An event stream is ended after its head, before its first event.

    Args:
        app: Answers the GET request.
        scope: As in ASGI, of the HEAD request.
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
        head: Any = {**start, "headers": list(start["headers"])}
        if not body.get("more_body") and not any(n == _LENGTH for n, _ in head["headers"]):
            head["headers"].append((_LENGTH, b"%d" % len(body["body"])))
        await send(head)
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        if body.get("more_body"):
            raise _AnsweredError

    as_get: Any = {**scope, "method": "GET"}
    try:
        await app(as_get, receive, send_head)
    except _AnsweredError:
        return
