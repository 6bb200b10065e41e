"""What a poller is told: from what stands in Redis to the bytes that go out. Pure.

The one truth about an answer; whatever serves one, however fast, serves what `answer` made.
"""

from datetime import datetime
from hashlib import blake2b
from typing import Final
from uuid import UUID

import msgspec

from jobstatus.status import JobState, JobStatus, Record, to_datetime
from jobstatus_service.found import Found

NO_RECORD: Final = "no record of this job: it never existed, or is no longer kept"
"""The one reason for a job that never existed, has expired, or is somebody else's."""

_EPOCH: Final = to_datetime(0)

_SPANS: Final = (
    *((s, f"{s} s") for s in (1, 2, 5, 10, 15, 20, 30, 45)),
    *((60 * m, f"{m} min") for m in (1, 2, 5, 10, 15, 20, 30, 45)),
    *((3600 * h, f"{h} h") for h in (1, 2, 3, 6, 12)),
    *((86_400 * d, f"{d} d") for d in (1, 2, 3, 7, 14, 30, 90, 365)),
)
"""Round spans of time, in seconds. A reason that said more would change with every poll."""


class Answer(msgspec.Struct, frozen=True):
    """One answer, ready to send.

    Attributes:
        body: The JSON.
        etag: Its strong validator, quotes included; the same on every replica.
        is_over: Whether the job is, so that the answer may be kept for a while.
    """

    body: bytes
    etag: str
    is_over: bool

    @property
    def cache_control(self) -> str:
        """For how long whose cache may keep it."""
        return "private, max-age=30" if self.is_over else "private, no-cache"


def answer(job_id: UUID, found: Found, lease: float) -> Answer:
    """The answer about a job.

    Args:
        job_id: The job.
        found: What stands in Redis.
        lease: Seconds for which a silent worker is believed.
    """
    status = describe(job_id, found, lease)
    body = status.to_json()
    return Answer(body, validator(body), status.state.is_over)


def validator(body: bytes) -> str:
    """The strong validator of a body: the same on every replica."""
    return f'"{blake2b(body, digest_size=12).hexdigest()}"'


def describe(job_id: UUID, found: Found, lease: float) -> JobStatus:
    """What is to be said of a job; the arguments are those of `answer`."""
    record = found.record
    if record is None:
        reason = f"the stored record can't be read: {found.fault}" if found.fault else NO_RECORD
        return _status(job_id, _EPOCH, _EPOCH, JobState.UNKNOWN, reason=reason)
    state, reason = record.state, record.reason
    if state is JobState.IN_PROGRESS and record.lease <= found.now:
        silent = (found.now - record.lease) / 1000 + lease
        reason = f"no report for over {_span(silent)}; the last state was {state}"
        state = JobState.UNKNOWN
    return _status(
        job_id, to_datetime(record.created), to_datetime(record.updated), state, record, reason
    )


def _status(
    job_id: UUID,
    created: datetime,
    updated: datetime,
    state: JobState,
    record: Record | None = None,
    reason: str = "",
) -> JobStatus:
    progress = record.progress if record else None
    if state is JobState.SUCCEEDED and progress is not None:
        progress = 100.0
    return JobStatus(
        id=job_id,
        created_at=created,
        updated_at=updated,
        name=record.name if record else "",
        reason=reason,
        has_progress=progress is not None,
        progress=progress or 0.0,
        state=state,
    )


def _span(seconds: float) -> str:
    """The longest round span that is not longer."""
    return next((text for span, text in reversed(_SPANS) if span <= seconds), "1 s")


def matches(if_none_match: str, etag: str) -> bool:
    """Whether an `If-None-Match` header names the validator (RFC 9110, 13.1.2)."""
    if if_none_match == etag:
        return True
    tags = (tag.strip().removeprefix("W/") for tag in if_none_match.split(","))
    return any(tag in {etag, "*"} for tag in tags)
