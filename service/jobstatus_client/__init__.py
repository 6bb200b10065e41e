"""Read the status of jobs from the service, and wait for them."""

from typing import TYPE_CHECKING

from jobstatus.lazy_imports import lazy_attributes

if TYPE_CHECKING:
    from jobstatus_client.async_client import AsyncClient
    from jobstatus_client.client import Client
    from jobstatus_client.errors import (
        ClientClosedError,
        RequestError,
        UnavailableError,
        WaitTimeoutError,
    )
    from jobstatus_client.models import JobCounts, JobList, ListEvent

__all__ = [
    "AsyncClient",
    "Client",
    "ClientClosedError",
    "JobCounts",
    "JobList",
    "ListEvent",
    "RequestError",
    "UnavailableError",
    "WaitTimeoutError",
]

__getattr__ = lazy_attributes(
    __name__,
    {
        "async_client": ("AsyncClient",),
        "client": ("Client",),
        "errors": ("ClientClosedError", "RequestError", "UnavailableError", "WaitTimeoutError"),
        "models": ("JobCounts", "JobList", "ListEvent"),
    },
)
