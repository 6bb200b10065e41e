"""Every error that this package raises on purpose."""


class JobStatusError(Exception):
    """Whatever jobstatus raises on purpose."""


class SettingsError(JobStatusError, ValueError):
    """A setting can't be used; the message is one line that names the variable."""


class MissingExtraError(JobStatusError, ImportError):
    """Something was asked for that an extra installs; the message names the extra."""
