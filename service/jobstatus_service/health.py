"""For probes and Prometheus: `/livez`, `/readyz` and `/metrics`. No key needed."""

import asyncio
import logging
import time
from typing import Any, Final

from litestar import MediaType, Request, Response, get

from jobstatus_service import metrics
from jobstatus_service.link import UnavailableError
from jobstatus_service.processes import Processes
from jobstatus_service.statuses import Statuses

_log = logging.getLogger("jobstatus.service")

_FRESH: Final = 1.0
"""Seconds for which one ping of Redis answers for all probes."""


class Readiness:
    """Whether Redis answers, asked at most once a second, and nobody is being sent away."""

    def __init__(self, statuses: Statuses) -> None:
        self._statuses = statuses
        self._lock = asyncio.Lock()
        self._asked = float("-inf")
        self._fault: str | None = None

    async def fault(self) -> str | None:
        """Why the process can't answer now; None if it can."""
        if self._statuses.watches.is_draining:
            return "it is shutting down"
        async with self._lock:
            if time.monotonic() - self._asked >= _FRESH:
                try:
                    await self._ping()
                    self._fault = None
                except UnavailableError as error:
                    _log.warning("not ready: %s", error)
                    self._fault = "Redis can't be reached"
                self._asked = time.monotonic()
        return self._fault

    async def _ping(self) -> None:
        """Ask all servers at once; one that answers will do, or a failover took everybody out."""
        links = self._statuses.reader.links
        found = await asyncio.gather(*(link.ping() for link in links), return_exceptions=True)
        if not links:
            raise UnavailableError("no server is known")
        if all(isinstance(each, UnavailableError) for each in found):
            raise UnavailableError(str(found[0]))


@get("/livez", media_type=MediaType.TEXT, include_in_schema=False)
async def livez() -> str:
    """Whether the process serves. Never asks Redis."""
    return "ok\n"


@get("/readyz", media_type=MediaType.TEXT, include_in_schema=False)
async def readyz(request: Request[Any, Any, Any]) -> Response[str]:
    """Whether the process can answer from Redis now."""
    readiness: Readiness = request.app.state.readiness
    fault = await readiness.fault()
    if fault is None:
        return Response("ok\n", media_type=MediaType.TEXT)
    return Response(f"not ready: {fault}\n", status_code=503, media_type=MediaType.TEXT)


@get("/metrics", include_in_schema=False)
async def metrics_text(request: Request[Any, Any, Any]) -> Response[bytes]:
    """What all processes that share the port have counted."""
    processes: Processes = request.app.state.processes
    return Response(
        metrics.text(processes.samples()), media_type="text/plain; version=0.0.4; charset=utf-8"
    )
