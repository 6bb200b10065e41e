"""The OpenAPI document: the published contract's components, as they stand there."""

from typing import Any, Final

from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin, SwaggerRenderPlugin
from litestar.openapi.spec import (
    Components,
    OpenAPI,
    OpenAPIFormat,
    OpenAPIHeader,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    Parameter,
    Reference,
    Schema,
    SecurityScheme,
)

from jobstatus.status import JobState
from jobstatus_service.http.prefer import MAX_WAIT_SECONDS
from jobstatus_service.settings import MAX_BULK_IDS

NAME_PATTERN: Final = (
    r"^[\p{L}\p{Nl}\p{Pattern_Syntax}\p{Pattern_White_Space}]+"
    r"[\p{ID_Start}\p{Mn}\p{Mc}\p{Nd}\p{Pc}\p{Pattern_Syntax}\p{Pattern_White_Space}]*$"
)
"""Published, not enforced: `re` can't hold it, and its own default doesn't match it."""

SECURITY: Final = [{"APIKeyHeader": list[str]()}]


def _text(title: str, **more: Any) -> Schema:
    return Schema(type=OpenAPIType.STRING, title=title, **more)


_TIME: Final = {"format": OpenAPIFormat.DATE_TIME, "read_only": True}

SCHEMAS: Final[dict[str, Schema]] = {
    "JobStatus": Schema(
        title="JobStatus",
        type=OpenAPIType.OBJECT,
        required=["id", "created_at", "updated_at"],
        properties={
            "id": _text("Id", format=OpenAPIFormat.UUID, read_only=True),
            "created_at": _text("Created At", **_TIME),
            "updated_at": _text("Updated At", **_TIME),
            "name": _text("Name", max_length=120, pattern=NAME_PATTERN, default=""),
            "reason": _text("Reason", default=""),
            "has_progress": Schema(type=OpenAPIType.BOOLEAN, title="Has Progress", default=False),
            "progress": Schema(
                type=OpenAPIType.NUMBER, title="Progress", minimum=0, maximum=100, default=0
            ),
            "state": _text(
                "State",
                enum=[state.value for state in JobState],
                default="pending",
            ),
        },
    ),
    "HTTPValidationError": Schema(
        title="HTTPValidationError",
        type=OpenAPIType.OBJECT,
        properties={
            "detail": Schema(
                title="Detail",
                type=OpenAPIType.ARRAY,
                items=Reference(ref="#/components/schemas/ValidationError"),
            )
        },
    ),
    "ValidationError": Schema(
        title="ValidationError",
        type=OpenAPIType.OBJECT,
        required=["loc", "msg", "type"],
        properties={
            "loc": Schema(
                title="Location",
                type=OpenAPIType.ARRAY,
                items=Schema(
                    any_of=[Schema(type=OpenAPIType.STRING), Schema(type=OpenAPIType.INTEGER)]
                ),
            ),
            "msg": _text("Message"),
            "type": _text("Error Type"),
        },
    ),
}
"""The contract's schemas. Litestar's own generation loses `readOnly` and the pattern."""


def config(version: str) -> OpenAPIConfig:
    """The document's head; the page is at `/schema`, the JSON at `/schema/openapi.json`."""
    return OpenAPIConfig(
        title="jobstatus",
        version=version,
        description="Is it done yet? The status of background jobs.",
        path="/schema",
        components=Components(
            security_schemes={
                "APIKeyHeader": SecurityScheme(
                    type="apiKey", name="Authorization", security_scheme_in="header"
                )
            }
        ),
        render_plugins=[SwaggerRenderPlugin(path="/"), JsonRenderPlugin()],
    )


_PARAMETERS: Final = {
    "wait": Schema(
        type=OpenAPIType.NUMBER, title="Wait", minimum=0, maximum=MAX_WAIT_SECONDS, default=0
    ),
    "until": _text("Until", enum=["change", "done"], default="change"),
    "id": Schema(
        type=OpenAPIType.ARRAY,
        title="Job Ids",
        items=_text("Job Id", format=OpenAPIFormat.UUID),
        min_items=1,
        max_items=MAX_BULK_IDS,
    ),
}
"""Schemas of the query. Litestar's own lose a bound of 0."""

_ASKS: Final = {
    "If-None-Match": "Validators of what is known already: a 304 if that still holds.",
    "Prefer": f"`wait=SECONDS`, as the parameter of that name; 0 to {MAX_WAIT_SECONDS} (RFC 7240).",
    "Last-Event-ID": "The `id` of the last event: a 204 if that was the end of the job.",
}
_SAYS: Final = {
    "ETag": "A strong validator: the hash of the body, the same on every replica.",
    "Cache-Control": "`private, no-cache` until the job is over, then `private, max-age=30`.",
    "Retry-After": "Whole seconds after which asking again is worth it.",
    "Preference-Applied": "The wait that was heeded of `Prefer`.",
    "WWW-Authenticate": "How to name an API key.",
}
_READ: Final = ("ETag", "Cache-Control", "Retry-After", "Preference-Applied")
_Headers = dict[str, tuple[str, ...]]
_HEADERS: Final[dict[str, tuple[tuple[str, ...], _Headers]]] = {
    "/api/jobs/{job_id}": (("If-None-Match", "Prefer"), {"200": _READ, "304": _READ}),
    "/api/jobs": (("If-None-Match",), {"200": _READ[:2], "304": _READ[:2]}),
    "/api/jobs/{job_id}/events": (("Last-Event-ID",), {"200": ("Cache-Control",)}),
}
_REFUSED: Final[_Headers] = {
    "401": ("WWW-Authenticate",),
    "429": ("Retry-After",),
    "503": ("Retry-After",),
}


def publish_contract(document: OpenAPI) -> None:
    """Put the contract's schemas in the place of those that were generated from our types."""
    schemas = {**(document.components.schemas or {}), **SCHEMAS}
    schemas.pop("JobState", None)  # the contract has it in place
    document.components.schemas = schemas
    for path, item in (document.paths or {}).items():
        if item.get is not None:
            _complete(path, item.get)


def _complete(path: str, operation: Operation) -> None:
    """Add what can't be said where the route stands: bounds and headers."""
    responses = operation.responses or {}
    responses.pop("400", None)  # Litestar's word for what is a 422 here
    asks, says = _HEADERS[path]
    parameters = [each for each in operation.parameters or [] if isinstance(each, Parameter)]
    for parameter in parameters:
        parameter.schema = _PARAMETERS.get(parameter.name, parameter.schema)
    operation.parameters = [*parameters, *(_asked(name) for name in asks)]
    for status, names in (_REFUSED | says).items():
        response = responses.get(status)
        if isinstance(response, OpenAPIResponse):
            response.headers = {name: _said(name) for name in names}


def _asked(name: str) -> Parameter:
    return Parameter(
        name=name, param_in="header", schema=_text(name), description=_ASKS[name], required=False
    )


def _said(name: str) -> OpenAPIHeader:
    kind = OpenAPIType.INTEGER if name == "Retry-After" else OpenAPIType.STRING
    return OpenAPIHeader(schema=Schema(type=kind), description=_SAYS[name])
