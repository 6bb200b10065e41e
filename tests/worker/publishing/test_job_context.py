"""The block of a job, and how its end becomes an outcome."""

import asyncio
import contextvars
from typing import Any

import pytest
from tests.hostile_values import RaisingValue, UnprintableError

from jobstatus import JobState, current_job
from jobstatus.publishing.job_context import outcome_of
from jobstatus.reporting.error_text import ErrorText
from jobstatus.reporting.report import Outcome
from jobstatus.status import full_reason
from jobstatus.testing import RecordedStatuses

ERRORS: list[tuple[BaseException, JobState, str]] = [
    (ValueError("no\nsuch file"), JobState.FAILED, "ValueError: no such file"),
    (KeyError(), JobState.FAILED, "KeyError"),
    (ValueError(RaisingValue()), JobState.FAILED, "ValueError"),
    (UnprintableError(), JobState.FAILED, "UnprintableError"),
    (asyncio.CancelledError(), JobState.ABORTED, "cancelled"),
    (KeyboardInterrupt(), JobState.ABORTED, "interrupted"),
    (SystemExit(), JobState.SUCCEEDED, ""),
    (SystemExit(0), JobState.SUCCEEDED, ""),
    (SystemExit(3), JobState.FAILED, "SystemExit: 3"),
    (GeneratorExit(), JobState.FAILED, "GeneratorExit"),
]


@pytest.mark.parametrize(
    ("error", "state", "reason"), ERRORS, ids=lambda value: type(value).__name__
)
def test_outcome_of_an_error(error: BaseException, state: JobState, reason: str) -> None:
    """The error decides the outcome."""
    outcome = outcome_of(error, ErrorText())
    assert (outcome.state, full_reason(outcome.reason)) == (state, reason)


def test_outcome_without_an_error() -> None:
    """Without an error the job has succeeded."""
    assert outcome_of(None, ErrorText()) == Outcome(JobState.SUCCEEDED)


@pytest.mark.parametrize(
    ("error", "state", "reason"), ERRORS, ids=lambda value: type(value).__name__
)
def test_error_propagates(
    job_statuses: RecordedStatuses, error: BaseException, state: JobState, reason: str
) -> None:
    """The block reports the outcome, and the error propagates unchanged."""
    with pytest.raises(type(error)) as raised, job_statuses.publisher.job("a", name="copy"):
        raise error
    assert raised.value is error
    assert (job_statuses["a"].state, job_statuses["a"].reason) == (state, reason)


async def test_async_with(job_statuses: RecordedStatuses) -> None:
    """`async with` does the same as `with`."""
    async with job_statuses.publisher.job("a", name="copy") as report:
        await asyncio.sleep(0)
        assert current_job() is report
    assert current_job() is not report
    assert job_statuses.states("a") == ["in_progress", "succeeded"]


def test_reported_outcome(job_statuses: RecordedStatuses) -> None:
    """An outcome that the job reports is written at once, and the end of the block ignored."""
    with job_statuses.publisher.job("a", name="copy") as report:
        report.retry("rate limited", delay=30)
        assert job_statuses["a"].reason == "rate limited"
    assert job_statuses["a"].state is JobState.RETRYING
    with job_statuses.publisher.job("a", name="copy", attempt=2) as report:
        report.abort("not wanted any more")
    assert job_statuses.states("a") == ["in_progress", "retrying", "in_progress", "aborted"]


def test_reported_outcome_and_error(job_statuses: RecordedStatuses) -> None:
    """A reported outcome is kept when an error leaves the block."""

    def fail_and_raise() -> None:
        current_job().fail("no such customer")
        raise ValueError("x")

    with pytest.raises(ValueError, match="x"), job_statuses.publisher.job("a", name="copy"):
        fail_and_raise()
    assert job_statuses["a"].reason == "no such customer"


def test_report_after_the_end(job_statuses: RecordedStatuses) -> None:
    """A report that is used after the block changes nothing."""
    with job_statuses.publisher.job("a", name="x") as report:
        pass
    report.fail("after the end")
    assert job_statuses["a"].state is JobState.SUCCEEDED


def test_same_id_again(job_statuses: RecordedStatuses) -> None:
    """A job whose id was used before begins a new run, without the progress of the last one."""
    created = []
    for _ in range(2):
        with job_statuses.publisher.job("nightly", name="backup") as report:
            assert not job_statuses["nightly"].has_progress
            report.progress(10)
            created.append(job_statuses["nightly"].created_at)
    assert created[0] < created[1]
    assert job_statuses.states("nightly") == ["in_progress", "succeeded"] * 2


def test_block_that_is_left_in_another_context(job_statuses: RecordedStatuses) -> None:
    """A block may be left in another context than it was entered in."""
    job: Any = job_statuses.publisher.job("a", name="x")
    contextvars.copy_context().run(job.__enter__)
    job.__exit__(None, None, None)
    assert job_statuses["a"].state is JobState.SUCCEEDED


def test_repr(job_statuses: RecordedStatuses) -> None:
    """The repr shows the job and the attempt."""
    context = job_statuses.publisher.job("a", name="x", attempt=2)
    assert repr(context) == "<JobContext 'a', attempt 2>"
