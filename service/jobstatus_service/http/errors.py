"""How the service says no: `{"detail": ...}`, and the contract's `HTTPValidationError`."""

import logging
from typing import Any, Final

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException, NotAuthorizedException, ValidationException
from litestar.types import ExceptionHandlersMap

from jobstatus.logs import LOG_CONTEXT
from jobstatus_service.lookup.response import RATE_LIMITED_MESSAGE
from jobstatus_service.lookup.watchers import TooManyWatchersError
from jobstatus_service.storage.link import UnavailableError

_log = logging.getLogger("jobstatus.service")

RETRY_AFTER = 1
"""Seconds after which a poller may ask again when Redis can't be reached."""


_TOO_MANY_AFTER: Final = 5
"""Seconds after which there may be room for another wait or stream."""


class Detail(msgspec.Struct, frozen=True):
    """Why not, in one sentence."""

    detail: str


class ValidationError(msgspec.Struct, frozen=True):
    """One thing that is wrong with a request: where, what, and its kind."""

    loc: tuple[str | int, ...]
    msg: str
    type: str


class HTTPValidationError(msgspec.Struct, frozen=True):
    """Everything that is wrong with a request: the contract's 422."""

    detail: list[ValidationError]


class InvalidRequestError(Exception):
    """The request can't be understood."""

    def __init__(self, *errors: ValidationError) -> None:
        super().__init__(errors)
        self.errors = errors


class RateLimitedError(Exception):
    """The API key asks too often.

    Attributes:
        wait: Seconds after which it may ask again.
    """

    def __init__(self, wait: int) -> None:
        super().__init__(RATE_LIMITED_MESSAGE)
        self.wait = wait


def unauthorized() -> NotAuthorizedException:
    """What is raised for a request without a valid API key."""
    return NotAuthorizedException(
        "a valid API key is needed in the Authorization header",
        headers={"WWW-Authenticate": 'Bearer realm="jobstatus"'},
    )


def invalid_job_id(*loc: str | int) -> ValidationError:
    """What is wrong with a job id that is no UUID.

    Args:
        *loc: Where it stands, such as `"path", "job_id"`.
    """
    message = "a job id is a UUID, hyphenated or as 32 hex digits"
    return ValidationError(loc, message, "uuid_parsing")


def _invalid(_: Request[Any, Any, Any], error: InvalidRequestError) -> Response[Any]:
    return Response(HTTPValidationError(list(error.errors)), status_code=422)


def _rejected(_: Request[Any, Any, Any], error: ValidationException) -> Response[Any]:
    """What Litestar itself finds wrong, in the contract's form."""
    found = error.extra if isinstance(error.extra, list) and error.extra else [{}]
    errors = [
        ValidationError(
            (each.get("source", "query"), each.get("key", "id")),
            each.get("message", "a parameter is missing"),
            "value_error",
        )
        for each in found
    ]
    return Response(HTTPValidationError(errors), status_code=422)


def _unavailable(request: Request[Any, Any, Any], error: UnavailableError) -> Response[Any]:
    _log.debug("503: %s", error)  # the reader has said what is wrong, once
    request.scope["state"]["outcome"] = "error"
    return Response(
        Detail("the status store can't be reached; try again soon"),
        status_code=503,
        headers={"Retry-After": str(RETRY_AFTER), "Cache-Control": "no-store"},
    )


def _too_many(request: Request[Any, Any, Any], error: TooManyWatchersError) -> Response[Any]:
    request.app.state.metrics.watchers_rejected += 1
    return Response(
        Detail(f"{error}; read without waiting, or come back"),
        status_code=429 if error.is_theirs else 503,
        headers={"Retry-After": str(_TOO_MANY_AFTER), "Cache-Control": "no-store"},
    )


def _too_often(_: Request[Any, Any, Any], error: RateLimitedError) -> Response[Any]:
    return Response(
        Detail(str(error)),
        status_code=429,
        headers={"Retry-After": str(error.wait), "Cache-Control": "no-store"},
    )


def _http(_: Request[Any, Any, Any], error: HTTPException) -> Response[Any]:
    return Response(Detail(error.detail), status_code=error.status_code, headers=error.headers)


def _route(request: Request[Any, Any, Any]) -> str:
    """The route's pattern: what clients write into a path is theirs."""
    return str(request.scope.get("path_template", "?"))


def _unexpected(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    request_id = LOG_CONTEXT.get().get("request_id", "")
    _log.error("%s %s failed (%s)", request.method, _route(request), request_id, exc_info=error)
    request.scope["state"]["outcome"] = "error"
    return Response(
        Detail("something is wrong here; it is in the log"),
        status_code=500,
        headers={"X-Request-ID": LOG_CONTEXT.get().get("request_id", "")},
    )


handlers: ExceptionHandlersMap = {
    InvalidRequestError: _invalid,
    UnavailableError: _unavailable,
    TooManyWatchersError: _too_many,
    RateLimitedError: _too_often,
    ValidationException: _rejected,
    HTTPException: _http,
    Exception: _unexpected,
}
