"""Requests as lines in the log and as spans, where either is asked for.

The application stands behind it unchanged; where neither is asked for it isn't there.
"""

import logging
import re
import time
from typing import Any, Final

from litestar.types import Receive, Send

from jobstatus.tracing import Tracer
from jobstatus_service.http.fast_path import PATH, FastPathApp, request_id

_log: Final = logging.getLogger("jobstatus.access")
_IS_ID: Final = re.compile("[0-9a-fA-F-]{32,36}").match


class AccessLog:
    """The application, each request of which is logged, traced, or both."""

    def __init__(self, app: FastPathApp, traces: Tracer | None, *, logs: bool) -> None:
        self._app = app
        self._traces = traces
        self._logs = logs

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_at, status = time.monotonic(), 0
        about = {"request_id": request_id(scope)}
        if job_id := _job_of(scope):
            about["job_id"] = job_id
        scope.setdefault("state", {})["about"] = about

        async def answer(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message["headers"], (b"x-request-id", about["request_id"].encode())]
                message = {**message, "headers": headers}
            await send(message)

        try:
            if self._traces is None:
                await self._app(scope, receive, answer)
            else:
                await self._traced(self._traces, scope, receive, answer)
        finally:
            if self._logs:
                _tell(scope, about, status, time.monotonic() - began_at)

    async def _traced(self, traces: Tracer, scope: Any, receive: Receive, send: Send) -> None:
        carrier = {name.decode("latin-1"): value.decode("latin-1") for name, value in _trace(scope)}
        name = f"{scope['method']} {_route(scope)}"
        with traces.span(
            name, "SERVER", carrier, http_request_method=scope["method"], http_route=_route(scope)
        ) as span:

            async def answer(message: Any) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                await send(message)

            if job_id := _job_of(scope):
                span.set_attribute("job.id", job_id)
            await self._app(scope, receive, answer)


def _tell(scope: Any, about: dict[str, str], status: int, seconds: float) -> None:
    more = {
        **about,
        "method": scope["method"],
        "route": _route(scope),
        "status": status,
        "ms": round(1000 * seconds, 3),
    }
    _log.info("%s %s %d", scope["method"], _route(scope), status, extra={"about": more})


def _trace(scope: Any) -> list[tuple[bytes, bytes]]:
    return [pair for pair in scope["headers"] if pair[0] in {b"traceparent", b"tracestate"}]


def _job_of(scope: Any) -> str | None:
    """The job of the path, if it has one; nothing else of a path is logged."""
    path: str = scope["path"]
    job_id = path[len(PATH) :].partition("/")[0] if path.startswith(PATH) else ""
    return job_id if _IS_ID(job_id) and len(job_id) <= 36 else None  # noqa: PLR2004


def _route(scope: Any) -> str:
    path: str = scope["path"]
    if path.startswith(PATH):
        return "/api/jobs/{job_id}/events" if path.endswith("/events") else "/api/jobs/{job_id}"
    return path if path in {"/api/jobs", "/livez", "/readyz", "/metrics"} else "other"
