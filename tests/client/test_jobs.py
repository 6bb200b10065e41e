"""Statuses that replicas of the service report late do not take a job back."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from tests.worker.clock import Clock

from jobstatus import JobDetails, JobState, UnknownCause
from jobstatus_client.jobs import STALE_SECONDS, WatchedJob

JOB = UUID(int=1)


def status(state: str, created: int = 1, updated: int = 10, cause: str | None = None) -> JobDetails:
    return JobDetails(
        id=JOB,
        created_at=datetime.fromtimestamp(created, UTC),
        updated_at=datetime.fromtimestamp(updated, UTC),
        state=JobState(state),
        unknown_cause=None if cause is None else UnknownCause(cause),
    )


RUNNING = status("in_progress")
DONE = status("succeeded")


@pytest.mark.parametrize(
    ("last", "new", "is_accepted"),
    [
        (RUNNING, status("in_progress", updated=11), True),
        (RUNNING, status("in_progress", updated=9), False),
        (RUNNING, status("retrying", updated=9), False),
        (RUNNING, status("pending", created=2, updated=9), True),
        # The worker's time of the enqueueing may differ from the producer's.
        (RUNNING, status("in_progress", created=0, updated=11), True),
        (RUNNING, status("unknown", cause="lease_expired"), True),
        (RUNNING, status("unknown", created=0, updated=0, cause="no_record"), False),
        (DONE, DONE, True),
        (DONE, status("in_progress", updated=11), False),
        (DONE, status("succeeded", created=0, updated=9), False),
        (DONE, status("failed", created=2, updated=9), True),
        (DONE, status("unknown", created=0, updated=0, cause="no_record"), False),
    ],
)
def test_order_of_statuses(last: JobDetails, new: JobDetails, is_accepted: bool) -> None:
    """An older status is ignored for a while, and then believed."""
    job = WatchedJob(JOB, (clock := Clock()).monotonic)
    job.accept(last)
    assert job.accept(new) is is_accepted
    assert job.status == (new if is_accepted else last)
    clock.now += STALE_SECONDS
    assert job.accept(new)
    assert job.status == new


def test_order_after_unknown() -> None:
    """A status that is older than the last one before `unknown` is ignored, too."""
    job = WatchedJob(JOB, Clock().monotonic)
    for each in (RUNNING, status("unknown", cause="lease_expired")):
        assert job.accept(each)
    assert not job.accept(status("in_progress", updated=9))
    assert job.accept(status("in_progress", updated=11))


def test_listeners_are_called_for_changes_only() -> None:
    """A status that is the same calls nobody; a lost connection does."""
    calls: list[Any] = []
    job = WatchedJob(JOB, Clock().monotonic)
    job.listeners.append(lambda: calls.append(job.status))
    job.accept(RUNNING)
    job.accept(status("in_progress"))
    assert calls == [RUNNING]
    job.disconnect(OSError("no"))
    assert (len(calls), job.is_connected, str(job.problem)) == (2, False, "no")
    job.reconnect()
    assert (len(calls), job.is_connected, job.problem) == (3, True, None)
