"""Reports and their steps, as a poller gets them; outcomes."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from tests.hostile_values import RaisingValue

from jobstatus import JobReport, JobState, Step, current_job
from jobstatus.reporting.report import Outcome
from jobstatus.testing import RecordedStatuses


@pytest.fixture
def report(job_statuses: RecordedStatuses) -> Iterator[JobReport]:
    """Return the report of the job `a`, which runs during the test."""
    with job_statuses.publisher.job("a", name="x") as report:
        yield report


def shown(statuses: RecordedStatuses) -> tuple[float, str]:
    """Return progress and reason as a poller gets them."""
    status = statuses["a"]
    return status.progress, status.reason


def test_progress_and_reason(job_statuses: RecordedStatuses, report: JobReport) -> None:
    """Progress may have a reason, which is kept until the next one."""
    assert not job_statuses["a"].has_progress
    report.progress(40, "copying")
    assert shown(job_statuses) == (40, "copying")
    report.progress(50)
    assert shown(job_statuses) == (50, "copying")
    report.reason = "checking"
    assert shown(job_statuses) == (50, "checking")
    assert report.reason == "checking"


def test_progress_never_decreases(job_statuses: RecordedStatuses, report: JobReport) -> None:
    """Lower progress than before changes nothing within an attempt."""
    report.progress(40)
    report.progress(30, "again")
    assert shown(job_statuses) == (40, "again")


def test_steps_count_by_weight(job_statuses: RecordedStatuses, report: JobReport) -> None:
    """The percentage of a step counts by its weight among the steps of the job."""
    download, convert = report.step("download"), report.step("convert", weight=3)
    assert shown(job_statuses) == (0, "")
    with download:
        download.progress(50)
        assert shown(job_statuses) == (12.5, "download")
    assert shown(job_statuses) == (25, "")
    with convert as step:
        step.progress(50, "page 3")
        assert shown(job_statuses) == (62.5, "convert: page 3")
    assert shown(job_statuses) == (100, "")


def test_step_is_the_current_job(report: JobReport) -> None:
    """Within the block of a step, `current_job()` is the step; outcomes are those of the job."""
    with report.step("only") as step:
        assert current_job() is step
        current_job().fail("no disk")
    assert current_job() is report
    assert report.outcome == Outcome(JobState.FAILED, "no disk")


def test_nested_steps(job_statuses: RecordedStatuses, report: JobReport) -> None:
    """A step may have steps and loops of its own."""
    outer, _ = report.step("outer"), report.step("other")
    first, second = outer.step("first"), outer.step("second")
    with outer:
        with first:
            pass
        with second:
            for n in current_job().track([1, 2], reason="{done} of {total}"):
                progress = 25 + 12.5 * (n - 1)
                assert shown(job_statuses) == (progress, f"outer: second: {n - 1} of 2")
    assert shown(job_statuses) == (50, "")


def test_step_that_fails(job_statuses: RecordedStatuses, report: JobReport) -> None:
    """A step that is left by an exception is not complete."""
    step = report.step("only")
    step.progress(30)
    with pytest.raises(ValueError, match="x"), step:
        raise ValueError("x")
    assert shown(job_statuses) == (30, "")


@pytest.mark.parametrize("weight", [0, -1, float("nan")])
def test_weight_of_a_step(report: JobReport, weight: float) -> None:
    """A weight that is not above 0 is a ValueError."""
    with pytest.raises(ValueError, match="the weight of a step must be above 0, not"):
        report.step("x", weight)


async def test_async_step(job_statuses: RecordedStatuses, report: JobReport) -> None:
    """A step may be used with `async with`."""
    async with report.step("x") as step:
        assert current_job() is step
    assert shown(job_statuses) == (100, "")


@pytest.mark.parametrize(
    ("report_outcome", "outcome"),
    [
        (lambda report: report.succeed(), Outcome(JobState.SUCCEEDED)),
        (lambda report: report.fail("a\nb"), Outcome(JobState.FAILED, "a b")),
        (lambda report: report.abort("stopped"), Outcome(JobState.ABORTED, "stopped")),
        (lambda report: report.retry("busy"), Outcome(JobState.RETRYING, "busy")),
        (lambda report: report.retry("busy", 5), Outcome(JobState.RETRYING, "busy", 5.0)),
        (
            lambda report: report.retry("busy", timedelta(minutes=2)),
            Outcome(JobState.RETRYING, "busy", 120.0),
        ),
        (lambda report: report.retry("busy", -1), Outcome(JobState.RETRYING, "busy")),
        (
            lambda report: report.retry(RaisingValue(), "soon"),
            Outcome(JobState.RETRYING, "<RaisingValue>"),
        ),
    ],
)
def test_outcomes(
    job_statuses: RecordedStatuses, report: JobReport, report_outcome: Any, outcome: Outcome
) -> None:
    """A report ends its attempt at once; an invalid delay is ignored."""
    report_outcome(report)
    assert report.outcome == outcome
    assert (job_statuses["a"].state, job_statuses["a"].reason) == (outcome.state, outcome.reason)


def test_first_outcome_counts(job_statuses: RecordedStatuses, report: JobReport) -> None:
    """Later outcomes and reports change nothing."""
    report.fail("no such customer")
    report.succeed()
    report.progress(50, "late")
    assert report.outcome == Outcome(JobState.FAILED, "no such customer")
    assert job_statuses["a"].reason == "no such customer"


def test_reprs() -> None:
    """The reprs of a report and of a step show what was reported."""
    report = JobReport()
    report.progress(40, "copying")
    assert repr(report) == "<JobReport: progress 40, reason 'copying'>"
    step = report.step("first")
    assert isinstance(step, Step)
    step.progress(10)
    assert repr(step) == "<Step 'first': progress 10, reason ''>"
    report.fail("no disk")
    assert repr(report) == "<JobReport: progress 40, reason 'copying', failed>"
