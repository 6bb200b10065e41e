"""Publish the status and progress of background jobs.

The modules are imported when a name of theirs is first used: a poller needs `JobStatus`, but
neither the publisher nor redis-py.
"""

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from jobstatus.details import JobDetails, UnknownCause
    from jobstatus.errors import JobStatusError, MissingExtraError, SettingsError
    from jobstatus.publishing.publisher import Publisher
    from jobstatus.reporting.current import current_job
    from jobstatus.reporting.report import JobReport, Outcome, Step
    from jobstatus.reporting.shared_step import SharedStep, share
    from jobstatus.settings import PublisherSettings
    from jobstatus.status import JobState, JobStatus, job_uuid

__version__ = "0.1.0"

__all__ = [
    "JobDetails",
    "JobReport",
    "JobState",
    "JobStatus",
    "JobStatusError",
    "MissingExtraError",
    "Outcome",
    "Publisher",
    "PublisherSettings",
    "SettingsError",
    "SharedStep",
    "Step",
    "UnknownCause",
    "current_job",
    "job_uuid",
    "share",
]

_NAMES_OF_MODULES: Final = {
    "details": ("JobDetails", "UnknownCause"),
    "errors": ("JobStatusError", "MissingExtraError", "SettingsError"),
    "publishing.publisher": ("Publisher",),
    "reporting.current": ("current_job",),
    "reporting.report": ("JobReport", "Outcome", "Step"),
    "reporting.shared_step": ("SharedStep", "share"),
    "settings": ("PublisherSettings",),
    "status": ("JobState", "JobStatus", "job_uuid"),
}
_MODULES: Final = {name: module for module, names in _NAMES_OF_MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
