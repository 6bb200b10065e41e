"""`JobDetails`: the status of a job with what an operator wants to know beside it."""

from datetime import datetime
from enum import StrEnum

import msgspec

from jobstatus.status import JobStatus


class UnknownCause(StrEnum):
    """Why the state of a job is `unknown`."""

    NO_RECORD = "no_record"
    """There is no record: the job never existed, has expired, or belongs to another tenant."""

    LEASE_EXPIRED = "lease_expired"
    """The attempt has not been reported for longer than its lease: its worker has probably died."""

    UNREADABLE = "unreadable"
    """The stored record is malformed."""


class JobDetails(JobStatus, frozen=True, kw_only=True):
    """The members of `JobStatus`, then these. Each is None where it does not apply.

    Attributes:
        started_at: When the current attempt, or the last one, began; UTC by Redis's clock.
        finished_at: When the job finished.
        attempt: The number of the current or last attempt: 1, 2, ...
        worker: The host name of the process that runs it, or has run it; in Kubernetes the pod's.
        eta_seconds: While it runs: the estimated seconds, counted from `updated_at`, until it
            succeeds. None until its progress has grown by 1 percent in at least 1 s and 3 changes.
        expires_at: When the record of a finished job is deleted.
        has_result: Whether the job has a result.
        unknown_cause: Why the state is `unknown`.
    """

    started_at: datetime | None = None
    finished_at: datetime | None = None
    attempt: int | None = None
    worker: str | None = None
    eta_seconds: float | None = None
    expires_at: datetime | None = None
    has_result: bool = False
    unknown_cause: UnknownCause | None = None

    @classmethod
    def from_json(cls, body: bytes | str) -> "JobDetails":
        """Decode a response of the service.

        Raises:
            msgspec.ValidationError: It is not a `JobDetails`.
        """
        return msgspec.json.decode(body, type=cls)
