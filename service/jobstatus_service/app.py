"""The HTTP service: a Litestar application that answers from what stands in Redis."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from importlib.metadata import version
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
from litestar import Litestar, Request, get
from litestar.connection import ASGIConnection
from litestar.exceptions import NotAuthorizedException
from litestar.handlers import BaseRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import Parameter, QueryParameter
from litestar.response.base import ASGIResponse

from jobstatus.status import JobStatus, parse_uuid
from jobstatus.store import check_url
from jobstatus_service import openapi
from jobstatus_service.answer import Answer, answer, matches, validator
from jobstatus_service.errors import (
    Detail,
    HTTPValidationError,
    InvalidRequestError,
    ValidationError,
    handlers,
    invalid_job_id,
)
from jobstatus_service.health import Readiness, livez, readyz
from jobstatus_service.keys import ApiKey, ApiKeys
from jobstatus_service.reader import Reader
from jobstatus_service.settings import ServiceSettings

MOST_IDS: Final = 100
"""Ids in one bulk read."""

_JSON = "application/json"

JobId = Annotated[
    str,
    Parameter(
        title="Job Id",
        schema_extra={"format": "uuid"},
    ),
]


JobIds = Annotated[
    list[str],
    QueryParameter(
        name="id",
        title="Job Ids",
        description=f"1 to {MOST_IDS} ids, each a UUID, hyphenated or as 32 hex digits.",
    ),
]


class JobStatuses(msgspec.Struct, frozen=True):
    """The statuses of many jobs, in the order asked."""

    jobs: list[JobStatus]


def must_have_key(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """Guard: find out whose API key the request has, before anything else is looked at.

    Raises:
        NotAuthorizedException: it has none, or a wrong one.
    """
    keys: ApiKeys = connection.app.state.api_keys
    key = keys.find(connection.headers.get("authorization"))
    if key is None:
        raise NotAuthorizedException(
            "a valid API key is needed in the Authorization header",
            headers={"WWW-Authenticate": 'Bearer realm="jobstatus"'},
        )
    connection.state.api_key = key


def _says(kind: type | None, description: str) -> ResponseSpec:
    return ResponseSpec(kind, description=description, generate_examples=False)


_ALWAYS: Final = {
    304: _says(None, "Not changed since the validator"),
    401: _says(Detail, "No API key, or a wrong one"),
    503: _says(Detail, "Redis can't be reached in time"),
}


@get(
    "/api/jobs/{job_id:str}",
    guards=[must_have_key],
    operation_id="get_job_status_jobs__job_id__get",
    summary="Get Job Status",
    tags=["jobs"],
    security=openapi.SECURITY,
    responses=_ALWAYS
    | {
        200: _says(JobStatus, "Successful Response"),
        422: _says(HTTPValidationError, "Validation Error"),
    },
)
async def get_job_status(job_id: JobId, request: Request[Any, Any, Any]) -> ASGIResponse:
    """Where the job stands."""
    uuid = parse_uuid(job_id)
    if uuid is None:
        raise InvalidRequestError(invalid_job_id("path", "job_id"))
    told = await _tell(request, uuid)
    return _respond(request, told.body, told.etag, told.cache_control)


@get(
    "/api/jobs",
    guards=[must_have_key],
    operation_id="get_job_statuses",
    summary="Get Many Job Statuses",
    tags=["jobs"],
    security=openapi.SECURITY,
    responses=_ALWAYS
    | {
        200: _says(JobStatuses, "The jobs' statuses, in the order asked"),
        422: _says(HTTPValidationError, "A bad id, no id, or too many"),
    },
)
async def get_job_statuses(request: Request[Any, Any, Any], ids: JobIds) -> ASGIResponse:
    """Where many jobs stand: one round trip to Redis, however many they are."""
    if not 1 <= len(ids) <= MOST_IDS:
        message = f"there are {len(ids)} ids: 1 to {MOST_IDS} can be asked for at once"
        raise InvalidRequestError(ValidationError(("query", "id"), message, "list_length"))
    uuids = [parse_uuid(job_id) for job_id in ids]
    wrong = [invalid_job_id("query", "id", n) for n, uuid in enumerate(uuids) if uuid is None]
    if wrong:
        raise InvalidRequestError(*wrong)
    told = await asyncio.gather(*(_tell(request, uuid) for uuid in uuids if uuid is not None))
    body = b'{"jobs":[%b]}' % b",".join(each.body for each in told)
    return _respond(request, body, validator(body), "private, no-cache")


async def _tell(request: Request[Any, Any, Any], uuid: UUID) -> Answer:
    """The answer about one job. All that are asked for in one turn share a round trip."""
    key: ApiKey = request.state.api_key
    settings: ServiceSettings = request.app.state.settings
    found = await request.app.state.reader.read(f"{key.prefix}:{uuid}")
    return answer(uuid, found, settings.lease)


def _respond(
    request: Request[Any, Any, Any], body: bytes, etag: str, cache_control: str
) -> ASGIResponse:
    headers = {"etag": etag, "cache-control": cache_control}
    if matches(request.headers.get("if-none-match", ""), etag):
        return ASGIResponse(status_code=304, headers=headers)
    return ASGIResponse(body=body, headers=headers, media_type=_JSON)


def create_app(settings: ServiceSettings | None = None) -> Litestar:
    """The application.

    Args:
        settings: None: as the environment says.

    Raises:
        SettingsError: a setting can't be used, or there is no API key.
    """
    settings = settings or ServiceSettings.from_env()
    check_url(settings)
    keys = ApiKeys(settings)

    @contextlib.asynccontextmanager
    async def connected(app: Litestar) -> AsyncGenerator[None, None]:
        reader = Reader.from_settings(settings)
        app.state.reader = reader
        app.state.readiness = Readiness(reader)
        watch = asyncio.create_task(keys.watch())
        try:
            yield
        finally:
            watch.cancel()
            await reader.close()

    app = Litestar(
        [get_job_status, get_job_statuses, livez, readyz],
        lifespan=[connected],
        openapi_config=openapi.config(version("jobstatus")),
        exception_handlers=handlers,
        logging_config=None,
    )
    app.state.settings = settings
    app.state.api_keys = keys
    openapi.publish_contract(app.openapi_schema)
    return app
