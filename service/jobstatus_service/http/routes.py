"""What can be asked for: one job, many jobs, the events of a job."""

import asyncio
import functools
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import msgspec
from litestar import Request, get
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import Parameter, QueryParameter
from litestar.types import ASGIApp

from jobstatus.status import JobStatus, parse_uuid
from jobstatus_service.http import openapi
from jobstatus_service.http.api_keys import ApiKey, ApiKeys
from jobstatus_service.http.errors import (
    Detail,
    HTTPValidationError,
    InvalidRequestError,
    RateLimitedError,
    ValidationError,
    invalid_job_id,
    unauthorized,
)
from jobstatus_service.http.prefer import MAX_WAIT_SECONDS, preferred_wait
from jobstatus_service.http.rate_limit import RateLimit
from jobstatus_service.http.streaming import Job, hold, no_content, respond, stream
from jobstatus_service.lookup.representation import validator
from jobstatus_service.lookup.response import StatusResponse, response
from jobstatus_service.lookup.statuses import Statuses
from jobstatus_service.metrics.metrics import Outcome
from jobstatus_service.settings import MAX_BULK_IDS

AnyRequest = Request[Any, Any, Any]

JobId = Annotated[str, Parameter(title="Job Id", schema_extra={"format": "uuid"})]

JobIds = Annotated[
    list[str],
    QueryParameter(
        name="id",
        title="Job Ids",
        description=f"1 to {MAX_BULK_IDS} ids, each a UUID, hyphenated or as 32 hex digits.",
    ),
]

Wait = Annotated[
    float,
    QueryParameter(
        title="Wait",
        description="Seconds to wait for the job to differ from what If-None-Match names, or, "
        "without that, from what it is now.",
        ge=0,
        le=MAX_WAIT_SECONDS,
    ),
]

Until = Annotated[
    Literal["change", "done"],
    QueryParameter(title="Until", description="What to wait for: any change, or the job's end."),
]


class JobStatuses(msgspec.Struct, frozen=True):
    """The statuses of many jobs, in the order asked."""

    jobs: list[JobStatus]


def require_api_key(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """Guard: find out whose API key the request has, before anything else is looked at.

    Raises:
        NotAuthorizedException: it has none, or a wrong one.
        TooOftenError: it asks too often.
    """
    keys: ApiKeys = connection.app.state.api_keys
    key = keys.find(connection.headers.get("authorization"))
    if key is None:
        connection.app.state.metrics.auth_failures += 1
        raise unauthorized()
    rate: RateLimit | None = connection.app.state.rate
    if rate is not None and not connection.scope["state"].get("is_admitted", False):
        wait = rate.take(key.name)
        if wait:
            connection.app.state.metrics.rate_limited += 1
            raise RateLimitedError(wait)
    connection.state.api_key = key


_get = functools.partial(get, guards=[require_api_key], tags=["jobs"], security=openapi.SECURITY)
"""A route of the API: a key is needed."""


def _says(kind: type | None, description: str, **more: Any) -> ResponseSpec:
    return ResponseSpec(kind, description=description, generate_examples=False, **more)


_ALWAYS: Final = {
    401: _says(Detail, "No API key, or a wrong one"),
    503: _says(Detail, "Redis can't be reached in time, or the service is too busy"),
}
_NOT_MODIFIED: Final = {304: _says(None, "Not changed since the validator")}
_TOO_MANY: Final = {
    429: _says(Detail, "The API key asks too often, or has too many waits and streams open")
}


@_get(
    "/api/jobs/{job_id:str}",
    operation_id="get_job_status_jobs__job_id__get",
    summary="Get Job Status",
    responses=_ALWAYS
    | _NOT_MODIFIED
    | _TOO_MANY
    | {
        200: _says(JobStatus, "Successful Response"),
        422: _says(HTTPValidationError, "Validation Error"),
    },
)
async def get_job_status(
    job_id: JobId, request: AnyRequest, wait: Wait = 0.0, until: Until = "change"
) -> ASGIApp:
    """Where the job stands: now, or after a wait as soon as that is worth telling."""
    job = _job(request, job_id)
    known = _header(request, "if-none-match")
    more: list[tuple[bytes, bytes]] = []
    if "wait" not in request.query_params:
        preferred = preferred_wait(request.headers.getall("prefer", []))
        if preferred is not None:
            wait = preferred
            more.append((b"preference-applied", b"wait=%d" % preferred))
    if (fault := request.scope["state"].get("fault")) is not None:
        raise fault  # the fast lane has asked already
    if not wait:
        return respond(*await _read(request, job), known, *more)
    first = await _statuses(request).get(job.key)

    def is_worth(response: StatusResponse) -> bool:
        if response.is_final or until == "done":
            return response.is_final
        return response.etag != first.etag if known is None else not response.matches_etag(known)

    request.state.waited = True
    told = await hold(_statuses(request), job, first, request.receive, wait, is_worth)
    return respond(told, "miss", known, *more)


@_get(
    "/api/jobs/{job_id:str}/events",
    operation_id="get_job_events",
    summary="Follow a Job",
    responses=_ALWAYS
    | _TOO_MANY
    | {
        200: _says(
            str,
            "Server-sent events: `event: status`, `data:` a JobStatus, `id:` its ETag. The current "
            "status comes first, then each change; the stream ends when the job is over.",
            media_type="text/event-stream",
        ),
        204: _says(None, "The job is over, and Last-Event-ID says that this is known"),
        422: _says(HTTPValidationError, "Validation Error"),
    },
)
async def get_job_events(job_id: JobId, request: AnyRequest) -> ASGIApp:
    """Each change of the job, until it is over."""
    job = _job(request, job_id)
    response = await _statuses(request).get(job.key)
    if response.is_final and response.matches_etag(_header(request, "last-event-id")):
        return no_content
    return stream(_statuses(request), job, response)


@_get(
    "/api/jobs",
    operation_id="get_job_statuses",
    summary="Get Many Job Statuses",
    responses=_ALWAYS
    | _NOT_MODIFIED
    | _TOO_MANY
    | {
        200: _says(JobStatuses, "The jobs' statuses, in the order asked"),
        422: _says(HTTPValidationError, "A bad id, no id, or too many"),
    },
)
async def get_job_statuses(request: AnyRequest, ids: JobIds) -> ASGIApp:
    """Where many jobs stand: one round trip to Redis, however many they are."""
    most = request.app.state.settings.max_bulk_ids
    if not 1 <= len(ids) <= most:
        message = f"there are {len(ids)} ids: 1 to {most} can be asked for at once"
        raise InvalidRequestError(ValidationError(("query", "id"), message, "list_length"))
    uuids = [parse_uuid(job_id) for job_id in ids]
    wrong = [invalid_job_id("query", "id", n) for n, uuid in enumerate(uuids) if uuid is None]
    if wrong:
        raise InvalidRequestError(*wrong)
    jobs = [_job_of(request, uuid) for uuid in uuids if uuid is not None]
    told = await asyncio.gather(*(_read(request, job) for job in jobs))
    body = b'{"jobs":[%b]}' % b",".join(one.body for one, _ in told)
    outcome: Outcome = "miss" if any(each == "miss" for _, each in told) else "hit"
    many = response(body, validator(body), "private, no-cache")
    return respond(many, outcome, _header(request, "if-none-match"))


def _job(request: AnyRequest, job_id: str) -> Job:
    uuid = parse_uuid(job_id)
    if uuid is None:
        raise InvalidRequestError(invalid_job_id("path", "job_id"))
    return _job_of(request, uuid)


def _job_of(request: AnyRequest, uuid: UUID) -> Job:
    owner: ApiKey = request.state.api_key
    return Job(f"{owner.prefix}:{uuid}", owner)


def _statuses(request: AnyRequest) -> Statuses:
    statuses: Statuses = request.app.state.statuses
    return statuses


def _header(request: AnyRequest, name: str) -> bytes | None:
    values = request.headers.getall(name, [])  # lines of one header are one list
    return ", ".join(values).encode("latin-1") if values else None


async def _read(request: AnyRequest, job: Job) -> tuple[StatusResponse, Outcome]:
    """What is said of a job now, and how that is counted."""
    statuses = _statuses(request)
    response = statuses.fresh(job.key)
    if response is not None:
        return response, "hit"
    return await statuses.reader.read(job.key), "miss"
