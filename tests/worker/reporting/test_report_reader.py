"""Reading a report: several sources of progress, and values that are not valid."""

import logging
import sys
from typing import Any

import pytest
from tests.hostile_values import RaisingValue
from tests.worker.reports import read, take_samples

from jobstatus.reporting.report import JobReport
from jobstatus.reporting.report_reader import ReportReader


@pytest.fixture
def report() -> JobReport:
    """Return a new report."""
    return JobReport()


def test_new_report(report: JobReport) -> None:
    """A new report has neither progress nor a reason."""
    assert read(report) == (None, "")
    assert not ReportReader(report).has_progress
    assert not ReportReader(report).needs_sampling


def test_highest_source_counts(report: JobReport) -> None:
    """If several sources report progress, the highest counts."""
    report.progress(30, "copying")
    report.sample(lambda: 60)
    take_samples(report)
    assert read(report) == (60, "copying")
    report.progress(80)
    assert read(report) == (80, "copying")
    for _ in report.track(range(2)):
        assert read(report) == (80, "copying")
    assert read(report) == (100, "copying")


@pytest.mark.parametrize(("reported", "shown"), [(-5, 0), (105, 100), (1e308, 100), (True, 1)])
def test_progress_out_of_range(report: JobReport, reported: float, shown: float) -> None:
    """Progress outside 0..100 counts as the nearest bound, from every source."""
    report.progress(reported)
    assert read(report)[0] == shown
    sampled = JobReport()
    sampled.sample(lambda: reported)
    take_samples(sampled)
    assert read(sampled)[0] == shown


@pytest.mark.parametrize("reported", ["half", None, 10**400, object(), RaisingValue()])
def test_progress_that_is_not_a_number(
    report: JobReport, reported: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Progress that is not a number is no progress, and logged once."""
    report.progress(reported)
    assert [read(report)[0] for _ in range(2)] == [None, None]
    logged = [line.startswith("a job's progress is not a number") for line in caplog.messages]
    assert logged == ([True] if reported is not None else [])


def test_progress_that_is_nan(report: JobReport) -> None:
    """NaN is no progress."""
    report.progress(float("nan"))
    assert read(report)[0] is None


@pytest.mark.parametrize("is_exit", [True, False])
def test_progress_function_that_raises(
    report: JobReport, caplog: pytest.LogCaptureFixture, is_exit: bool
) -> None:
    """A progress function that raises is logged once, and not called again."""
    report.sample((lambda: sys.exit(1)) if is_exit else (lambda: 1 / 0))
    with caplog.at_level(logging.WARNING):
        take_samples(report)
        take_samples(report)
        assert read(report)[0] is None
    error = "SystemExit: 1" if is_exit else "ZeroDivisionError: division by zero"
    (message,) = caplog.messages
    assert message.startswith("the progress function test_progress_function_that_raises.")
    assert message.endswith(f"failed and is not called again, the job continues: {error}")


def test_last_sample_is_kept(report: JobReport) -> None:
    """If a progress function raises, the last progress is kept."""
    values = [40.0]
    report.sample(values.pop)
    take_samples(report)
    take_samples(report)
    assert read(report)[0] == 40


def test_progress_function_that_can_not_be_called(report: JobReport) -> None:
    """A progress function that is not callable raises nothing."""
    function: Any = RaisingValue()
    report.sample(function)
    take_samples(report)
    assert read(report)[0] is None
    assert ReportReader(report).has_progress


def test_reason_is_one_line(report: JobReport) -> None:
    """A reason of several lines is shown as one line of at most 500 characters."""
    report.reason = "a\nb\t c" + "d" * 600
    shown = read(report)[1]
    assert shown.startswith("a b cd")
    assert len(shown) == 500


def test_reason_whose_text_raises(report: JobReport) -> None:
    """A reason that can't be converted to text is shown as its type."""
    reason: Any = RaisingValue()
    report.reason = reason
    assert read(report)[1] == "<RaisingValue>"


def test_last_reason_is_kept(report: JobReport, caplog: pytest.LogCaptureFixture) -> None:
    """If reading raises, the last reason is kept, and the error is logged once."""

    class BrokenPosition:
        reason, total, has_ended = "broken", 10, False

        def done(self) -> int:
            raise RuntimeError

    report.progress(30, "copying")
    assert read(report) == (30, "copying")
    report._follow(BrokenPosition())
    assert [read(report) for _ in range(2)] == [(None, "copying")] * 2
    assert caplog.messages == ["a job's report can't be read: RuntimeError: "]


def test_number_of_reports(report: JobReport) -> None:
    """Assignments and steps of loops count as reports, those of steps included."""
    report.progress(1)
    report.reason = "x"
    report.step("one").progress(2)
    for _ in report.track(range(3)):
        pass
    assert ReportReader(report).report_count == 6
