"""One write: which run it belongs to, when it expires, and its form on the wire."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import ResponseError

from jobstatus.status import JobState, Record, WriteResult
from jobstatus.storage.refusals import Refusal
from jobstatus.storage.write import (
    SCRIPT,
    SHA,
    Run,
    Write,
    read_run,
    result_of,
    server_ms_of,
    with_script,
)

PENDING, RUNNING, SUCCEEDED = JobState.PENDING, JobState.IN_PROGRESS, JobState.SUCCEEDED


def record(state: JobState, attempt: int, created: int = 50) -> Record:
    return Record(name="", state=state, created=created, attempt=attempt)


def stored(state: JobState, attempt: int, created: int = 10) -> Run:
    return Run(created, attempt, state, "copy")


@pytest.mark.parametrize(
    ("new", "before", "own", "has_own_finished", "created"),
    [
        pytest.param(record(RUNNING, 1), None, None, False, 50, id="no record"),
        pytest.param(record(RUNNING, 1), stored(PENDING, 0), None, False, 10, id="waiting run"),
        pytest.param(record(SUCCEEDED, 2), stored(RUNNING, 1), None, False, 10, id="next attempt"),
        pytest.param(record(RUNNING, 1), stored(RUNNING, 1), None, False, 50, id="other run"),
        pytest.param(record(RUNNING, 1), stored(SUCCEEDED, 1), None, False, 50, id="finished run"),
        pytest.param(
            *(record(RUNNING, 1, 5), stored(SUCCEEDED, 1), None, False, 11), id="later than stored"
        ),
        pytest.param(record(PENDING, 0), stored(RUNNING, 1), None, False, None, id="too late"),
        pytest.param(record(PENDING, 0), stored(SUCCEEDED, 1), None, False, 50, id="pending again"),
        pytest.param(
            *(record(PENDING, 0), stored(RUNNING, 1), 10, True, 50), id="pending after own attempt"
        ),
        pytest.param(
            *(record(PENDING, 0), stored(RUNNING, 1), 10, False, None), id="own attempt runs"
        ),
        pytest.param(
            *(record(RUNNING, 1), stored(PENDING, 0), 10, True, 50), id="own run seems to wait"
        ),
    ],
)
def test_join(
    new: Record, before: Run | None, own: int | None, has_own_finished: bool, created: int | None
) -> None:
    """A write joins the run that waits for it, begins a new run, or comes too late."""
    write = Write("job:1", new, 60_000, is_run_known=False)
    joined = write.join(before, own, has_own_finished=has_own_finished)
    if created is None:
        assert joined is None
    else:
        assert joined is not None
        assert joined.is_run_known
        assert joined.record.created == created
        assert joined.record.name == ("" if before is None else "copy")


@pytest.mark.parametrize(
    ("ttl", "happened_at", "is_expired"),
    [(1000, 9.5, False), (1000, 9.0, True), (1000, None, False), (0, 1.0, False)],
)
def test_is_expired(ttl: int, happened_at: float | None, is_expired: bool) -> None:
    """A write expires with its TTL, counted from the event; a report of the present never does."""
    write = Write("job:1", record(SUCCEEDED, 1), ttl, happened_at=happened_at)
    assert write.is_expired(10.0) is is_expired


@pytest.mark.parametrize(
    ("ttl", "happened_at", "remaining"),
    [(10_000, None, 10_000), (10_000, 8.0, 8_000), (10_000, -10.0, 1), (0, 8.0, 0), (-5, 8.0, -5)],
)
def test_remaining_ttl(ttl: int, happened_at: float | None, remaining: int) -> None:
    """The TTL is reduced by the age of the event, to 1 ms at least."""
    write = Write("job:1", record(SUCCEEDED, 1), ttl, happened_at=happened_at)
    assert write.arguments(10.0)[5] == remaining


records = st.builds(
    Record,
    name=st.text(max_size=5),
    state=st.sampled_from([state for state in JobState if state is not JobState.UNKNOWN]),
    created=st.integers(0, 10**12),
    attempt=st.integers(0, 9),
    reason=st.text(max_size=5),
    progress=st.none() | st.floats(0, 100),
)
moments = st.none() | st.floats(0, 200)


@given(records, st.integers(1, 10**6), st.integers(0, 10**5), moments, moments, st.integers(0, 9))
def test_packed_write_has_the_arguments(
    new: Record, ttl: int, lease: int, began_at: float, happened_at: float, server_ms: int
) -> None:
    """The packed form is the same command as `arguments` describes."""
    write = Write("job:1", new, ttl, lease, began_at, happened_at)
    arguments = [str(each) for each in write.arguments(100.0, server_ms)]
    assert parsed(write.packed(100.0, server_ms)) == ["EVALSHA", SHA, "1", "job:1", *arguments]


def test_packed_write_with_the_script() -> None:
    """The script itself can replace its name."""
    packed = Write("job:1", record(SUCCEEDED, 1), 60_000).packed(0.0)
    assert parsed(with_script(packed)) == ["EVAL", SCRIPT, *parsed(packed)[2:]]


def parsed(packed: bytes) -> list[str]:
    """Return the words of a command in RESP."""
    count, _, rest = packed.partition(b"\r\n")
    words = []
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size.removeprefix(b"$"))
        words.append(rest[:length].decode())
        assert rest[length : length + 2] == b"\r\n"
        rest = rest[length + 2 :]
    assert count == b"*%d" % len(words)
    return words


def test_read_run() -> None:
    """The run is read with one command."""
    fields = ["created", "attempt", "state", "name", "previous", "reason"]
    assert parsed(read_run("job:1")) == ["HMGET", "job:1", *fields]


@pytest.mark.parametrize(
    ("values", "run"),
    [
        ([b"1", b"2", b"pending", b"x", None, None], Run(1, 2, "pending", "x")),
        ([b"1", b"2", b"failed", b"x", b"7", b"y"], Run(1, 2, "failed", "x", 7, "y")),
        ([b"1", b"2", b"failed", b"x", b"7", b"\xff"], Run(1, 2, "failed", "x", 7, "\ufffd")),
        ([None] * 6, None),
        ([b"soon", b"2", b"pending", b"x", None, None], None),
        ([b"1", b"2", b"pending", b"\xff", None, None], None),
        ([b"1", b"2", b"pending"], None),
        (ValueError("WRONGTYPE"), None),
    ],
)
def test_run_from_fields(values: Any, run: Run | None) -> None:
    """A missing or malformed record has no run."""
    assert Run.from_fields(values) == run


@pytest.mark.parametrize("result", WriteResult)
def test_reply_to_a_write(result: WriteResult) -> None:
    """A reply carries the server's time and the result."""
    reply = 8 * 1_700_000_000_000 + 1 + result
    assert result_of(reply) is result
    assert server_ms_of(reply) == 1_700_000_000_000


def test_reply_that_is_an_error() -> None:
    """An error is a refusal."""
    refusal = Refusal("OOM no memory", is_permanent=False)
    assert result_of(ResponseError("OOM no memory")) == refusal
