"""The atomic write: the Lua script and the Python table agree on every transition."""

import itertools
import time
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobstatus.settings import PublisherSettings
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
from jobstatus.storage.write import SCRIPT, Write, result_of

KEY = "job:1"
WRITTEN = [state for state in JobState if state is not JobState.UNKNOWN]

records = st.builds(
    Record,
    name=st.sampled_from(["a", "b"]),
    state=st.sampled_from(WRITTEN),
    created=st.sampled_from([1_700_000_000_000, 1_700_000_000_001]),
    attempt=st.integers(0, 2),
    reason=st.sampled_from(["", "x", "y"]),
    progress=st.sampled_from([None, 0.0, 5.0, 40.0, 40.5, 100.0]),
)


def expected(
    stored: Record | None, new: Record, previous: int | None = None
) -> tuple[WriteResult, Record]:
    """What the rules of the design say, in Python: the outcome, and the record afterwards.

    Args:
        stored: The record before.
        new: What is written, by a run or attempt that begins now.
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
        return _later(stored, new)
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


def _later(stored: Record, new: Record) -> tuple[WriteResult, Record]:
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


def visible(record: Record) -> tuple[Any, ...]:
    progress = format_progress(record.progress)
    return (record.name, record.state, record.created, record.attempt, record.reason, progress)


@pytest.fixture
def store(settings: PublisherSettings) -> Any:
    store = Store.from_settings(settings)
    yield store
    store.close()


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(records, min_size=1, max_size=8))
def test_script_and_table_agree(redis: Any, store: Store, writes: list[Record]) -> None:
    """After any sequence of writes the script has done just what the rules say."""
    redis.delete(KEY)
    before: Record | None = None
    previous: int | None = None
    for new in writes:
        outcome, after = expected(before, new, previous)
        updated = int(redis.hget(KEY, "updated") or 0)
        assert write(store, new) is outcome
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
def test_every_pair(redis: Any, store: Store, state: JobState, new: JobState, later: str) -> None:
    """Every (stored state, incoming state) pair does what the rules say."""
    first = Record(name="a", state=state, created=1, attempt=1, progress=50.0)
    second = Record(
        name="a",
        state=new,
        created=2 if later == "run" else 1,
        attempt=2 if later == "attempt" else 1,
        progress=10.0,
    )
    write(store, first)
    outcome, after = expected(first, second)
    assert write(store, second) is outcome
    assert visible(stored(redis)) == visible(after)


def test_heartbeat_moves_lease_and_ttl_only(redis: Any, store: Store) -> None:
    """A heartbeat renews lease and TTL, and leaves `updated` alone."""
    record = Record(name="a", state=JobState.IN_PROGRESS, created=1, attempt=1, progress=5.0)
    write(store, record, ttl=10_000)
    before = stored(redis)
    time.sleep(0.01)
    assert write(store, record, ttl=90_000) is WriteResult.RENEWED
    after = stored(redis)
    assert after.updated == before.updated
    assert after.lease > before.lease
    assert redis.pttl(KEY) > 80_000


def test_refused_write_touches_nothing(redis: Any, store: Store) -> None:
    """A write that is refused leaves TTL and record as they were."""
    write(store, Record(name="a", state=JobState.SUCCEEDED, created=5, attempt=2), ttl=10_000)
    before = redis.hgetall(KEY)
    late = Record(name="a", state=JobState.IN_PROGRESS, created=5, attempt=2, progress=1.0)
    fenced = Record(name="a", state=JobState.FAILED, created=5, attempt=1)
    assert write(store, late, ttl=90_000) is WriteResult.ALREADY_FINAL
    assert write(store, fenced, ttl=90_000) is WriteResult.SUPERSEDED
    assert redis.hgetall(KEY) == before
    assert redis.pttl(KEY) <= 10_000


def test_updated_never_goes_back(redis: Any, store: Store) -> None:
    """A server clock that was set back doesn't take `updated` back."""
    write(store, Record(name="a", state=JobState.IN_PROGRESS, created=1, attempt=1))
    future = 4_000_000_000_000
    redis.hset(KEY, "updated", future)
    write(store, Record(name="a", state=JobState.SUCCEEDED, created=1, attempt=1))
    assert stored(redis).updated == future


def test_unreadable_record_is_replaced(redis: Any, store: Store) -> None:
    """A record whose run can't be read is replaced by the next write."""
    redis.hset(
        KEY, mapping={"created": "soon", "attempt": "x", "state": "succeeded", "reason": "r"}
    )
    record = Record(name="a", state=JobState.IN_PROGRESS, created=1, attempt=1)
    assert write(store, record) is WriteResult.CHANGED
    assert visible(stored(redis)) == visible(record)


class Event(NamedTuple):
    """Something that happens to a run, and the write that reports it.

    Times are true ones, in ms.
    """

    run: int
    created: int
    state: JobState
    began_at: int
    happened_at: int
    delivered: int


@st.composite
def histories(draw: st.DrawFn) -> list[Event]:
    """Runs of one job, one after the other, enqueued by machines whose clocks are wrong.

    Any report may be missing or late; whoever runs a job may go on to say so long after another
    worker has ended it, as a process that was frozen does.
    """
    now, events, taken = 10_000_000, list[Event](), set[int]()
    for run in range(draw(st.integers(2, 5))):
        enqueued = now + draw(st.integers(2, 3_000))
        began_at = enqueued + draw(st.integers(2, 3_000))
        now = ended = began_at + draw(st.integers(2, 3_000))
        created = enqueued + draw(st.integers(-20_000, 20_000))
        created = next(c for c in itertools.count(created) if c not in taken)
        taken.add(created)
        late = st.just(0) | st.integers(0, 20_000)
        final = draw(st.sampled_from([JobState.SUCCEEDED, JobState.FAILED, JobState.ABORTED]))
        reports = [
            (JobState.PENDING, enqueued, enqueued, enqueued + draw(late)),
            (JobState.IN_PROGRESS, began_at, began_at, began_at),
            (final, began_at, ended, ended + draw(late)),
        ]
        events += [Event(run, created, *each) for each in reports if draw(st.integers(0, 3))]
        events += [
            Event(run, created, JobState.IN_PROGRESS, began_at, after, after)
            for after in draw(st.lists(st.integers(ended + 30_000, ended + 60_000), max_size=2))
        ]
    return sorted(events, key=lambda event: event.delivered)


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(histories())
def test_runs_are_ordered_whatever_the_clocks_say(redis: Any, events: list[Event]) -> None:
    """The latest run that anybody has reported is shown; late writers of older ones do nothing."""
    redis.delete(KEY)
    script = redis.register_script(
        SCRIPT.replace(
            "redis.call('TIME')", "{math.floor(ARGV[12] / 1000), ARGV[12] % 1000 * 1000}"
        )
    )
    latest = -1
    for run, created, state, began_at, happened_at, delivered in events:
        record = Record(name="a", state=state, created=created, attempt=int(state != "pending"))
        running = state is JobState.IN_PROGRESS
        write = Write(
            KEY,
            record,
            60_000,
            5_000 if running else 0,
            began_at=began_at / 1000,
            happened_at=None if running else happened_at / 1000,
        )
        is_zombie = running and happened_at != began_at
        if is_zombie and run >= latest:
            continue  # nobody else has been heard of: it is as good as any
        result = script(keys=[KEY], args=[*write.arguments(delivered / 1000), delivered])
        assert result // 8 == delivered
        if run < latest:
            assert result_of(result) is WriteResult.SUPERSEDED
        latest = max(latest, run)
        shown = next(event.created for event in events if event.run == latest)
        assert int(redis.hget(KEY, "created")) == shown


def test_writer_that_was_frozen_while_it_wrote(redis: Any, store: Store) -> None:
    """A run that was replaced stays so, though a write of it that was under way seems to be new."""
    older = Record(name="a", state=JobState.IN_PROGRESS, created=9, attempt=1)
    newer = Record(name="a", state=JobState.PENDING, created=1, attempt=0)
    assert write(store, older) > 0
    assert write(store, newer) > 0
    assert write(store, older) is WriteResult.SUPERSEDED
    assert stored(redis).created == 1


def test_write_that_a_frozen_server_found_later(redis: Any, store: Store) -> None:
    """A write that lay in a frozen server's socket doesn't hide the run that began meanwhile."""
    old = Record(name="a", state=JobState.IN_PROGRESS, created=9, attempt=1, progress=1.0)
    write(store, old)
    now = time.monotonic()
    packed = Write(
        KEY,
        Record(name="a", state=JobState.SUCCEEDED, created=9, attempt=1),
        60_000,
        began_at=now,
        happened_at=now,
    ).packed(now, store.server_ms(now))
    time.sleep(0.3)
    began = time.monotonic()
    time.sleep(0.3)
    (late,) = store.send([packed])  # executed only now
    assert result_of(late) is WriteResult.CHANGED
    newer = Record(name="a", state=JobState.FAILED, created=1, attempt=1)
    (result,) = store.write([Write(KEY, newer, 60_000, began_at=began, happened_at=began)])
    assert result is WriteResult.CHANGED
    assert stored(redis).created == 1


def test_server_time_is_learned(store: Store) -> None:
    """The server's time is known from the replies, never as earlier than it is by much."""
    record = Record(name="a", state=JobState.PENDING, created=1, attempt=0)
    assert store.server_ms(time.monotonic()) == 0
    for _ in range(5):
        write(store, record)
    own = time.time() * 1000
    assert abs(store.server_ms(time.monotonic()) - own) < 1_000  # the same machine's clock
    store.learn_server_time([8 * (int(own) + 5_000)], time.monotonic())  # it is set forward
    assert store.server_ms(time.monotonic()) > own + 4_000
    store.learn_server_time([8 * int(own)], time.monotonic())  # and back
    assert store.server_ms(time.monotonic()) < own + 1_000


def test_server_clock_set_back(redis: Any, store: Store) -> None:
    """A run that is enqueued when a new primary's clock is behind is shown all the same."""
    write(store, Record(name="a", state=JobState.SUCCEEDED, created=2, attempt=1))
    redis.hset(KEY, "updated", 4_000_000_000_000)
    record = Record(name="a", state=JobState.PENDING, created=1, attempt=0)
    ago = time.monotonic() - 1
    (result,) = store.write([Write(KEY, record, 60_000, began_at=ago, happened_at=ago)])
    assert result is WriteResult.CHANGED
    assert stored(redis).created == 1


def test_held_news_keep_their_time(redis: Any, store: Store) -> None:
    """What was held during an outage is shown with the time at which it happened."""
    record = Record(name="a", state=JobState.SUCCEEDED, created=1, attempt=1)
    now = time.monotonic()
    seconds, microseconds = redis.time()
    store.write([Write(KEY, record, 60_000, began_at=now - 9, happened_at=now - 5)])
    ago = seconds * 1000 + microseconds // 1000 - stored(redis).updated
    assert 4_000 <= ago <= 6_000
    assert redis.pttl(KEY) <= 55_000


def test_ttl_is_checked_before_anything_is_written(redis: Any, store: Store) -> None:
    """A write without a positive TTL is refused whole."""
    record = Record(name="a", state=JobState.PENDING, created=1, attempt=0)
    (result,) = store.write([Write(KEY, record, ttl=0)])
    assert isinstance(result, Refusal)
    assert result.is_permanent
    assert not redis.exists(KEY)


def test_script_survives_a_flush(redis: Any, store: Store) -> None:
    """A server that has forgotten its scripts gets them again, and no write is lost."""
    record = Record(name="a", state=JobState.PENDING, created=1, attempt=0)
    write(store, record)
    redis.script_flush()
    redis.delete(KEY)
    assert write(store, record) is WriteResult.CHANGED


def test_record_stays_small(redis: Any, store: Store) -> None:
    """A record with ordinary texts stays in the compact encoding, under 350 bytes."""
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
