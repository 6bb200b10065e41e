"""Finding out which run a write belongs to."""

from collections.abc import Sequence
from typing import Any

import pytest
from tests.records import key
from tests.waiting import eventually
from tests.worker.unreliable_store import unreliable

from jobstatus.publishing.attempt import Attempt
from jobstatus.publishing.run_resolver import RunResolver
from jobstatus.reporting.report import Outcome
from jobstatus.settings import PublisherSettings
from jobstatus.status import JobState, Record
from jobstatus.storage.refusals import Refusal
from jobstatus.storage.write import Run, Write

WAITING = Run(7, 0, "pending", "x")
REFUSAL = Refusal("OOM no memory", is_permanent=False)


class StoredRuns:
    """A store that has the given runs.

    Attributes:
        requested: The keys of each read.
    """

    def __init__(self, **runs: Run | Refusal) -> None:
        self._runs = runs
        self.requested: list[list[str]] = []

    def runs(self, keys: Sequence[str]) -> list[Run | Refusal | None]:
        """Return the runs of the keys."""
        self.requested.append(list(keys))
        return [self._runs.get(each) for each in keys]


def resolver(store: Any) -> tuple[RunResolver, list[Refusal]]:
    """Return a resolver, and the list of the refusals that it reports."""
    refusals: list[Refusal] = []
    return RunResolver(store, refusals.append), refusals


def attempt_at(job_key: str, number: int = 1) -> Attempt:
    attempt = Attempt(PublisherSettings(), "a", name="x", created=None, number=number, timeout=None)
    attempt.key = job_key
    return attempt


def write_to(
    job_key: str, *, is_run_known: bool = False, ttl: int = 60_000, attempt: int = 1
) -> Write:
    state = JobState.FAILED if attempt else JobState.PENDING
    record = Record(name="x", state=state, created=50, attempt=attempt)
    return Write(job_key, record, ttl, happened_at=1_000.0, is_run_known=is_run_known)


def test_attempts_join_the_stored_runs() -> None:
    """Each attempt joins the run that waits for it; other runs are new."""
    store = StoredRuns(a=WAITING)
    runs, _ = resolver(store)
    waited_for, other = attempt_at("a"), attempt_at("b")
    runs.join_attempts([waited_for, other], 10)
    assert waited_for.created == 7
    assert other.created not in {None, 7}
    assert store.requested == [["a", "b"]]


def test_attempts_at_one_job() -> None:
    """Of two attempts at one job, the first joins the waiting run, the second begins a new one."""
    runs, _ = resolver(StoredRuns(a=WAITING))
    first, second = attempt_at("a"), attempt_at("a")
    runs.join_attempts([first, second], 10)
    assert first.created == 7
    assert second.created is not None
    assert second.created > 7


def test_own_run_that_seems_to_wait() -> None:
    """A run of this process whose writes have not arrived yet does not wait for an attempt."""
    runs, _ = resolver(StoredRuns(a=WAITING))
    first, second = attempt_at("a"), attempt_at("a")
    runs.join_attempts([first], 10)
    runs.join_attempts([second], 10)
    assert first.created == 7 != second.created
    third = attempt_at("a")
    runs.release("a", second.created, 1)  # the outcome is stored
    runs.join_attempts([third], 10)
    assert third.created == 7


@pytest.mark.parametrize("stored", [None, WAITING])
def test_next_attempts(stored: Run | None) -> None:
    """The next attempt belongs to the same run before the outcome of the last one is stored."""
    runs, _ = resolver(StoredRuns(**{} if stored is None else {"a": stored}))
    first, second, third = (attempt_at("a", number) for number in (1, 2, 3))
    runs.join_attempts([first], 10)
    first.outcome = Outcome(JobState.RETRYING)
    runs.join_attempts([second], 10)
    runs.release("a", first.created, 1)  # the outcome of the first is stored, the second runs
    runs.join_attempts([third], 10)
    assert first.created == second.created == third.created
    third.outcome = Outcome(JobState.FAILED)
    new_run = attempt_at("a", 4)
    runs.join_attempts([new_run], 10)
    assert new_run.created != third.created


def test_writes_after_a_retry() -> None:
    """A report as pending changes nothing while a retry is not stored; the next outcome does."""
    runs, _ = resolver(StoredRuns(a=WAITING))
    first, next_attempt = attempt_at("a"), attempt_at("a", 2)
    runs.join_attempts([first], 10)
    first.outcome = Outcome(JobState.RETRYING)
    waiting = write_to("a", attempt=0)
    outcome = next_attempt.final_write(Outcome(JobState.SUCCEEDED))
    _, joined, _ = runs.join_writes([(None, waiting), (None, outcome)], 1_001.0)
    assert [(write.record.attempt, write.record.created) for _, write in joined] == [(2, 7)]


def test_late_retry() -> None:
    """The outcome of an attempt whose run was not known is left out after the next has begun."""
    runs, _ = resolver(StoredRuns(a=WAITING))
    outcome = attempt_at("a").final_write(Outcome(JobState.RETRYING))
    runs.join_attempts([attempt_at("a", 2)], 10)
    assert runs.join_writes([(None, outcome)], 1_001.0) == ([], [], [])


def test_batches() -> None:
    """One read has at most as many keys as a batch."""
    store = StoredRuns()
    runs, _ = resolver(store)
    runs.join_attempts([attempt_at(str(n)) for n in range(5)], 2)
    assert store.requested == [["0", "1"], ["2", "3"], ["4"]]


def test_attempt_whose_record_can_not_be_read() -> None:
    """If reading the record is refused, the attempt is tried again later."""
    store = StoredRuns(a=REFUSAL)
    runs, refusals = resolver(store)
    attempt = attempt_at("a")
    runs.join_attempts([attempt], 10)
    assert attempt.is_refused
    assert not attempt.is_run_known
    runs.join_attempts([attempt], 10)  # not yet due
    assert refusals == [REFUSAL]
    assert len(store.requested) == 1


def test_writes() -> None:
    """Writes join their runs; those that have expired are left out, and refused ones returned."""
    store = StoredRuns(unknown=WAITING, refused=REFUSAL)
    runs, refusals = resolver(store)
    known, unknown = write_to("known", is_run_known=True), write_to("unknown")
    expired, refused = write_to("expired", is_run_known=True, ttl=500), write_to("refused")
    batch = [(None, write) for write in (known, unknown, expired, refused)]
    remaining, joined, not_read = runs.join_writes(batch, 1_001.0)
    assert remaining == [(None, known), (None, unknown)]
    assert [(write.key, write.record.created) for _, write in joined] == [
        ("known", 50),
        ("unknown", 7),
    ]
    assert not_read == [(None, refused)]
    assert refusals == [REFUSAL]
    assert store.requested == [["unknown", "refused"]]


@pytest.mark.parametrize("is_begin_stored", [True, False])
def test_runs_during_an_outage(redis: Any, redis_url: str, is_begin_stored: bool) -> None:
    """A run that begins during an outage is not confused with the last run of the job."""
    store, publisher = unreliable(redis_url)
    with publisher:
        publisher.pending("a", name="first")
        assert publisher.flush()
        first = publisher.job("a", name="first")
        report = first.__enter__()
        eventually(lambda: publisher._delivery._runs._latest)  # its run is known
        store.is_available = False
        if not is_begin_stored:
            redis.hset(key("a"), mapping={"state": "pending", "attempt": "0"})
        report.fail("first")
        first.__exit__(None, None, None)
        publisher.pending("a", name="second")
        with publisher.job("a", name="second") as second:
            eventually(lambda: publisher._delivery._outage_retry.failures > 1)
            store.is_available = True
            assert publisher.flush()
            assert redis.hmget(key("a"), "state", "name") == ["in_progress", "second"]
            second.abort("second")
        assert publisher.flush()
        assert redis.hmget(key("a"), "state", "name") == ["aborted", "second"]
        assert not publisher._delivery._runs._latest
