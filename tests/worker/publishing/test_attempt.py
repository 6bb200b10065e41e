"""One attempt at a job: when it is written, and what is written of it."""

from typing import Any

import pytest
from tests.records import key
from tests.waiting import eventually
from tests.worker.clock import Clock

from jobstatus import Publisher
from jobstatus.publishing import attempt as attempt_module
from jobstatus.publishing.attempt import Attempt
from jobstatus.reporting.report import Outcome
from jobstatus.settings import PublisherSettings
from jobstatus.status import JobState
from jobstatus.storage.store import Store
from jobstatus.storage.write import Run

SETTINGS = PublisherSettings(lease=30, retention=1_000)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Replace the clock of attempts."""
    clock = Clock()
    monkeypatch.setattr(attempt_module, "time", clock)
    return clock


def new_attempt(created: int | None = 1, timeout: float | None = None) -> Attempt:
    return Attempt(SETTINGS, "a", name="x", created=created, number=1, timeout=timeout)


def test_first_write(clock: Clock) -> None:
    """The first write of an attempt does not wait for the next reading of reports."""
    attempt = new_attempt()
    write = attempt.write(clock.now, is_reading_due=False)
    assert write is not None
    assert (write.record.state, write.record.attempt) == (JobState.IN_PROGRESS, 1)
    assert (write.lease, write.ttl) == (30_000, 1_030_000)
    assert attempt.write(clock.now, is_reading_due=False) is None


def test_renewal(clock: Clock) -> None:
    """Without a new report, the lease is renewed after a third of its duration."""
    attempt = new_attempt()
    attempt.write(clock.now, is_reading_due=True)
    clock.now += 9.9
    assert attempt.write(clock.now, is_reading_due=True) is None
    clock.now += 0.2
    assert attempt.write(clock.now, is_reading_due=True) is not None


def test_new_report(clock: Clock) -> None:
    """A new report is written when reports are read."""
    attempt = new_attempt()
    attempt.write(clock.now, is_reading_due=True)
    attempt.report.progress(40, "copying")
    assert attempt.write(clock.now, is_reading_due=False) is None
    write = attempt.write(clock.now, is_reading_due=True)
    assert write is not None
    assert (write.record.progress, write.record.reason) == (40, "copying")
    assert attempt.write(clock.now, is_reading_due=True) is None


def test_timeout(clock: Clock) -> None:
    """After its timeout an attempt is not written any more; its outcome still is."""
    attempt = new_attempt(timeout=60)
    clock.now += 59
    assert attempt.write(clock.now, is_reading_due=True) is not None
    clock.now += 2
    assert attempt.is_past_deadline
    assert attempt.write(clock.now, is_reading_due=True) is None
    assert attempt.final_write(Outcome(JobState.FAILED)).record.state is JobState.FAILED


def test_refusals(clock: Clock) -> None:
    """A refused write is repeated after a growing delay, until it is accepted."""
    attempt = new_attempt()
    attempt.write(clock.now, is_reading_due=True)
    attempt.was_refused(clock.now)
    attempt.was_refused(clock.now)
    assert attempt.is_refused
    clock.now += 0.09
    assert attempt.write(clock.now, is_reading_due=False) is None
    clock.now += 0.02
    assert attempt.write(clock.now, is_reading_due=False) is not None
    attempt.was_written()
    assert not attempt.is_refused


def test_write_again(clock: Clock) -> None:
    """A record that may be lost is written again."""
    attempt = new_attempt()
    attempt.write(clock.now, is_reading_due=True)
    attempt.write_again()
    assert attempt.write(clock.now, is_reading_due=False) is not None


@pytest.mark.parametrize(
    ("outcome", "progress", "ttl"),
    [
        (Outcome(JobState.SUCCEEDED), 100.0, 1_000_000),
        (Outcome(JobState.FAILED, "no disk"), 40.0, 1_000_000),
        (Outcome(JobState.ABORTED), 40.0, 1_000_000),
        (Outcome(JobState.RETRYING), 40.0, 1_090_000),
        (Outcome(JobState.RETRYING, delay=5.0), 40.0, 1_095_000),
    ],
)
def test_final_write(outcome: Outcome, progress: float, ttl: int) -> None:
    """An unfinished record outlives the lease, the timeout and the delay of the next attempt."""
    attempt = new_attempt(timeout=60)
    attempt.report.progress(40)
    write = attempt.final_write(outcome)
    assert (write.record.state, write.record.reason) == (outcome.state, outcome.reason)
    assert (write.record.progress, write.ttl, write.lease) == (progress, ttl, 0)


def test_success_without_progress() -> None:
    """A job that never reported progress has none when it has succeeded."""
    assert new_attempt().final_write(Outcome(JobState.SUCCEEDED)).record.progress is None


@pytest.mark.parametrize(
    ("stored", "created"),
    [(None, None), (Run(7, 0, "pending", "stored"), 7), (Run(7, 1, "succeeded", "stored"), None)],
)
def test_join(stored: Run | None, created: int | None) -> None:
    """An attempt joins the run that waits for it, or begins a new one."""
    attempt = new_attempt(created=None)
    assert not attempt.is_run_known
    run = attempt.join(stored)
    assert attempt.is_run_known
    assert run.created == attempt.created
    assert (attempt.created == 7) is (created == 7)


def test_count_reports(clock: Clock) -> None:
    """The reports since the last count are returned, and whether the last one was written."""
    attempt = new_attempt()
    attempt.report.progress(1)
    attempt.report.progress(2)
    attempt.write(clock.now, is_reading_due=True)
    assert attempt.count_reports() == (2, True)
    assert attempt.count_reports() == (0, False)


def test_lease_of_a_job_without_reports(redis: Any, redis_url: str) -> None:
    """The stored lease is renewed until the timeout, and expires after it; `updated` is kept."""
    settings = PublisherSettings(redis_url=redis_url, report_interval=0.01, lease=0.3)

    def stored(field: str) -> int:
        return int(redis.hget(key("a"), field))

    def server_ms() -> float:
        seconds, microseconds = redis.time()
        return float(seconds * 1000 + microseconds / 1000)

    with (
        Publisher(Store.from_settings(settings), settings) as publisher,
        publisher.job("a", name="sleep", timeout=0.5),
    ):
        assert publisher.flush()
        first, updated = stored("lease"), stored("updated")
        eventually(lambda: stored("lease") > first)
        eventually(lambda: server_ms() > stored("lease"))
        assert stored("updated") == updated
