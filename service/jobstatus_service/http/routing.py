"""What all routes of the API share: authentication, and reading a request."""

import functools
from collections import Counter
from typing import Any
from urllib.parse import parse_qsl
from uuid import UUID

from litestar import get
from litestar.connection import ASGIConnection
from litestar.exceptions import NotAuthorizedException
from litestar.handlers import BaseRouteHandler

from jobstatus.status import job_uuid, parse_uuid
from jobstatus_service.http.api_keys import ApiKeys
from jobstatus_service.http.client import JOB_PATH, Client
from jobstatus_service.http.errors import (
    AnyRequest,
    ForbiddenError,
    InvalidRequestError,
    RateLimitedError,
    ValidationError,
    invalid_job_id,
    unauthorized,
)
from jobstatus_service.http.job_tokens import InvalidTokenError
from jobstatus_service.http.openapi_declarations import SECURITY
from jobstatus_service.http.prefer import preferred_wait
from jobstatus_service.http.rate_limit import RateLimit
from jobstatus_service.http.request_state import request_state
from jobstatus_service.lookup.response import Header
from jobstatus_service.lookup.statuses import Statuses


def authenticate(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """Authenticate the client and apply its rate limit, before anything else is checked.

    Raises:
        NotAuthorizedException: The request has no API key and no token, or a wrong key.
        InvalidTokenError: The request has a job token that is not valid.
        RateLimitedError: The client has exceeded its rate.
    """
    app_state, state = connection.app.state, request_state(connection.scope)
    api_keys: ApiKeys = app_state.api_keys
    try:
        client = api_keys.find(connection.headers.get("authorization"))
        if client is None:
            raise unauthorized()
    except (InvalidTokenError, NotAuthorizedException):
        app_state.metrics.auth_failures += 1
        raise
    rate_limit: RateLimit | None = app_state.rate_limit
    if rate_limit is not None and not state.is_rate_checked:
        retry_seconds = rate_limit.take(client)
        if retry_seconds:
            app_state.metrics.rate_limited += 1
            raise RateLimitedError(retry_seconds)
    state.client = client


api_get = functools.partial(get, guards=[authenticate], tags=["jobs"], security=SECURITY)
"""A decorator that declares a route of the API, which requires an API key or a job token."""


def parsed_job_id(job_id: str) -> UUID:
    """Parse the job id of a path.

    Raises:
        InvalidRequestError: It is not a UUID.
    """
    uuid = parse_uuid(job_id)
    if uuid is None:
        raise InvalidRequestError(invalid_job_id("path", "job_id"))
    return uuid


def named_jobs(request: AnyRequest) -> list[UUID]:
    """Return the UUIDs of the jobs that the parameters `id` and `key` name, in their order.

    Raises:
        InvalidRequestError: There are none or too many, an id is not a UUID, or a key is empty.
    """
    query = parse_qsl(request.scope["query_string"].decode("latin-1"), keep_blank_values=True)
    named = [(name, value) for name, value in query if name in {"id", "key"}]
    max_ids = request.app.state.settings.max_bulk_ids
    if not 1 <= len(named) <= max_ids:
        message = f"The request has {len(named)} ids and keys; it must have 1 to {max_ids}."
        raise InvalidRequestError(ValidationError(("query", "id"), message, "list_length"))
    uuids: list[UUID] = []
    invalid: list[ValidationError] = []
    counts: Counter[str] = Counter()
    for name, value in named:
        loc = ("query", name, counts[name])
        counts[name] += 1
        uuid = parse_uuid(value) if name == "id" else job_uuid(value)
        if not value and name == "key":
            invalid.append(ValidationError(loc, "A job's key must not be empty.", "value_error"))
        elif uuid is None:
            invalid.append(invalid_job_id(*loc))
        else:
            uuids.append(uuid)
    if invalid:
        raise InvalidRequestError(*invalid)
    return uuids


def client_of(request: AnyRequest) -> Client:
    """Return the authenticated client."""
    client = request_state(request.scope).client
    if client is None:
        raise unauthorized()  # the guard has raised this already
    return client


def tenant_of(request: AnyRequest) -> str:
    """Return the key prefix of the client's tenant, all of whose jobs it may see.

    Raises:
        ForbiddenError: The client may see only the jobs that its token names.
    """
    client = client_of(request)
    if client.record_keys is not None:
        raise ForbiddenError(
            "A job token reads only the jobs that it names; this needs an API key."
        )
    return client.prefix


def statuses_of(request: AnyRequest) -> Statuses:
    """Return the responses about all jobs."""
    statuses: Statuses = request.app.state.statuses
    return statuses


def key_of(request: AnyRequest, job_id: UUID) -> str:
    """Return the key of a job's record, in the client's tenant.

    Raises:
        ForbiddenError: The client's token does not name the job.
    """
    client = client_of(request)
    if client.record_keys is None:
        return statuses_of(request).key_of(client.prefix, job_id)
    key = client.record_keys.get(f"{JOB_PATH}{job_id}")
    if key is None:
        raise ForbiddenError(f"The job token does not name the job {job_id}.")
    return key


def header(request: AnyRequest, name: str) -> bytes | None:
    """Return a header; several lines of it are joined to one list (RFC 9110, 5.3)."""
    values = request.headers.getall(name, [])
    return ", ".join(values).encode("latin-1") if values else None


def requested_wait(request: AnyRequest, wait: float) -> tuple[float, list[Header]]:
    """Return the seconds that a request asks to wait, and the header that confirms `Prefer`.

    Args:
        request: The request.
        wait: The parameter `wait`, or its default.
    """
    if "wait" in request.query_params:
        return wait, []
    preferred = preferred_wait(request.headers.getall("prefer", []))
    if preferred is None:
        return wait, []
    return preferred, [(b"preference-applied", b"wait=%d" % preferred)]
