"""Read a report as the publisher does."""

from weakref import WeakKeyDictionary

from jobstatus.reporting.report import JobReport
from jobstatus.reporting.report_reader import ReportReader

_readers: WeakKeyDictionary[JobReport, ReportReader] = WeakKeyDictionary()


def read(report: JobReport) -> tuple[float | None, str]:
    """Return the current progress and reason."""
    return _reader_of(report).read()


def take_samples(report: JobReport) -> None:
    """Call the report's progress functions."""
    _reader_of(report).take_samples()


def _reader_of(report: JobReport) -> ReportReader:
    """Return the reader of a report; there is one per report."""
    return _readers.setdefault(report, ReportReader(report))
