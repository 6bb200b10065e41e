"""What `JobDetails` adds to a job's status, as it is cached with the response."""

import sys

import msgspec

from jobstatus.details import UnknownCause
from jobstatus.status import JobStatus, Record, ResultState, rfc3339, to_datetime


class Details(msgspec.Struct, frozen=True, gc=False):
    """The stored values from which the members of `JobDetails` are made.

    Attributes:
        started: When the attempt began, in ms since the epoch; 0 if none has.
        attempt: The number of the attempt; 0 if none has begun.
        worker: The host name of its process; empty if none has run it.
        eta: Estimated seconds until it succeeds; None if unknown.
        expires: When the record of a finished job expires, in ms since the epoch; 0 before that.
        result: A `ResultState`, or why the result was dropped.
    """

    started: int = 0
    attempt: int = 0
    worker: str = ""
    eta: float | None = None
    expires: int = 0
    result: str = ""

    @classmethod
    def from_record(cls, record: Record) -> "Details":
        """Return the details that a stored record describes."""
        is_final = record.state.is_final
        return cls(
            record.started,
            record.attempt,
            sys.intern(record.worker),  # many jobs have the same worker
            None if is_final else record.eta,
            record.expires if is_final else 0,
            record.result if is_final else "",
        )

    @property
    def has_result(self) -> bool:
        """Whether a result is stored."""
        return self.result in {ResultState.VALUE, ResultState.TRACEBACK}


NO_DETAILS = Details()
"""Those of a job without a record."""


class _Members(msgspec.Struct, frozen=True):
    """The members of `JobDetails` after those of `JobStatus`, in their order."""

    started_at: str | None
    finished_at: str | None
    attempt: int | None
    worker: str | None
    eta_seconds: float | None
    expires_at: str | None
    has_result: bool
    unknown_cause: UnknownCause | None


_encode = msgspec.json.Encoder().encode


def details_body(
    status_body: bytes, details: Details, *, is_final: bool, cause: UnknownCause | None
) -> bytes:
    """Return the JSON of `JobDetails`: that of the `JobStatus`, followed by the other members.

    Args:
        status_body: The JSON of the job's `JobStatus`.
        details: Its details.
        is_final: Whether the job has finished.
        cause: Why its state is `unknown`, if it is.
    """
    members = _Members(
        _time(details.started),
        rfc3339(JobStatus.from_json(status_body).updated_at) if is_final else None,
        details.attempt or None,
        details.worker or None,
        details.eta if cause is None else None,
        _time(details.expires),
        details.has_result,
        cause,
    )
    return status_body[:-1] + b"," + _encode(members)[1:]


def _time(ms: int) -> str | None:
    return rfc3339(to_datetime(ms)) if ms else None
