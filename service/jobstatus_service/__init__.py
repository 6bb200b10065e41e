"""The HTTP service, which answers polls for the status of background jobs.

`create_app` makes its ASGI application. It is imported when it is first used, so that importing
this package needs no extra.
"""

from typing import TYPE_CHECKING, Any

from jobstatus.errors import missing_extra

if TYPE_CHECKING:
    from jobstatus_service.http.app import create_app

__all__ = ["create_app"]


def __getattr__(name: str) -> Any:
    if name != "create_app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from jobstatus_service.http.app import create_app  # noqa: PLC0415 - needs an extra
    except ModuleNotFoundError as error:
        raise missing_extra(error, "jobstatus_service.create_app", "service") from None
    return create_app
