"""The backlog of writes that wait until Redis accepts them."""

import sys
from typing import Any

import pytest
from tests.records import key, record_count
from tests.waiting import eventually
from tests.worker.unreliable_store import run_jobs, unreliable

from jobstatus import job_uuid
from jobstatus.publishing.backlog import Backlog
from jobstatus.status import JobState, Record
from jobstatus.storage.write import Write


def final(n: int) -> Write:
    return Write(str(n), Record(name="x", state=JobState.FAILED, created=1, attempt=1), 60_000)


def pending(n: int) -> Write:
    return Write(str(n), Record(name="x", state=JobState.PENDING, created=1, attempt=0), 60_000)


def keys(writes: list[Write]) -> list[str]:
    return [write.key for write in writes]


def test_order() -> None:
    """Pending records come before final states, each in the order in which they were added."""
    backlog = Backlog(10)
    assert not backlog.add([final(1), pending(2), final(3), pending(4)])
    assert (len(backlog), backlog.final_states) == (4, 2)
    assert keys(backlog.take(3)) == ["2", "4", "1"]
    assert keys(backlog.take(3)) == ["3"]
    assert backlog.take(3) == []


def test_put_back() -> None:
    """Writes that are put back are the first ones again."""
    backlog = Backlog(10)
    backlog.add([final(1), pending(2), final(3), pending(4)])
    backlog.put_back(backlog.take(3))
    assert keys(backlog.take(10)) == ["2", "4", "1", "3"]


def test_limit() -> None:
    """Beyond the limit the oldest final states are dropped, then the oldest pending records."""
    backlog = Backlog(4)
    assert not backlog.add([final(1), pending(2), final(3), final(4)])
    assert keys(backlog.add([final(5)])) == ["1"]
    assert keys(backlog.add([pending(n) for n in range(6, 9)])) == ["3", "4", "5"]
    assert not backlog.add([pending(9)])
    assert keys(backlog.take(10)) == ["6", "7", "8", "9"]
    assert backlog.dropped == 4


def test_dropped_final_states(redis: Any, redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Dropped final states are counted, and logged once."""
    store, publisher = unreliable(redis_url, max_held_records=100)
    with publisher:
        store.is_available = False
        run_jobs(publisher, 250, created=1)
        eventually(lambda: publisher.stats.dropped_final_states == 150)
        store.is_available = True
        assert publisher.flush()
        assert record_count(redis) == 100
        assert redis.exists(key("job-249"))
    assert caplog.text.count("the oldest final states are dropped") == 1


def test_size_of_a_held_final_state(redis_url: str) -> None:
    """A held final state takes less than 500 bytes: its record, and nothing else of its job."""
    store, publisher = unreliable(redis_url)
    with publisher:
        store.is_available = False
        run_jobs(publisher, 1, created=1_700_000_000_000)
        eventually(lambda: publisher._delivery._backlog.final_states == 1)
        (held,) = publisher._delivery._backlog.take(1)
        parts = [
            *(held, held.key, held.ttl, held.began_at, held.happened_at),
            *(held.record, held.record.created, held.record.progress),
        ]
        pointer_bytes = 8
        assert sum(map(sys.getsizeof, parts)) + pointer_bytes < 500
        assert str(job_uuid("job-0")) in held.key
        store.is_available = True
