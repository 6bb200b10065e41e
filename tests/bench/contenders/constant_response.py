"""An ASGI application that sends the same body for every request: the upper limit."""

from typing import Any

_BODY = b"x" * 230
_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/json"), (b"content-length", b"230")],
}
_REST = {"type": "http.response.body", "body": _BODY, "more_body": False}


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Send the response without looking at the request."""
    if scope["type"] == "http":
        await send(_START)
        await send(_REST)
        return
    while True:
        event = (await receive())["type"]
        await send({"type": f"{event}.complete"})
        if event == "lifespan.shutdown":
            return
