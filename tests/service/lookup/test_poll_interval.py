"""How often it is worth asking, and for how long an answer stands."""

import math
from typing import Any
from uuid import UUID

import pytest
from tests.service.conftest import Poller, Put

from jobstatus.status import JobState, Record
from jobstatus_service.lookup.cache import ResponseCache
from jobstatus_service.lookup.representation import answer
from jobstatus_service.lookup.response import response
from jobstatus_service.storage.stored_record import StoredRecord

JOB = UUID("67c73c6b-ecba-4a4c-bb18-3f37aa64c2f8")
URL = f"/api/jobs/{JOB}"
NOW = 1_700_000_000_000


def found(age: float, ttl: float = 3600, **fields: Any) -> StoredRecord:
    """A pending record that changed `age` seconds ago."""
    common: dict[str, Any] = {"name": "n", "state": JobState.PENDING, "created": 1, "attempt": 1}
    record = Record(**{**common, "updated": NOW - int(age * 1000), **fields})
    return StoredRecord(record, "", NOW, int(ttl * 1000))


@pytest.mark.parametrize(
    ("age", "interval", "pace", "good_for"),
    [
        (0, 0, 1, 4),
        (0, 0.1, 1, 4),
        (3.9, 0, 1, 0.1),
        (4, 0, 2, 6),
        (0, 5, 2, 10),
        (1, 30, 10, 59),
        (30, 0.1, 10, 30),
        (3_000, 0, 30, 3600),
        (-5, 0, 1, 4),
    ],
)
def test_pace(age: float, interval: float, pace: int, good_for: float) -> None:
    """Half the time between two changes, or half the time for which there was none."""
    told = answer(JOB, found(age), 30, interval)
    assert told.pace == pace
    assert math.isclose(told.good_for, good_for, rel_tol=1e-6)


def test_over() -> None:
    """Nothing more comes of a job that is over, until its record expires."""
    told = answer(JOB, found(0, ttl=50, state=JobState.FAILED), 30)
    assert (told.pace, told.good_for) == (None, 50)


def test_no_record() -> None:
    """Of a job of which there is no record, only a write has news."""
    told = answer(JOB, StoredRecord(None, "", NOW, -2), 30)
    assert (told.pace, told.good_for) == (2, math.inf)


def test_lease() -> None:
    """What is said of a running job stands for its lease; then for one round span of silence."""
    running: dict[str, Any] = {"state": JobState.IN_PROGRESS}
    assert answer(JOB, found(0, lease=NOW + 500, **running), 30).good_for == 0.5
    silent = answer(JOB, found(40, lease=NOW - 4_000, **running), 30)
    assert b"no report for over 30 s" in silent.body
    assert silent.good_for == 11  # until it is 45 s
    assert (
        b"no report for over 45 s" in answer(JOB, found(51, lease=NOW - 15_000, **running), 30).body
    )


def test_learned_from_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time from the last change before a read to the next one after it is what counts."""
    cache, now = ResponseCache(1_000_000), 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    assert cache.change_interval("a") == 0
    cache.put("a", response(b"", '"e"', "", changed_at=90.0))
    cache.drop("a")
    assert cache.change_interval("a") == 10
    cache.put("a", response(b"", '"e"', "", changed_at=98.0, change_interval=10))
    cache.drop("a")
    assert cache.change_interval("a") == 6
    cache.drop("never there")
    assert cache.change_interval("never there") == 0


async def test_header(client: Poller, put: Put) -> None:
    """A 200 and a 304 tell the pace while the job is not over."""
    await client.proven()
    for value in range(20):
        put(JOB, progress=float(value))
        await client.settle()
        response = await client.get(URL)
        assert response.headers["retry-after"] == "1"
    known = {"If-None-Match": response.headers["etag"]}
    assert (await client.get(URL, headers=known)).headers["retry-after"] == "1"
    put(JOB, state=JobState.FAILED)
    await client.settle()
    over = await client.get(URL)
    assert "retry-after" not in over.headers
    again = await client.get(URL, headers={"If-None-Match": over.headers["etag"]})
    assert (again.status_code, "retry-after" in again.headers) == (304, False)
