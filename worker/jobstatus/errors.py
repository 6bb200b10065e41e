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
