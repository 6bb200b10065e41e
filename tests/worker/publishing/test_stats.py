"""Counters of what a publisher has done."""

import pytest

from jobstatus.publishing.stats import Histogram, PublisherStats, cumulative


def test_histogram() -> None:
    """A value counts in the first bucket whose bound is not below it."""
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 9.0):
        histogram.observe(value)
    assert histogram.values == ([2, 2, 1], 14.0)


def test_cumulative() -> None:
    """In Prometheus's buckets each includes all the smaller ones."""
    assert cumulative((0.5, 2), [2, 3, 1]) == [("0.5", 2.0), ("2.0", 5.0), ("+Inf", 6.0)]


@pytest.mark.parametrize(
    ("made", "is_written", "written", "coalesced"),
    [(0, False, 0, 0), (1, True, 1, 0), (5, True, 1, 4), (5, False, 0, 5), (0, True, 1, 0)],
)
def test_count_reports(made: int, is_written: bool, written: int, coalesced: int) -> None:
    """Of the reports since the last call, at most the last one is written."""
    stats = PublisherStats()
    stats.count_reports(made, is_written=is_written)
    assert (stats.written_reports, stats.coalesced_reports) == (written, coalesced)
