"""Publish the status and progress of background jobs."""

from jobstatus.current import current_job
from jobstatus.errors import JobStatusError, MissingExtraError, SettingsError
from jobstatus.publisher import Publisher
from jobstatus.report import JobReport
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
