"""The atomic write: the Lua script agrees with the rules in Python on every transition."""

import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.waiting import eventually

from jobstatus.status import (
    ALLOWED_PREDECESSORS,
    UNFINISHED_STATES,
    JobState,
    Record,
    WriteResult,
    format_progress,
)
from jobstatus.storage.refusals import Refusal
from jobstatus.storage.store import Store
from jobstatus.storage.write import Write

KEY = "job:1"
WRITTEN = [state for state in JobState if state is not JobState.UNKNOWN]

records = st.builds(
    Record,
    name=st.sampled_from(["a", "b", ""]),
    state=st.sampled_from(WRITTEN),
    created=st.sampled_from([1_700_000_000_000, 1_700_000_000_001]),
    attempt=st.integers(0, 2),
    reason=st.sampled_from(["", "x", "y"]),
    progress=st.sampled_from([None, 0.0, 5.0, 40.0, 40.5, 100.0]),
)


def expected(
    stored: Record | None, new: Record, previous: int | None = None
) -> tuple[WriteResult, Record]:
    """Return what the script must do: its result, and the record afterwards.

    Args:
        stored: The record before.
        new: The record that is written, by a run or attempt that begins now.
        previous: The run that the stored one has replaced.
    """
    if stored is None:
        return WriteResult.CHANGED, new
    if new.created == previous != stored.created or (
        new.created == stored.created and new.attempt < stored.attempt
    ):
        return WriteResult.SUPERSEDED, stored
    if new.created != stored.created:
        return WriteResult.CHANGED, new
    if new.attempt > stored.attempt:
        return expected_of_later_attempt(stored, new)
    if stored.state not in ALLOWED_PREDECESSORS[new.state]:
        return WriteResult.ALREADY_FINAL, stored
    known = [p for p in (stored.progress, new.progress) if p is not None]
    merged = Record(
        name=new.name,
        state=new.state,
        created=new.created,
        attempt=new.attempt,
        reason=new.reason,
        progress=max(known, default=None),
    )
    return (WriteResult.RENEWED if merged == stored else WriteResult.CHANGED), merged


def expected_of_later_attempt(stored: Record, new: Record) -> tuple[WriteResult, Record]:
    if stored.state not in UNFINISHED_STATES:
        return WriteResult.ALREADY_FINAL, stored
    took_over = new.state is stored.state is JobState.IN_PROGRESS
    return (WriteResult.TOOK_OVER if took_over else WriteResult.CHANGED), new


def write(store: Store, record: Record, *, ttl: int = 60_000) -> WriteResult:
    lease = 5_000 if record.state is JobState.IN_PROGRESS else 0
    (result,) = store.write([Write(KEY, record, ttl, lease)])
    assert isinstance(result, WriteResult)
    return result


def stored(redis: Any) -> Record:
    return Record.from_fields(redis.hgetall(KEY))


def server_ms(redis: Any) -> int:
    seconds, microseconds = redis.time()
    return int(seconds * 1000 + microseconds // 1000)


def visible(record: Record) -> tuple[Any, ...]:
    """Return what a poller sees of a record, except for its time."""
    progress = format_progress(record.progress)
    return (record.name, record.state, record.created, record.attempt, record.reason, progress)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(records, min_size=1, max_size=8))
def test_sequences_of_writes(redis: Any, store: Store, writes: list[Record]) -> None:
    """After any sequence of writes, the script has done what the rules say."""
    redis.delete(KEY)
    before: Record | None = None
    previous: int | None = None
    for new in writes:
        result, after = expected(before, new, previous)
        updated = int(redis.hget(KEY, "updated") or 0)
        assert write(store, new) is result
        found = stored(redis)
        assert visible(found) == visible(after)
        assert (found.lease > 0) == (found.state is JobState.IN_PROGRESS)
        assert found.updated >= updated
        assert redis.pttl(KEY) > 0
        if before is not None and after.created != before.created:
            previous = before.created
        before = after


@pytest.mark.parametrize("state", WRITTEN)
@pytest.mark.parametrize("new", WRITTEN)
@pytest.mark.parametrize("later", ["run", "attempt", "same"])
def test_every_pair_of_states(
    redis: Any, store: Store, state: JobState, new: JobState, later: str
) -> None:
    """Every pair of stored and written state has the result that the rules say."""
    first = Record(name="a", state=state, created=1, attempt=1, progress=50.0)
    second = Record(
        name="a",
        state=new,
        created=2 if later == "run" else 1,
        attempt=2 if later == "attempt" else 1,
        progress=10.0,
    )
    write(store, first)
    result, after = expected(first, second)
    assert write(store, second) is result
    assert visible(stored(redis)) == visible(after)


def test_renewal(redis: Any, store: Store) -> None:
    """Writing the same record again renews its lease and TTL, and leaves `updated` as it is."""
    record = Record(name="a", state=JobState.IN_PROGRESS, created=1, attempt=1, progress=5.0)
    write(store, record, ttl=10_000)
    before = stored(redis)
    eventually(lambda: server_ms(redis) > before.updated)
    assert write(store, record, ttl=90_000) is WriteResult.RENEWED
    after = stored(redis)
    assert after.updated == before.updated
    assert after.lease > before.lease
    assert redis.pttl(KEY) > 80_000


def test_superseded_write_changes_nothing(redis: Any, store: Store) -> None:
    """A write that comes too late leaves the TTL and the record as they were."""
    write(store, Record(name="a", state=JobState.SUCCEEDED, created=5, attempt=2), ttl=10_000)
    before = redis.hgetall(KEY)
    late = Record(name="a", state=JobState.IN_PROGRESS, created=5, attempt=2, progress=1.0)
    superseded = Record(name="a", state=JobState.FAILED, created=5, attempt=1)
    assert write(store, late, ttl=90_000) is WriteResult.ALREADY_FINAL
    assert write(store, superseded, ttl=90_000) is WriteResult.SUPERSEDED
    assert redis.hgetall(KEY) == before
    assert redis.pttl(KEY) <= 10_000


def test_updated_never_decreases(redis: Any, store: Store) -> None:
    """A server clock that is set back does not set `updated` back."""
    write(store, Record(name="a", state=JobState.IN_PROGRESS, created=1, attempt=1))
    future = 4_000_000_000_000
    redis.hset(KEY, "updated", future)
    write(store, Record(name="a", state=JobState.SUCCEEDED, created=1, attempt=1))
    assert stored(redis).updated == future


def test_malformed_record_is_replaced(redis: Any, store: Store) -> None:
    """A record whose run is malformed is replaced by the next write."""
    redis.hset(
        KEY, mapping={"created": "soon", "attempt": "x", "state": "succeeded", "reason": "r"}
    )
    record = Record(name="a", state=JobState.IN_PROGRESS, created=1, attempt=1)
    assert write(store, record) is WriteResult.CHANGED
    assert visible(stored(redis)) == visible(record)


def test_replaced_run_is_not_stored_again(redis: Any, store: Store) -> None:
    """A late write of a run that was replaced changes nothing, though it seems to be a new run."""
    older = Record(name="a", state=JobState.IN_PROGRESS, created=9, attempt=1)
    newer = Record(name="a", state=JobState.PENDING, created=1, attempt=0)
    assert write(store, older) > 0
    assert write(store, newer) > 0
    assert write(store, older) is WriteResult.SUPERSEDED
    assert stored(redis).created == 1


def test_new_run_after_the_clock_was_set_back(redis: Any, store: Store) -> None:
    """A new run is stored although the server's clock was set back below `updated`."""
    write(store, Record(name="a", state=JobState.SUCCEEDED, created=2, attempt=1))
    redis.hset(KEY, "updated", 4_000_000_000_000)
    record = Record(name="a", state=JobState.PENDING, created=1, attempt=0)
    ago = time.monotonic() - 1
    (result,) = store.write([Write(KEY, record, 60_000, began_at=ago, happened_at=ago)])
    assert result is WriteResult.CHANGED
    assert stored(redis).created == 1


def test_held_write_keeps_its_time(redis: Any, store: Store) -> None:
    """A write that was held during an outage is stored with the time at which it happened."""
    record = Record(name="a", state=JobState.SUCCEEDED, created=1, attempt=1)
    now = time.monotonic()
    before = server_ms(redis)
    store.write([Write(KEY, record, 60_000, began_at=now - 9, happened_at=now - 5)])
    assert before - 6_000 <= stored(redis).updated <= before - 4_000
    assert redis.pttl(KEY) <= 55_000


def test_ttl_is_checked_before_anything_is_written(redis: Any, store: Store) -> None:
    """A write without a positive TTL is refused, and nothing of it is stored."""
    record = Record(name="a", state=JobState.PENDING, created=1, attempt=0)
    (result,) = store.write([Write(KEY, record, ttl=0)])
    assert isinstance(result, Refusal)
    assert result.is_permanent
    assert not redis.exists(KEY)


def test_record_stays_small(redis: Any, store: Store) -> None:
    """A record with ordinary texts has the compact encoding, and at most 350 bytes."""
    record = Record(
        name="render_video",
        state=JobState.IN_PROGRESS,
        created=1_700_000_000_000,
        attempt=1,
        reason="frame 812 of 2000",
        progress=40.6,
    )
    write(store, record)
    assert redis.object("encoding", KEY) == "listpack"
    assert redis.memory_usage(KEY) <= 350
