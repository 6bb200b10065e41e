"""The record of a job that waits, and the identity of new runs."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.hostile_values import RaisingValue
from tests.records import key

from jobstatus import JobState, Publisher
from jobstatus.publishing import enqueued_record
from jobstatus.publishing.enqueued_record import (
    key_of_job,
    ms_until,
    new_run_ms,
    pending_write,
)
from jobstatus.settings import PublisherSettings
from jobstatus.testing import RecordedStatuses

DAY_MS = 86_400_000


def test_new_run_ms(monkeypatch: pytest.MonkeyPatch) -> None:
    """No two runs of a job have the same time, also within a ms; different jobs may have it."""
    own = [new_run_ms("job:a") for _ in range(1_000)]
    assert own == sorted(set(own))
    later = own[-1] + 1_000
    monkeypatch.setattr(enqueued_record, "now_ms", lambda: later)
    assert {new_run_ms(f"job:{n}") for n in range(1_000)} == {later}
    assert new_run_ms("job:1") == later + 1
    monkeypatch.setattr(enqueued_record, "now_ms", lambda: later - 50)  # the clock is set back
    assert new_run_ms("job:1") == later + 2


def test_many_jobs_in_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The jobs that are remembered are bounded; the time goes on instead."""
    moment = new_run_ms("job:a") + 10_000
    monkeypatch.setattr(enqueued_record, "now_ms", lambda: moment)
    monkeypatch.setattr(enqueued_record, "_MAX_REMEMBERED_JOBS", 10)
    runs = [new_run_ms(f"job:{n}") for n in range(25)]
    assert runs == [moment] * 10 + [moment + 1] * 10 + [moment + 2] * 5


@pytest.mark.parametrize("zone", [UTC, None])
def test_ms_until(zone: Any) -> None:
    """A moment may be aware, or naive and local; the past and None are 0."""
    now = datetime.now(zone)
    assert DAY_MS / 2 < ms_until(now + timedelta(days=1)) <= DAY_MS + 1  # rounded up
    assert ms_until(now - timedelta(days=1)) == ms_until(None) == 0


def test_key_of_job() -> None:
    """The key has the prefix of the settings."""
    assert key_of_job(PublisherSettings(), "a") == key("a")
    assert key_of_job(PublisherSettings(key_prefix="one"), "a") == key("a").replace("job", "one")


@pytest.mark.parametrize(("expires_ms", "ttl"), [(0, DAY_MS), (-5, DAY_MS), (DAY_MS, 2 * DAY_MS)])
def test_ttl(expires_ms: int, ttl: int) -> None:
    """The record is kept for the wait and the retention."""
    write = pending_write(PublisherSettings(retention=86_400), "a", "x", None, expires_ms)
    assert write.ttl == ttl


def test_ttl_of_a_very_long_wait() -> None:
    """The wait is limited to ten years."""
    write = pending_write(PublisherSettings(), "a", "x", None, 10**18)
    assert write.ttl == 3_650 * DAY_MS + DAY_MS


def test_record() -> None:
    """The record has attempt 0, and the name as one line."""
    name: Any = RaisingValue()
    record = pending_write(PublisherSettings(), "a", name, 5, 0).record
    assert (record.state, record.created, record.attempt) == (JobState.PENDING, 5, 0)
    assert record.name == "<RaisingValue>"


@pytest.mark.parametrize("created", [None, 5])
def test_run_is_known(created: int | None) -> None:
    """Only a given `created` identifies the run."""
    write = pending_write(PublisherSettings(), "a", "x", created, 0)
    assert write.is_run_known is (created is not None)


def test_deferred_job(publisher: Publisher, redis: Any) -> None:
    """The stored record outlives the deferral, the wait in the queue and the retention."""
    publisher.pending("a", name="copy", defer_until=datetime.now(UTC) + timedelta(days=3))
    assert publisher.flush()
    assert redis.pttl(key("a")) > 4 * DAY_MS


def test_late_report(job_statuses: RecordedStatuses) -> None:
    """Reporting a job as pending after it has begun changes nothing."""
    with job_statuses.publisher.job("a", name="x"):
        job_statuses.publisher.pending("a", name="x")
        assert job_statuses["a"].state is JobState.IN_PROGRESS
    assert job_statuses.states("a") == ["in_progress", "succeeded"]


def test_new_run_after_the_last_one(job_statuses: RecordedStatuses) -> None:
    """A finished job that is reported as pending begins a new run."""
    for _ in range(2):
        job_statuses.publisher.pending("a", name="x")
        with job_statuses.publisher.job("a", name="x"):
            pass
    assert job_statuses.states("a") == ["pending", "in_progress", "succeeded"] * 2
