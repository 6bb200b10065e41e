"""The HTTP service, which answers polls for the status of background jobs.

`create_app` makes its ASGI application. It is imported when it is first used, so that importing
this package needs no extra.
"""

from typing import TYPE_CHECKING, Any

from jobstatus.errors import MissingExtraError

if TYPE_CHECKING:
    from jobstatus_service.http.app import create_app

__all__ = ["create_app"]


def __getattr__(name: str) -> Any:
    if name != "create_app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from jobstatus_service.http.app import create_app  # noqa: PLC0415 - needs an extra
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0].startswith("jobstatus"):
            raise
        raise MissingExtraError(
            f"jobstatus_service.create_app needs {error.name}: pip install 'jobstatus[service]'"
        ) from None
    return create_app
