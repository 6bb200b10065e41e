"""Probes and metrics: `/livez`, `/readyz` and `/metrics`. They need no API key."""

import asyncio
from typing import Any

from litestar import MediaType, Request, Response, get

from jobstatus_service.lookup.statuses import Statuses
from jobstatus_service.metrics import prometheus
from jobstatus_service.metrics.multiprocess import ProcessMetrics


class Readiness:
    """Whether clients may be sent to this process: it has started, and is not draining.

    It has started once it has reached Redis. A later outage of Redis doesn't make it unready: that
    would take all processes out of the load balancer at once, and none would be left to respond
    with 503 and `Retry-After`.
    """

    def __init__(self, statuses: Statuses) -> None:
        self._statuses = statuses
        self._has_started = False

    async def fault(self) -> str | None:
        """Return why clients must not be sent to this process; None if they may."""
        if self._statuses.watchers.is_draining:
            return "the process is shutting down"
        if not self._has_started:
            links = self._statuses.reader.links
            await asyncio.gather(*(link.ping() for link in links), return_exceptions=True)
            self._has_started = any(link.has_connected for link in links)
        return None if self._has_started else "Redis has not been reached yet"


@get("/livez", media_type=MediaType.TEXT, include_in_schema=False)
async def livez() -> str:
    """Return that the process is running; Redis is not asked."""
    return "ok\n"


@get("/readyz", media_type=MediaType.TEXT, include_in_schema=False)
async def readyz(request: Request[Any, Any, Any]) -> Response[str]:
    """Return whether clients may be sent to this process."""
    readiness: Readiness = request.app.state.readiness
    fault = await readiness.fault()
    if fault is None:
        return Response("ok\n", media_type=MediaType.TEXT)
    return Response(f"not ready: {fault}\n", status_code=503, media_type=MediaType.TEXT)


@get("/metrics", include_in_schema=False)
async def metrics_text(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Return the metrics of all processes that share the port."""
    processes: ProcessMetrics = request.app.state.processes
    return Response(
        prometheus.text(processes.samples()), media_type="text/plain; version=0.0.4; charset=utf-8"
    )
