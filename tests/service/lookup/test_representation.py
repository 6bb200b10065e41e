"""What the service says about a record: the status, how long it is valid, the poll interval."""

import math
from typing import Any
from uuid import UUID

import pytest

from jobstatus.status import JobState, Record
from jobstatus_service.lookup.representation import (
    NO_RECORD_REASON,
    etag_matches,
    etag_of,
    poll_interval,
    status_of,
    unknown_cause,
)
from jobstatus_service.storage.stored_record import StoredRecord

JOB = UUID("67c73c6b-ecba-4a4c-bb18-3f37aa64c2f8")
NOW_MS = 1_700_000_000_000
LEASE_SECONDS = 30


def stored(age: float = 0, **fields: Any) -> StoredRecord:
    """Return a record, pending unless `fields` say otherwise, that changed `age` seconds ago."""
    common: dict[str, Any] = {"name": "n", "state": JobState.PENDING, "created": 1, "attempt": 1}
    record = Record(**{**common, "updated": NOW_MS - int(age * 1000), **fields})
    return StoredRecord(record, "", NOW_MS, 3_600_000)


@pytest.mark.parametrize(
    ("state", "progress", "expected"),
    [
        (JobState.IN_PROGRESS, None, (False, 0)),
        (JobState.IN_PROGRESS, 0.0, (True, 0)),
        (JobState.IN_PROGRESS, 97.0, (True, 97)),
        (JobState.FAILED, 97.0, (True, 97)),
        (JobState.SUCCEEDED, 97.0, (True, 100)),
        (JobState.SUCCEEDED, None, (False, 0)),
    ],
)
def test_progress(state: JobState, progress: float | None, expected: tuple[bool, float]) -> None:
    """Progress is as reported, and 100 for a job that succeeded with any."""
    record = stored(state=state, progress=progress, lease=NOW_MS + 1)
    status, _ = status_of(JOB, record, LEASE_SECONDS)
    assert (status.has_progress, status.progress) == expected


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ("", NO_RECORD_REASON),
        ("it is not a hash", "the stored record is malformed: it is not a hash"),
    ],
)
def test_no_record(error: str, reason: str) -> None:
    """A missing or malformed record is an unknown job, with a reason that says which it is."""
    record = StoredRecord(None, error, NOW_MS, -2)
    status, valid_seconds = status_of(JOB, record, LEASE_SECONDS)
    assert unknown_cause(status, record) == ("unreadable" if error else "no_record")
    assert (status.state, status.reason) == (JobState.UNKNOWN, reason)
    assert status.created_at.timestamp() == status.updated_at.timestamp() == 0
    assert valid_seconds == math.inf


@pytest.mark.parametrize(
    ("lease_seconds", "state", "valid_seconds", "reason"),
    [
        (0.5, JobState.IN_PROGRESS, 0.5, "frame 3"),
        (0, JobState.UNKNOWN, 15, "no report for over 30 s; the last state was in_progress"),
        (-4, JobState.UNKNOWN, 11, "no report for over 30 s; the last state was in_progress"),
        (-15, JobState.UNKNOWN, 15, "no report for over 45 s; the last state was in_progress"),
        (-95, JobState.UNKNOWN, 175, "no report for over 2 min; the last state was in_progress"),
        (-4e7, JobState.UNKNOWN, math.inf, "no report for over 365 d; the last state was"),
    ],
)
def test_lease(lease_seconds: float, state: JobState, valid_seconds: float, reason: str) -> None:
    """A running job is valid for its lease, and then unknown for one round span after another."""
    lease = NOW_MS + int(lease_seconds * 1000)
    record = stored(state=JobState.IN_PROGRESS, lease=lease, reason="frame 3")
    status, found_seconds = status_of(JOB, record, LEASE_SECONDS)
    assert (status.state, found_seconds) == (state, valid_seconds)
    assert status.reason.startswith(reason)


@pytest.mark.parametrize("state", [JobState.PENDING, JobState.RETRYING, JobState.FAILED])
def test_states_without_a_lease(state: JobState) -> None:
    """Every other state is valid until the next write."""
    status, valid_seconds = status_of(JOB, stored(state=state), LEASE_SECONDS)
    assert (status.state, valid_seconds) == (state, math.inf)


@pytest.mark.parametrize(
    ("age", "change_interval", "interval", "valid_seconds"),
    [
        (0, 0, 1, 4),
        (0, 0.1, 1, 4),
        (3.9, 0, 1, 0.1),
        (4, 0, 2, 6),
        (0, 5, 2, 10),
        (1, 30, 10, 59),
        (30, 0.1, 10, 30),
        (3_000, 0, 30, math.inf),
        (-5, 0, 1, 4),
    ],
)
def test_poll_interval(
    age: float, change_interval: float, interval: int, valid_seconds: float
) -> None:
    """It is half the time between two changes, or half the time since the last one if longer."""
    found, found_seconds = poll_interval(stored(age), change_interval)
    assert found == interval
    assert math.isclose(found_seconds, valid_seconds, rel_tol=1e-6)


def test_poll_interval_without_a_record() -> None:
    """A job without a record has a constant poll interval."""
    assert poll_interval(StoredRecord(None, "", NOW_MS, -2)) == (2, math.inf)


def test_etag_of() -> None:
    """A validator is a quoted hash of the body."""
    assert etag_of(b"a") == etag_of(b"a") != etag_of(b"b")
    assert len(etag_of(b"a")) == 26
    assert etag_of(b"a").startswith(b'"')
    assert etag_of(b"a").endswith(b'"')


ETAG = b'"abc"'


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (ETAG, True),
        (b"W/" + ETAG, True),
        (b'"x", ' + ETAG, True),
        (b'"x",' + ETAG + b',"y"', True),
        (b"*", True),
        (b" * ", True),
        (b'"x"', False),
        (b'"x,*,y"', False),
        (b'"x", *', False),
        (b'"*"', False),
        (b"abc", False),
        (b'"x,"abc",y"', False),
        (b"", False),
        (b'"', False),
        (b'"\xff"', False),
    ],
)
def test_etag_matches(header: bytes, expected: bool) -> None:
    """Each entity tag of a list counts, whatever characters it quotes."""
    assert etag_matches(header, ETAG) is expected
