"""The access log and the traces of requests: an application that logs and traces each request."""

import logging
import re
import time
from typing import Any, Final

from litestar.types import Receive, Send

from jobstatus.tracing import Tracer
from jobstatus_service.http.client import JOB_PATH
from jobstatus_service.http.fast_path import FastPathApp
from jobstatus_service.http.request_id import request_id
from jobstatus_service.http.request_state import request_state

_log: Final = logging.getLogger("jobstatus.access")
_is_job_id: Final = re.compile("[0-9a-fA-F-]{32,36}").fullmatch

_FIXED_PATHS: Final = frozenset(
    {
        *("/api/jobs", "/api/jobs/counts", "/api/jobs/events"),
        *("/livez", "/readyz", "/metrics", "/schema", "/"),
    }
)
_ASSETS: Final = "/assets/"
_PARTS: Final = frozenset({"details", "events", "result"})
"""What may follow a job id in a path."""


class AccessLogApp(FastPathApp):
    """The application, with each request logged, traced, or both.

    `create_app` makes it only if one of both is asked for; without, requests pay nothing for it.

    Attributes:
        tracer: Makes a span of each request; None for no traces.
        logs_requests: Whether each request is logged.
    """

    tracer: Tracer | None
    logs_requests: bool

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        began_at, status = time.monotonic(), 0
        fields = {"request_id": request_id(scope)}
        if job_id := _job_id_of(scope):
            fields["job_id"] = job_id
        request_state(scope).log_fields = fields

        async def send_with_id(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message["headers"], (b"x-request-id", fields["request_id"].encode())]
                message = {**message, "headers": headers}
            await send(message)

        try:
            if self.tracer is None:
                await super().__call__(scope, receive, send_with_id)
            else:
                await self._call_in_span(self.tracer, scope, receive, send_with_id)
        finally:
            if self.logs_requests:
                _log_request(scope, fields, status, time.monotonic() - began_at)

    async def _call_in_span(self, tracer: Tracer, scope: Any, receive: Receive, send: Send) -> None:
        method, route = scope["method"], _route_of(scope)
        trace_headers = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in scope["headers"]
            if name in {b"traceparent", b"tracestate"}
        }
        with tracer.span(
            f"{method} {route}",
            "SERVER",
            trace_headers,
            http_request_method=method,
            http_route=route,
        ) as span:

            async def send_and_note_status(message: Any) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                await send(message)

            if job_id := _job_id_of(scope):
                span.set_attribute("job.id", job_id)
            await super().__call__(scope, receive, send_and_note_status)


def _log_request(scope: Any, fields: dict[str, str], status: int, seconds: float) -> None:
    method, route = scope["method"], _route_of(scope)
    about = {
        **fields,
        "method": method,
        "route": route,
        "status": status,
        "ms": round(1000 * seconds, 3),
    }
    _log.info("%s %s %d", method, route, status, extra={"about": about})


def _job_id_of(scope: Any) -> str | None:
    """Return the job id in a path. No other part of a path is logged, since it may be a secret."""
    path: str = scope["path"]
    job_id = path[len(JOB_PATH) :].partition("/")[0] if path.startswith(JOB_PATH) else ""
    return job_id if _is_job_id(job_id) else None


def _route_of(scope: Any) -> str:
    path: str = scope["path"]
    if path in _FIXED_PATHS:
        return path
    if path.startswith(_ASSETS):
        return f"{_ASSETS}{{path}}"
    if not path.startswith(JOB_PATH):
        return "other"
    part = path[len(JOB_PATH) :].partition("/")[2]
    return f"{JOB_PATH}{{job_id}}/{part}" if part in _PARTS else f"{JOB_PATH}{{job_id}}"
