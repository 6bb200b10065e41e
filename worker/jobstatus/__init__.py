"""Publish the status and progress of background jobs."""

from typing import TYPE_CHECKING

from jobstatus.lazy_imports import lazy_attributes

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

__getattr__ = lazy_attributes(
    __name__,
    {
        "details": ("JobDetails", "UnknownCause"),
        "errors": ("JobStatusError", "MissingExtraError", "SettingsError"),
        "publishing.publisher": ("Publisher",),
        "reporting.current": ("current_job",),
        "reporting.report": ("JobReport", "Outcome", "Step"),
        "reporting.shared_step": ("SharedStep", "share"),
        "settings": ("PublisherSettings",),
        "status": ("JobState", "JobStatus", "job_uuid"),
    },
)
