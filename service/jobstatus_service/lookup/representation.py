"""What the service says about a job, derived from its stored record by pure functions.

Every response about a job is made from `status_of` and `poll_interval`, whichever path serves it.
"""

import math
import re
from hashlib import blake2b
from typing import Final
from uuid import UUID

from msgspec.structs import replace

from jobstatus.details import UnknownCause
from jobstatus.status import JobState, JobStatus
from jobstatus_service.storage.stored_record import StoredRecord

NO_RECORD_REASON: Final = "no record of this job: it never existed, or is no longer kept"
"""The reason is the same for a job that never existed, has expired, or belongs to another tenant,
so that a client can't find out which jobs other tenants have."""


POLL_INTERVALS_SECONDS: Final = (1, 2, 5, 10, 30)
"""The values of `Retry-After`."""

_POLL_INTERVAL_WITHOUT_RECORD_SECONDS: Final = 2

_find_entity_tags: Final = re.compile(rb'(?:W/)?("[^"]*")').findall
"""A quoted entity tag may contain commas and asterisks (RFC 9110, 8.8.3)."""

_ROUND_SPANS: Final = (
    *((s, f"{s} s") for s in (1, 2, 5, 10, 15, 20, 30, 45)),
    *((60 * m, f"{m} min") for m in (1, 2, 5, 10, 15, 20, 30, 45)),
    *((3600 * h, f"{h} h") for h in (1, 2, 3, 6, 12)),
    *((86_400 * d, f"{d} d") for d in (1, 2, 3, 7, 14, 30, 90, 365)),
)
"""Spans of time in seconds, with their texts. An exact span in a reason would change the response
with every poll."""


def status_of(job_id: UUID, stored: StoredRecord, lease_seconds: float) -> tuple[JobStatus, float]:
    """Return the status of a job, and for how many seconds it is valid if nothing is written.

    Args:
        job_id: The job.
        stored: What was read from Redis.
        lease_seconds: Seconds without a report after which the state of a job is `unknown`.

    Returns:
        The status, and the seconds; infinity if only a write can change the status.
    """
    record = stored.record
    if record is None:
        reason = (
            f"the stored record is malformed: {stored.error}" if stored.error else NO_RECORD_REASON
        )
        return JobStatus.unknown(job_id, reason), math.inf
    status = JobStatus.from_record(job_id, record)
    if record.state is not JobState.IN_PROGRESS:
        return status, math.inf
    valid_seconds = (record.lease - stored.now_ms) / 1000
    if valid_seconds > 0:
        return status, valid_seconds
    span, valid_seconds = _round_span(lease_seconds - valid_seconds)
    reason = f"no report for over {span}; the last state was {record.state}"
    return replace(status, state=JobState.UNKNOWN, reason=reason), valid_seconds


def unknown_cause(status: JobStatus, stored: StoredRecord) -> UnknownCause | None:
    """Return why the state of a job is `unknown`; None if it is another state.

    Args:
        status: What `status_of` has returned.
        stored: What was read from Redis.
    """
    if status.state is not JobState.UNKNOWN:
        return None
    if stored.record is not None:
        return UnknownCause.LEASE_EXPIRED
    return UnknownCause.UNREADABLE if stored.error else UnknownCause.NO_RECORD


def poll_interval(stored: StoredRecord, change_interval: float = 0.0) -> tuple[int, float]:
    """Return the poll interval of an unfinished job, and for how many seconds it is valid.

    The interval is half the time between two changes of the job, or half the time since its last
    change if that is longer: a job that has not changed for a while is unlikely to change soon.

    Args:
        stored: What was read from Redis.
        change_interval: Observed seconds between two changes of the job; 0 if unknown.

    Returns:
        One of `POLL_INTERVALS_SECONDS`; and the seconds until it grows if nothing is written.
    """
    if stored.record is None:
        return _POLL_INTERVAL_WITHOUT_RECORD_SECONDS, math.inf
    unchanged = max(0.0, (stored.now_ms - stored.record.updated) / 1000)
    half = max(unchanged, change_interval) / 2
    interval = max(
        (i for i in POLL_INTERVALS_SECONDS if i <= half), default=POLL_INTERVALS_SECONDS[0]
    )
    longer = next((i for i in POLL_INTERVALS_SECONDS if i > max(half, interval)), math.inf)
    return interval, 2 * longer - unchanged


def etag_of(body: bytes) -> bytes:
    """Return the strong validator of a body, quotes included; it is the same on every replica."""
    return b'"%b"' % blake2b(body, digest_size=12).hexdigest().encode()


def etag_matches(if_none_match: bytes, etag: bytes) -> bool:
    """Return whether an `If-None-Match` header names the validator (RFC 9110, 13.1.2)."""
    return if_none_match.strip() == b"*" or etag in _find_entity_tags(if_none_match)


def _round_span(seconds: float) -> tuple[str, float]:
    """Return the text of the longest round span within `seconds`, and the seconds to the next."""
    text = "1 s"
    for span, longer in _ROUND_SPANS:
        if span > seconds:
            return text, span - seconds
        text = longer
    return text, math.inf
