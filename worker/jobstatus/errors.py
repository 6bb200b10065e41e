"""The errors that jobstatus raises on purpose.

    Exception
    └── JobStatusError             every error below
        ├── SettingsError          also a ValueError: a setting is not valid
        └── MissingExtraError      also an ImportError: an optional dependency is not installed

The service's own errors, which become HTTP responses, are in `jobstatus_service.http.errors`.
"""


class JobStatusError(Exception):
    """The base of all errors that jobstatus raises on purpose."""


class SettingsError(JobStatusError, ValueError):
    """A setting is not valid; the message is one line that names the variable."""


class MissingExtraError(JobStatusError, ImportError):
    """An optional dependency is not installed; the message names the extra that installs it."""


def missing_extra(error: ModuleNotFoundError, what: str, extra: str) -> ImportError:
    """Return the error to raise when an import of jobstatus's own code has failed.

    Args:
        error: The error of the import.
        what: What needs the missing module, as the message names it.
        extra: The extra that installs the missing module.

    Returns:
        A `MissingExtraError`; `error` itself if the missing module is one of jobstatus's own.
    """
    if error.name is None or error.name.partition(".")[0].startswith("jobstatus"):
        return error
    return MissingExtraError(f"{what} needs {error.name}: pip install 'jobstatus[{extra}]'")
