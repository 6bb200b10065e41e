"""Every error of a request, and the response that it becomes.

    Exception
    ├── InvalidRequestError          422  below
    ├── InvalidTokenError            401  http.job_tokens
    ├── ForbiddenError               403  below
    ├── NoResultError                404 or 410  below
    ├── RateLimitedError             429  below
    ├── TooManyWatchersError         429, or 503 if it is the process's limit; lookup.watchers
    ├── UnavailableError             503  storage.link
    ├── litestar HTTPException       its own status: 404, 405, ...
    │   ├── NotAuthorizedException   401  raised with `unauthorized`
    │   └── ValidationException      422  a parameter that Litestar rejects
    └── any other                    500  logged with its traceback

A 422 has the contract's `HTTPValidationError` as its body, every other error `{"detail": "..."}`.
To add an error, define it here or in the layer that raises it, and add it to `exception_handlers`.
"""

import logging
from typing import Any, Final

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException, NotAuthorizedException, ValidationException
from litestar.types import ExceptionHandlersMap, Send

from jobstatus.logs import LOG_CONTEXT
from jobstatus_service.http.job_tokens import InvalidTokenError
from jobstatus_service.http.request_state import request_state
from jobstatus_service.lookup.response import JSON_HEADER, Header
from jobstatus_service.lookup.watchers import TooManyWatchersError
from jobstatus_service.storage.link import UnavailableError

_UNAVAILABLE_RETRY_SECONDS: Final = 1
_TOO_MANY_WATCHERS_RETRY_SECONDS: Final = 5

RATE_LIMITED_MESSAGE: Final = (
    "This client sends requests too often; retry after the seconds in Retry-After."
)

_CHALLENGE: Final = 'Bearer realm="jobstatus"'

_log = logging.getLogger("jobstatus.service")

AnyRequest = Request[Any, Any, Any]


class Detail(msgspec.Struct, frozen=True):
    """The body of an error: what is wrong, in one sentence."""

    detail: str


class ValidationError(msgspec.Struct, frozen=True):
    """One thing that is wrong with a request: where it is, what it is, and its kind."""

    loc: tuple[str | int, ...]
    msg: str
    type: str


class HTTPValidationError(msgspec.Struct, frozen=True):
    """The contract's body of a 422: everything that is wrong with a request."""

    detail: list[ValidationError]


class InvalidRequestError(Exception):
    """The request has invalid parameters."""

    def __init__(self, *errors: ValidationError) -> None:
        super().__init__(errors)
        self.errors = errors


class ForbiddenError(Exception):
    """A job token does not permit what was requested; the message says what, in one sentence."""


class NoResultError(Exception):
    """A job has no result, not yet, or no longer.

    Attributes:
        status: The HTTP status.
        detail: Why, in one sentence.
    """

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class RateLimitedError(Exception):
    """The client has exceeded its request rate.

    Attributes:
        retry_seconds: Whole seconds after which the next request is allowed.
    """

    def __init__(self, retry_seconds: int) -> None:
        super().__init__(RATE_LIMITED_MESSAGE)
        self.retry_seconds = retry_seconds


def unauthorized() -> NotAuthorizedException:
    """Return the error of a request without a valid API key."""
    return NotAuthorizedException(
        "A valid API key or job token is required in the Authorization header.",
        headers={"WWW-Authenticate": _CHALLENGE},
    )


def invalid_job_id(*loc: str | int) -> ValidationError:
    """Return the error of a job id that is not a UUID.

    Args:
        *loc: Where the id is in the request, such as `"path", "job_id"`.
    """
    message = (
        "A job id must be a UUID, with hyphens or as 32 hexadecimal digits. "
        "Ask for an id of any other form with GET /api/jobs?key=ID."
    )
    return ValidationError(loc, message, "uuid_parsing")


async def send_error(send: Send, status: int, detail: str, *extra_headers: Header) -> None:
    """Reject a request before it reaches a route.

    Args:
        send: As in ASGI.
        status: The HTTP status.
        detail: What is wrong, in one sentence.
        *extra_headers: Further headers.
    """
    headers = [JSON_HEADER, *extra_headers, (b"cache-control", b"no-store")]
    body = msgspec.json.encode(Detail(detail))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _on_invalid_request(_: AnyRequest, error: InvalidRequestError) -> Response[Any]:
    return Response(HTTPValidationError(list(error.errors)), status_code=422)


def _on_rejected_parameter(_: AnyRequest, error: ValidationException) -> Response[Any]:
    """Turn Litestar's own 400 into the contract's 422."""
    found = error.extra if isinstance(error.extra, list) and error.extra else [{}]
    errors = [
        ValidationError(
            (each.get("source", "query"), each.get("key", "id")),
            each.get("message", "A required parameter is missing."),
            "value_error",
        )
        for each in found
    ]
    return Response(HTTPValidationError(errors), status_code=422)


def _retry_later(status: int, detail: str, seconds: int) -> Response[Any]:
    return Response(
        Detail(detail),
        status_code=status,
        headers={"Retry-After": str(seconds), "Cache-Control": "no-store"},
    )


def _on_unavailable(request: AnyRequest, error: UnavailableError) -> Response[Any]:
    _log.debug("503: %s", error)  # at debug level, since the link has logged the outage once
    request_state(request.scope).outcome = "error"
    detail = "The status store is unavailable; retry after the seconds in Retry-After."
    return _retry_later(503, detail, _UNAVAILABLE_RETRY_SECONDS)


def _on_too_many_watchers(request: AnyRequest, error: TooManyWatchersError) -> Response[Any]:
    request.app.state.metrics.watchers_rejected += 1
    detail = f"{error} Read without waiting, or retry after the seconds in Retry-After."
    status = 429 if error.is_client_limit else 503
    return _retry_later(status, detail, _TOO_MANY_WATCHERS_RETRY_SECONDS)


def _on_invalid_token(_: AnyRequest, error: InvalidTokenError) -> Response[Any]:
    challenge = f'{_CHALLENGE}, error="invalid_token", error_description="{error}"'  # RFC 6750, 3
    return Response(Detail(str(error)), status_code=401, headers={"WWW-Authenticate": challenge})


def _on_forbidden(_: AnyRequest, error: ForbiddenError) -> Response[Any]:
    return Response(Detail(str(error)), status_code=403)


def _on_no_result(_: AnyRequest, error: NoResultError) -> Response[Any]:
    return Response(
        Detail(error.detail), status_code=error.status, headers={"Cache-Control": "no-store"}
    )


def _on_rate_limited(_: AnyRequest, error: RateLimitedError) -> Response[Any]:
    return _retry_later(429, str(error), error.retry_seconds)


def _on_http_exception(_: AnyRequest, error: HTTPException) -> Response[Any]:
    return Response(Detail(error.detail), status_code=error.status_code, headers=error.headers)


def _on_unexpected(request: AnyRequest, error: Exception) -> Response[Any]:
    request_id = LOG_CONTEXT.get().get("request_id", "")
    # The route's pattern is logged instead of the path, which may contain secrets.
    route = request.scope.get("path_template", "?")
    _log.error("%s %s failed (request %s)", request.method, route, request_id, exc_info=error)
    state = request_state(request.scope)
    state.outcome = "error"
    has_id = state.log_fields is not None  # the access log adds the id to every response
    return Response(
        Detail("An internal error occurred; the service's log has the details."),
        status_code=500,
        headers=None if has_id else {"X-Request-ID": request_id},
    )


exception_handlers: Final[ExceptionHandlersMap] = {
    ForbiddenError: _on_forbidden,
    InvalidTokenError: _on_invalid_token,
    InvalidRequestError: _on_invalid_request,
    NoResultError: _on_no_result,
    RateLimitedError: _on_rate_limited,
    TooManyWatchersError: _on_too_many_watchers,
    UnavailableError: _on_unavailable,
    ValidationException: _on_rejected_parameter,
    HTTPException: _on_http_exception,
    Exception: _on_unexpected,
}
