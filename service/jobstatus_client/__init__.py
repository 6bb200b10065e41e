"""Read the status of jobs from the service, and wait for them."""

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
