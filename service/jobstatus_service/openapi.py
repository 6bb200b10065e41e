"""The OpenAPI document: the published contract's components, as they stand there."""

from typing import Any, Final

from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin, SwaggerRenderPlugin
from litestar.openapi.spec import (
    Components,
    OpenAPI,
    OpenAPIFormat,
    OpenAPIType,
    Reference,
    Schema,
    SecurityScheme,
)

from jobstatus.status import JobState

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


def publish_contract(document: OpenAPI) -> None:
    """Put the contract's schemas in the place of those that were generated from our types."""
    schemas = {**(document.components.schemas or {}), **SCHEMAS}
    schemas.pop("JobState", None)  # the contract has it in place
    document.components.schemas = schemas
    for path in (document.paths or {}).values():
        if path.get is not None and path.get.responses is not None:
            path.get.responses.pop("400", None)  # Litestar's word for what is a 422 here
