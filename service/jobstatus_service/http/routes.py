"""The routes of the API: the status of one job, of many jobs, and the events of a job."""

import asyncio
import functools
from collections import Counter
from typing import Any
from urllib.parse import parse_qsl
from uuid import UUID

from litestar import get
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.types import ASGIApp

from jobstatus.status import job_uuid, parse_uuid, record_key
from jobstatus_service.http.api_keys import ApiKeys
from jobstatus_service.http.errors import (
    AnyRequest,
    InvalidRequestError,
    RateLimitedError,
    ValidationError,
    invalid_job_id,
    unauthorized,
)
from jobstatus_service.http.openapi_declarations import (
    EVENTS_RESPONSES,
    SECURITY,
    STATUS_RESPONSES,
    STATUSES_RESPONSES,
    JobId,
    JobIds,
    JobKeys,
    Until,
    Wait,
)
from jobstatus_service.http.prefer import preferred_wait
from jobstatus_service.http.rate_limit import RateLimit
from jobstatus_service.http.request_state import request_state
from jobstatus_service.http.streaming import (
    RequestedJob,
    long_poll,
    respond,
    respond_no_content,
    stream,
)
from jobstatus_service.lookup.response import Header, StatusResponse, bulk_response
from jobstatus_service.lookup.statuses import Statuses
from jobstatus_service.metrics.metrics import Outcome


def require_api_key(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """Authenticate the client and apply its rate limit, before anything else is checked.

    Raises:
        NotAuthorizedException: The request has no API key, or a wrong one.
        RateLimitedError: The API key has exceeded its rate.
    """
    app_state, state = connection.app.state, request_state(connection.scope)
    api_keys: ApiKeys = app_state.api_keys
    api_key = api_keys.find(connection.headers.get("authorization"))
    if api_key is None:
        app_state.metrics.auth_failures += 1
        raise unauthorized()
    rate_limit: RateLimit | None = app_state.rate_limit
    if rate_limit is not None and not state.is_rate_checked:
        retry_seconds = rate_limit.take(api_key.name)
        if retry_seconds:
            app_state.metrics.rate_limited += 1
            raise RateLimitedError(retry_seconds)
    state.api_key = api_key


_get = functools.partial(get, guards=[require_api_key], tags=["jobs"], security=SECURITY)
"""A decorator that declares a route of the API, which requires an API key."""


@_get(
    "/api/jobs/{job_id:str}",
    operation_id="get_job_status_jobs__job_id__get",
    summary="Get Job Status",
    responses=STATUS_RESPONSES,
)
async def get_job_status(
    job_id: JobId, request: AnyRequest, wait: Wait = 0.0, until: Until = "change"
) -> ASGIApp:
    """Get the status of a job: at once, or after a wait for its next change."""
    job = _requested_job(request, _parse_job_id(job_id))
    if_none_match = _header(request, "if-none-match")
    extra_headers: list[Header] = []
    if "wait" not in request.query_params:
        preferred = preferred_wait(request.headers.getall("prefer", []))
        if preferred is not None:
            wait = preferred
            extra_headers.append((b"preference-applied", b"wait=%d" % preferred))
    state, statuses = request_state(request.scope), _statuses(request)
    if state.read_error is not None:
        raise state.read_error
    current, outcome = await statuses.get(job.key)
    if not wait:
        return respond(current, outcome, if_none_match, *extra_headers)

    def is_wanted(response: StatusResponse) -> bool:
        if response.is_final or until == "done":
            return response.is_final
        if if_none_match is None:
            return response.etag != current.etag
        return not response.matches_etag(if_none_match)

    state.has_waited = True
    response = await long_poll(statuses, job, current, request.receive, wait, is_wanted)
    return respond(response, "miss", if_none_match, *extra_headers)


@_get(
    "/api/jobs/{job_id:str}/events",
    operation_id="get_job_events",
    summary="Follow a Job",
    responses=EVENTS_RESPONSES,
)
async def get_job_events(job_id: JobId, request: AnyRequest) -> ASGIApp:
    """Stream the status of a job and each change of it, until the job is in a final state."""
    job = _requested_job(request, _parse_job_id(job_id))
    statuses = _statuses(request)
    current, _ = await statuses.get(job.key)
    if current.is_final and current.matches_etag(_header(request, "last-event-id")):
        return respond_no_content
    return stream(statuses, job, current)


@_get(
    "/api/jobs",
    operation_id="get_job_statuses",
    summary="Get Many Job Statuses",
    responses=STATUSES_RESPONSES,
)
async def get_job_statuses(
    request: AnyRequest,
    ids: JobIds = None,  # noqa: ARG001 - for the OpenAPI document; the order of both is needed
    keys: JobKeys = None,  # noqa: ARG001 - likewise
) -> ASGIApp:
    """Get the statuses of many jobs, with one round trip to Redis."""
    jobs = [_requested_job(request, uuid) for uuid in _parse_ids_and_keys(request)]
    statuses = _statuses(request)
    found = await asyncio.gather(*(statuses.get(job.key) for job in jobs))
    outcome: Outcome = "miss" if any(each == "miss" for _, each in found) else "hit"
    response = bulk_response(each for each, _ in found)
    return respond(response, outcome, _header(request, "if-none-match"))


def _parse_job_id(job_id: str) -> UUID:
    uuid = parse_uuid(job_id)
    if uuid is None:
        raise InvalidRequestError(invalid_job_id("path", "job_id"))
    return uuid


def _parse_ids_and_keys(request: AnyRequest) -> list[UUID]:
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


def _requested_job(request: AnyRequest, job_id: UUID) -> RequestedJob:
    client = request_state(request.scope).api_key
    if client is None:
        raise unauthorized()  # the guard has raised this already
    return RequestedJob(record_key(client.prefix, str(job_id)), client)


def _statuses(request: AnyRequest) -> Statuses:
    statuses: Statuses = request.app.state.statuses
    return statuses


def _header(request: AnyRequest, name: str) -> bytes | None:
    """Return a header; several lines of it are joined to one list (RFC 9110, 5.3)."""
    values = request.headers.getall(name, [])
    return ", ".join(values).encode("latin-1") if values else None
