"""The store of one server: batches of writes, and what it learns of the server."""

import time
from typing import Any

from fakeredis import FakeRedis
from redis.exceptions import ResponseError
from tests.waiting import eventually

from jobstatus.status import JobState, Record, WriteResult
from jobstatus.storage.refusals import Refusal
from jobstatus.storage.store import Store
from jobstatus.storage.write import Run, Write, result_of

RECORD = Record(name="x", state=JobState.PENDING, created=1, attempt=0)


def writes(count: int) -> list[Write]:
    return [Write(f"job:{n}", RECORD, 60_000) for n in range(count)]


def test_each_write_has_its_own_result(redis: Any, store: Store) -> None:
    """A refused write among others changes nothing for them."""
    redis.set("job:1", "another application's value", ex=60)
    first, refused, last = store.write(writes(3))
    assert first is last is WriteResult.CHANGED
    assert isinstance(refused, Refusal)
    assert (refused.code, refused.is_permanent) == ("WRONGTYPE", True)
    assert redis.get("job:1") == "another application's value"


def test_large_batch(redis: Any, store: Store) -> None:
    """A thousand writes are one round trip."""
    assert set(store.write(writes(1000))) == {WriteResult.CHANGED}
    assert redis.dbsize() == 1000


def test_runs(redis: Any, store: Store) -> None:
    """The run of each record is read; a missing or foreign key has none."""
    store.write(writes(1))
    redis.set("job:2", "another application's value", ex=60)
    runs = store.runs(["job:0", "job:1", "job:2"])
    assert runs == [Run(1, 0, "pending", "x"), None, None]


def test_server_that_has_forgotten_the_script(redis: Any, store: Store) -> None:
    """The script is loaded again, and no write is lost."""
    store.write(writes(1))
    redis.script_flush()
    redis.delete("job:0")
    assert set(store.write(writes(3))) == {WriteResult.CHANGED}


def test_server_time_is_learned(store: Store) -> None:
    """The server's time is learned from its replies, and follows when its clock is set."""
    assert store.server_ms(time.monotonic()) == 0
    for _ in range(5):
        store.write(writes(1))
    sent_at, own_ms = time.monotonic(), int(time.time() * 1000)
    assert abs(store.server_ms(sent_at) - own_ms) < 1_000  # the same machine's clock
    store.learn_server_time([8 * (own_ms + 3_600_000)], sent_at, sent_at)  # set forward by an hour
    assert store.server_ms(sent_at) > own_ms + 3_500_000
    store.learn_server_time([8 * own_ms], sent_at, sent_at)  # and back
    assert store.server_ms(sent_at) < own_ms + 1_000
    store.learn_server_time([ResponseError("OOM no memory")], sent_at, sent_at)  # no time
    assert store.server_ms(sent_at) < own_ms + 1_000


def test_slow_request_is_not_a_clock_set_forward() -> None:
    """After a fast exchange, one whose request was slow and whose reply was fast is ignored.

    The fast exchange's estimate is early, by what the server's time was rounded down.
    """
    store = Store(FakeRedis())
    store.learn_server_time([8 * 5_000_000], 1.0, 1.0002)  # at 1.0001 s and 5,000,000.9 ms
    store.learn_server_time([8 * 5_001_001], 1.5, 2.0004)  # at 2.0003 s and 5,001,001.1 ms
    assert store.server_ms(3.0) == 5_002_000


def test_write_that_a_frozen_server_executes_later(redis: Any, store: Store) -> None:
    """A write that waits in a frozen server's socket does not hide a run that begins meanwhile."""
    key = "job:1"
    running = Record(name="a", state=JobState.IN_PROGRESS, created=9, attempt=1, progress=1.0)
    for _ in range(5):  # so that the server's time is known exactly
        store.write([Write(key, running, 60_000, 5_000)])
    sent_at = time.monotonic()
    succeeded = Record(name="a", state=JobState.SUCCEEDED, created=9, attempt=1)
    late_write = Write(key, succeeded, 60_000, began_at=sent_at, happened_at=sent_at)
    packed = late_write.packed(sent_at, store.server_ms(sent_at))
    eventually(lambda: time.monotonic() > sent_at + 0.1)
    new_run_at = time.monotonic()
    eventually(lambda: time.monotonic() > new_run_at + 0.1)
    (late,) = store.send([packed])  # executed only now
    assert result_of(late) is WriteResult.CHANGED
    failed = Record(name="a", state=JobState.FAILED, created=1, attempt=1)
    (result,) = store.write(
        [Write(key, failed, 60_000, began_at=new_run_at, happened_at=new_run_at)]
    )
    assert result is WriteResult.CHANGED
    assert redis.hget(key, "created") == "1"
