"""Reading a report in a test, as the publisher does."""

from weakref import WeakKeyDictionary

from jobstatus.reporting.report import JobReport
from jobstatus.reporting.report_reader import ReportReader

_readers: WeakKeyDictionary[JobReport, ReportReader] = WeakKeyDictionary()


def reader_of(report: JobReport) -> ReportReader:
    """The one reader of a report."""
    return _readers.setdefault(report, ReportReader(report))


def read(report: JobReport) -> tuple[float | None, str]:
    """Progress and reason as they are now."""
    return reader_of(report).read()


def take_samples(report: JobReport) -> None:
    """Call the report's progress functions."""
    reader_of(report).take_samples()
