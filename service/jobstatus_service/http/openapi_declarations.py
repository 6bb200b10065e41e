"""What the OpenAPI document says about the parameters, responses and headers of the routes.

A route names its parameters' types and its responses from here. What Litestar can't express, such
as headers and bounds of 0, is in tables by the route's path, from which `openapi` completes the
document.
"""

from typing import Annotated, Any, Final, Literal

import msgspec
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import OpenAPIFormat, OpenAPIType, Schema
from litestar.params import Parameter, QueryParameter

from jobstatus.details import JobDetails
from jobstatus.status import NAME_LIMIT, JobState, JobStatus
from jobstatus_service.http.errors import Detail, HTTPValidationError
from jobstatus_service.http.prefer import MAX_WAIT_SECONDS
from jobstatus_service.settings import MAX_BULK_IDS

DEFAULT_LIMIT: Final = 50
MAX_LIMIT: Final = 200
"""Jobs that a page of a list has at most, by default and if a request asks for it."""

SECURITY: Final = [{"APIKeyHeader": list[str]()}]

# Parameters

JobId = Annotated[str, Parameter(title="Job Id", schema_extra={"format": "uuid"})]

JobIds = Annotated[
    list[str] | None,
    QueryParameter(
        name="id",
        title="Job Ids",
        description="Ids that are UUIDs, with hyphens or as 32 hex digits. A request has 1 to "
        f"{MAX_BULK_IDS} ids and keys, mixed as you like; the response has their order. A request "
        "without any is answered with a list.",
    ),
]

JobKeys = Annotated[
    list[str] | None,
    QueryParameter(
        name="key",
        title="Job Keys",
        description="Ids of any form, as they were given to the queue, such as `cron:tidy:1764` or "
        "`tenant7:resize:2026-11`. A UUID is taken as an id.",
    ),
]

Wait = Annotated[
    float,
    QueryParameter(
        title="Wait",
        description="Seconds to wait until the job's status differs from the one that "
        "If-None-Match names, or, without that header, from the current one.",
        ge=0,
        le=MAX_WAIT_SECONDS,
    ),
]

Until = Annotated[
    Literal["change", "done"],
    QueryParameter(
        title="Until",
        description="What to wait for: any change, or a final state of the job.",
    ),
]

BulkUntil = Annotated[
    Literal["change", "done", "any-done"],
    QueryParameter(
        name="until",
        title="Until",
        description="What to wait for: any change, final states of all jobs, or of any of them.",
    ),
]

States = Annotated[
    list[str] | None,
    QueryParameter(
        name="state",
        title="States",
        description="The states of the jobs to list; all if there is none.",
    ),
]

Name = Annotated[
    str | None,
    QueryParameter(
        title="Name",
        description="The name of the jobs to list. One request examines a limited number of jobs, "
        "so a page may have few or none although the list goes on.",
    ),
]

Limit = Annotated[
    int,
    QueryParameter(
        title="Limit", description="How many jobs a page has at most.", ge=1, le=MAX_LIMIT
    ),
]

ListCursor = Annotated[
    str | None,
    QueryParameter(
        name="cursor",
        title="Cursor",
        description="Where the list goes on: `next` of the page before, with the same states and "
        "name. It never expires.",
    ),
]

WithDetails = Annotated[
    bool,
    QueryParameter(
        title="Details",
        description="Whether to respond with the JobDetails of the jobs, not their JobStatus. "
        "Lists always do.",
    ),
]

_STATE_NAMES: Final = [state.value for state in JobState]

QUERY_SCHEMAS: Final = {
    "wait": Schema(
        type=OpenAPIType.NUMBER, title="Wait", minimum=0, maximum=MAX_WAIT_SECONDS, default=0
    ),
    "until": Schema(
        type=OpenAPIType.STRING, title="Until", enum=["change", "done"], default="change"
    ),
    "id": Schema(
        type=OpenAPIType.ARRAY,
        title="Job Ids",
        items=Schema(type=OpenAPIType.STRING, title="Job Id", format=OpenAPIFormat.UUID),
        max_items=MAX_BULK_IDS,
    ),
    "key": Schema(
        type=OpenAPIType.ARRAY,
        title="Job Keys",
        items=Schema(type=OpenAPIType.STRING, title="Job Key", min_length=1),
        max_items=MAX_BULK_IDS,
    ),
    "state": Schema(
        type=OpenAPIType.ARRAY,
        title="States",
        items=Schema(type=OpenAPIType.STRING, title="State", enum=_STATE_NAMES),
    ),
    "name": Schema(type=OpenAPIType.STRING, title="Name", min_length=1, max_length=NAME_LIMIT),
    "limit": Schema(
        type=OpenAPIType.INTEGER, title="Limit", minimum=1, maximum=MAX_LIMIT, default=DEFAULT_LIMIT
    ),
    "cursor": Schema(type=OpenAPIType.STRING, title="Cursor"),
}
"""The schemas of query parameters by name. Those that Litestar generates lose a bound of 0."""

PATH_QUERY_SCHEMAS: Final = {
    ("/api/jobs", "until"): Schema(
        type=OpenAPIType.STRING,
        title="Until",
        enum=["change", "done", "any-done"],
        default="change",
    ),
}
"""Those that are different at one path."""

# Responses


class JobStatuses(msgspec.Struct, frozen=True):
    """The statuses of many jobs, in the order of the ids and keys in the request."""

    jobs: list[JobStatus]


class JobDetailsOfMany(msgspec.Struct, frozen=True):
    """The same with `details`."""

    jobs: list[JobDetails]


class JobList(msgspec.Struct, frozen=True):
    """A page of a list.

    Attributes:
        jobs: The jobs, newest first: unfinished ones by `created_at`, finished ones by
            `finished_at`.
        next: The cursor of the next page; null at the end of the list.
    """

    jobs: list[JobDetails]
    next: str | None


class JobCounts(msgspec.Struct, frozen=True):
    """How many jobs are stored in each state; `in_progress` includes those with expired leases."""

    pending: int
    in_progress: int
    retrying: int
    succeeded: int
    aborted: int
    failed: int


def _response(body: Any, description: str, **more: Any) -> ResponseSpec:
    return ResponseSpec(body, description=description, generate_examples=False, **more)


_ERRORS: Final = {
    401: _response(Detail, "No API key or job token, or one that is not valid"),
    403: _response(Detail, "The job token does not permit this"),
    414: _response(Detail, "The URL is too long"),
    429: _response(
        Detail, "The client sends requests too often, or has too many waits and streams open"
    ),
    503: _response(Detail, "Redis is unavailable, or the service is too busy"),
}
_INVALID: Final = {422: _response(HTTPValidationError, "Validation Error")}
_NOT_MODIFIED: Final = {304: _response(None, "Not changed since the validator")}

STATUS_RESPONSES: Final = {
    200: _response(JobStatus, "Successful Response"),
    **_NOT_MODIFIED,
    **_INVALID,
    **_ERRORS,
}
EVENTS_RESPONSES: Final = {
    200: _response(
        str,
        "Server-sent events: `event: status`, `data:` a JobStatus, `id:` its ETag. The current "
        "status comes first, then each change; the stream ends when the job is in a final state.",
        media_type="text/event-stream",
    ),
    204: _response(None, "The job is in a final state, which Last-Event-ID names"),
    **_INVALID,
    **_ERRORS,
}
DETAILS_RESPONSES: Final = {
    200: _response(JobDetails, "The status of the job, with its details"),
    **_NOT_MODIFIED,
    **_INVALID,
    **_ERRORS,
}
RESULT_RESPONSES: Final = {
    200: _response(object, "The result of the job: any JSON"),
    404: _response(Detail, "The job has no result: it has not finished, or has made none"),
    410: _response(Detail, "The result was dropped; `detail` says why"),
    **_NOT_MODIFIED,
    **_INVALID,
    **_ERRORS,
}
COLLECTION_RESPONSES: Final = {
    200: _response(
        JobStatuses | JobDetailsOfMany | JobList,
        "With ids or keys: the jobs' statuses, in their order. Without: a page of the list.",
    ),
    422: _response(HTTPValidationError, "An invalid parameter, or too many ids and keys"),
    **_NOT_MODIFIED,
    **_ERRORS,
}
COUNTS_RESPONSES: Final = {
    200: _response(JobCounts, "The number of jobs in each state"),
    **_NOT_MODIFIED,
    **_ERRORS,
}
COLLECTION_EVENTS_RESPONSES: Final = {
    200: _response(
        str,
        "Server-sent events. With ids or keys: `event: status`, `data:` a JobStatus (a "
        "JobDetails with `details`), `id:` its ETag; first all jobs, then each change; the stream "
        "ends when all are in a final state. Without: `event: list`, `data:` the newest jobs of "
        "the list, as GET /api/jobs has them; then `event: status`, `data:` a JobDetails, for each "
        "of these that changes and each new one; and `event: counts`, `data:` the numbers of all "
        "jobs, at most once a second.",
        media_type="text/event-stream",
    ),
    204: _response(None, "All jobs are in final states, which Last-Event-ID names"),
    422: _response(HTTPValidationError, "An invalid parameter, or too many ids and keys"),
    **_ERRORS,
}

# Headers

REQUEST_HEADERS: Final = {
    "If-None-Match": "Validators of statuses that the client has; a 304 if one is still current.",
    "Prefer": f"`wait=SECONDS`, like the parameter `wait`; 0 to {MAX_WAIT_SECONDS} (RFC 7240).",
    "Last-Event-ID": "The `id` of the last event; a 204 if it had the job's final state.",
}
RESPONSE_HEADERS: Final = {
    "ETag": "A strong validator: the hash of the body, the same on every replica.",
    "Cache-Control": "`private, max-age=30` in a final state of the job, before that "
    "`private, no-cache`.",
    "Retry-After": "The poll interval: whole seconds after which the next request is useful.",
    "Preference-Applied": "The wait that was taken from `Prefer`.",
    "Job-Unknown-Cause": "Why the state is `unknown`: `no_record`, `lease_expired` or "
    "`unreadable`. In other states there is no such header.",
    "WWW-Authenticate": "How to send an API key or a job token, and what is wrong with the token.",
}

_STATUS_HEADERS: Final = (
    *("ETag", "Cache-Control", "Retry-After", "Job-Unknown-Cause", "Preference-Applied"),
)
_BULK_HEADERS: Final = ("ETag", "Cache-Control")

HeadersByStatus = dict[str, tuple[str, ...]]

HEADERS: Final[dict[str, tuple[tuple[str, ...], HeadersByStatus]]] = {
    "/api/jobs/{job_id}": (
        ("If-None-Match", "Prefer"),
        {"200": _STATUS_HEADERS, "304": _STATUS_HEADERS},
    ),
    "/api/jobs/{job_id}/details": (
        ("If-None-Match", "Prefer"),
        {"200": _STATUS_HEADERS, "304": _STATUS_HEADERS},
    ),
    "/api/jobs/{job_id}/events": (("Last-Event-ID",), {"200": ("Cache-Control",)}),
    "/api/jobs/{job_id}/result": (
        ("If-None-Match",),
        {"200": _BULK_HEADERS, "304": _BULK_HEADERS},
    ),
    "/api/jobs": (
        ("If-None-Match", "Prefer"),
        {
            "200": (*_BULK_HEADERS, "Retry-After", "Preference-Applied"),
            "304": (*_BULK_HEADERS, "Retry-After"),
        },
    ),
    "/api/jobs/counts": (("If-None-Match",), {"200": _BULK_HEADERS, "304": _BULK_HEADERS}),
    "/api/jobs/events": (("Last-Event-ID",), {"200": ("Cache-Control",)}),
}
"""The headers of the request, and of the response by its status, for each path."""

ERROR_HEADERS: Final[HeadersByStatus] = {
    "401": ("WWW-Authenticate",),
    "429": ("Retry-After",),
    "503": ("Retry-After",),
}
"""The headers of errors, the same for every path."""
