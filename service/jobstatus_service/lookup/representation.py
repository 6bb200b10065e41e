"""What a poller is told: from what stands in Redis to the bytes that go out. Pure.

The one truth about an answer; whatever serves one, however fast, serves what `answer` made.
"""

import math
import re
from datetime import datetime
from hashlib import blake2b
from typing import Final
from uuid import UUID

import msgspec

from jobstatus.status import JobState, JobStatus, Record, to_datetime
from jobstatus_service.storage.stored_record import StoredRecord

NO_RECORD_REASON: Final = "no record of this job: it never existed, or is no longer kept"
"""The one reason for a job that never existed, has expired, or is somebody else's."""

POLL_INTERVALS_SECONDS: Final = (1, 2, 5, 10, 30)
"""Seconds after which a poller is told to come back: half the time between two changes."""

_NEVER_SEEN: Final = 2
"""The pace for a job of which there is no record."""

_EPOCH: Final = to_datetime(0)

_TAGS: Final = re.compile(r'(?:W/)?("[^"]*")')
"""Entity tags in a list; what is quoted may hold commas and asterisks (RFC 9110, 8.8.3)."""

_SPANS: Final = (
    *((s, f"{s} s") for s in (1, 2, 5, 10, 15, 20, 30, 45)),
    *((60 * m, f"{m} min") for m in (1, 2, 5, 10, 15, 20, 30, 45)),
    *((3600 * h, f"{h} h") for h in (1, 2, 3, 6, 12)),
    *((86_400 * d, f"{d} d") for d in (1, 2, 3, 7, 14, 30, 90, 365)),
)
"""Round spans of time, in seconds. A reason that said more would change with every poll."""


class Answer(msgspec.Struct, frozen=True):
    """One answer.

    Attributes:
        body: The JSON.
        etag: Its strong validator, quotes included; the same on every replica.
        state: The state that it tells.
        pace: Seconds after which it is worth asking again; None when the job is over.
        good_for: Seconds for which it stands if nothing is written; infinite where only a write
            can change it.
    """

    body: bytes
    etag: str
    state: JobState
    pace: int | None
    good_for: float

    @property
    def cache_control(self) -> str:
        """For how long whose cache may keep it."""
        return "private, no-cache" if self.pace is not None else "private, max-age=30"


def answer(job_id: UUID, found: StoredRecord, lease: float, interval: float = 0.0) -> Answer:
    """The answer about a job.

    Args:
        job_id: The job.
        found: What stands in Redis.
        lease: Seconds for which a silent worker is believed.
        interval: Seconds between two changes of the job, as far as they were seen.
    """
    status, stands = describe(job_id, found, lease)
    body = status.to_json()
    good_for = min(stands, found.ttl_ms / 1000 if found.ttl_ms >= 0 else math.inf)
    pace: int | None = None
    if not status.state.is_final:
        pace, valid_until = _pace(found, interval)
        good_for = min(good_for, valid_until)
    return Answer(body, validator(body), status.state, pace, good_for)


def validator(body: bytes) -> str:
    """The strong validator of a body: the same on every replica."""
    return f'"{blake2b(body, digest_size=12).hexdigest()}"'


def describe(job_id: UUID, found: StoredRecord, lease: float) -> tuple[JobStatus, float]:
    """What is to be said, and for how many seconds that stands if nothing is written.

    The arguments are those of `answer`.
    """
    record = found.record
    if record is None:
        reason = (
            f"the stored record can't be read: {found.error}" if found.error else NO_RECORD_REASON
        )
        return _status(job_id, _EPOCH, _EPOCH, JobState.UNKNOWN, reason=reason), math.inf
    state, reason, stands = record.state, record.reason, math.inf
    if state is JobState.IN_PROGRESS:
        stands = (record.lease - found.now_ms) / 1000
        if stands <= 0:
            silent = lease - stands
            span, stands = _span(silent)
            reason = f"no report for over {span}; the last state was {state}"
            state = JobState.UNKNOWN
    created, updated = to_datetime(record.created), to_datetime(record.updated)
    return _status(job_id, created, updated, state, record, reason), stands


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


def _span(seconds: float) -> tuple[str, float]:
    """The longest round span that is not longer, and the seconds until the next one."""
    text = "1 s"
    for span, longer in _SPANS:
        if span > seconds:
            return text, span - seconds
        text = longer
    return text, math.inf


def _pace(found: StoredRecord, interval: float) -> tuple[int, float]:
    """When it is worth asking again, and for how many seconds that holds if nothing changes.

    What has not changed for a while will hardly change in the next moment either.
    """
    if found.record is None:
        return _NEVER_SEEN, math.inf
    unchanged = max(0.0, (found.now_ms - found.record.updated) / 1000)
    half = max(unchanged, interval) / 2
    pace = max((p for p in POLL_INTERVALS_SECONDS if p <= half), default=POLL_INTERVALS_SECONDS[0])
    longer = next((p for p in POLL_INTERVALS_SECONDS if p > max(half, pace)), math.inf)
    return pace, 2 * longer - unchanged


def matches(if_none_match: str, etag: str) -> bool:
    """Whether an `If-None-Match` header names the validator (RFC 9110, 13.1.2)."""
    if if_none_match == etag:
        return True
    return if_none_match.strip() == "*" or etag in _TAGS.findall(if_none_match)
