"""Publish the status and progress of background jobs."""

from jobstatus.errors import JobStatusError, MissingExtraError, SettingsError
from jobstatus.publishing.publisher import Publisher
from jobstatus.reporting.current import current_job
from jobstatus.reporting.report import JobReport
from jobstatus.status import JobState, JobStatus, job_uuid

__all__ = [
    "JobReport",
    "JobState",
    "JobStatus",
    "JobStatusError",
    "MissingExtraError",
    "Publisher",
    "SettingsError",
    "current_job",
    "job_uuid",
]
