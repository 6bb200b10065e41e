"""The OpenAPI document, whose schemas are exactly those of the published contract."""

from typing import Any, Final

from litestar import Response, Router
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin, OpenAPIRenderPlugin
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

from jobstatus.details import UnknownCause
from jobstatus.status import JobState
from jobstatus_service.http.assets import PAGE_HEADERS
from jobstatus_service.http.errors import AnyRequest
from jobstatus_service.http.openapi_declarations import (
    ERROR_HEADERS,
    HEADERS,
    PATH_QUERY_SCHEMAS,
    QUERY_SCHEMAS,
    REQUEST_HEADERS,
    RESPONSE_HEADERS,
)

NAME_PATTERN: Final = (
    r"^[\p{L}\p{Nl}\p{Pattern_Syntax}\p{Pattern_White_Space}]+"
    r"[\p{ID_Start}\p{Mn}\p{Mc}\p{Nd}\p{Pc}\p{Pattern_Syntax}\p{Pattern_White_Space}]*$"
)
"""It is published but not enforced: Python's `re` doesn't support it, and the contract's own
default name doesn't match it."""


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
"""The contract's schemas. Those that Litestar generates lose `readOnly` and the pattern."""


def _nullable(schema: Schema) -> Schema:
    return Schema(any_of=[schema, Schema(type=OpenAPIType.NULL)])


_DETAILS: Final = {
    "started_at": _nullable(_text("Started At", **_TIME)),
    "finished_at": _nullable(_text("Finished At", **_TIME)),
    "attempt": _nullable(Schema(type=OpenAPIType.INTEGER, title="Attempt", minimum=1)),
    "worker": _nullable(_text("Worker", max_length=63)),
    "eta_seconds": _nullable(Schema(type=OpenAPIType.NUMBER, title="Eta Seconds", minimum=0)),
    "expires_at": _nullable(_text("Expires At", **_TIME)),
    "has_result": Schema(type=OpenAPIType.BOOLEAN, title="Has Result"),
    "unknown_cause": _nullable(
        _text("Unknown Cause", enum=[cause.value for cause in UnknownCause])
    ),
}

OTHER_SCHEMAS: Final[dict[str, Schema]] = {
    "JobDetails": Schema(
        title="JobDetails",
        type=OpenAPIType.OBJECT,
        required=[*(SCHEMAS["JobStatus"].properties or {}), *_DETAILS],
        properties={**(SCHEMAS["JobStatus"].properties or {}), **_DETAILS},
    ),
}
"""Schemas that contain parts of the contract's."""


class _PagePlugin(OpenAPIRenderPlugin):
    """Sends the page that documents the API, which loads nothing from another host."""

    def __init__(self, page: bytes) -> None:
        super().__init__(path="/")
        self._page = page

    def render(self, request: AnyRequest, openapi_schema: dict[str, Any]) -> bytes:
        """Return the page, which reads the document by itself."""
        del request, openapi_schema
        return self._page


def _add_page_headers(response: Response[Any]) -> Response[Any]:
    """Add the headers of a page to whatever is below `/schema`."""
    for name, value in PAGE_HEADERS:
        response.headers[name.decode()] = value.decode()
    return response


def config(version: str, page: bytes) -> OpenAPIConfig:
    """Return Litestar's configuration of the document.

    The page for people is at `/schema`, the JSON at `/schema/openapi.json`.

    Args:
        version: The version of jobstatus.
        page: The page.
    """
    return OpenAPIConfig(
        title="jobstatus",
        version=version,
        description="The status of background jobs.",
        openapi_router=Router(
            "/schema",
            route_handlers=[],
            include_in_schema=False,
            after_request=_add_page_headers,
        ),
        components=Components(
            security_schemes={
                "APIKeyHeader": SecurityScheme(
                    type="apiKey", name="Authorization", security_scheme_in="header"
                )
            }
        ),
        render_plugins=[_PagePlugin(page), JsonRenderPlugin()],
    )


def publish_contract(document: OpenAPI) -> None:
    """Replace the schemas that were generated from our types by the contract's."""
    schemas = {**(document.components.schemas or {}), **SCHEMAS, **OTHER_SCHEMAS}
    for name in ("JobState", "UnknownCause"):  # the contract has the states inline
        schemas.pop(name, None)
    document.components.schemas = schemas
    for path, item in (document.paths or {}).items():
        if item.get is not None:
            _complete(path, item.get)


def _complete(path: str, operation: Operation) -> None:
    """Add to an operation what Litestar's declarations can't express: bounds and headers."""
    responses = operation.responses or {}
    responses.pop("400", None)  # Litestar's default for what is a 422 here
    request_headers, response_headers = HEADERS[path]
    parameters = [each for each in operation.parameters or [] if isinstance(each, Parameter)]
    for parameter in parameters:
        schema = QUERY_SCHEMAS.get(parameter.name, parameter.schema)
        parameter.schema = PATH_QUERY_SCHEMAS.get((path, parameter.name), schema)
    operation.parameters = [*parameters, *map(_request_header, request_headers)]
    for status, names in (ERROR_HEADERS | response_headers).items():
        response = responses.get(status)
        if isinstance(response, OpenAPIResponse):
            _allow_any_of(response)
            response.headers = {name: _response_header(name) for name in names}


def _allow_any_of(response: OpenAPIResponse) -> None:
    """Declare alternative bodies as `anyOf`: one that Litestar declares as `oneOf` may be both."""
    for content in (response.content or {}).values():
        schema = content.schema
        if isinstance(schema, Schema) and schema.one_of:
            schema.any_of, schema.one_of = schema.one_of, None


def _request_header(name: str) -> Parameter:
    return Parameter(
        name=name,
        param_in="header",
        schema=_text(name),
        description=REQUEST_HEADERS[name],
        required=False,
    )


def _response_header(name: str) -> OpenAPIHeader:
    kind = OpenAPIType.INTEGER if name == "Retry-After" else OpenAPIType.STRING
    return OpenAPIHeader(schema=Schema(type=kind), description=RESPONSE_HEADERS[name])
