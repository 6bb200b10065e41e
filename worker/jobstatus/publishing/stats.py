"""Counters of what a publisher has done, as plain numbers that metrics can be made of."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

from jobstatus.status import JobState

DELAY_BUCKETS_SECONDS: Final = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
"""Upper bounds of the histogram of write delays."""


class Histogram:
    """Counts of observed values, by upper bound. Fast; not thread-safe."""

    __slots__ = ("bounds", "buckets", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.buckets = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.buckets[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def values(self) -> tuple[list[int], float]:
        """The count of each bucket, and the sum of all values."""
        return self.buckets, self.sum


def cumulative(bounds: Sequence[float], buckets: Sequence[int]) -> list[tuple[str, float]]:
    """Return named buckets as Prometheus expects them: each includes all the smaller ones."""
    names = [*(repr(float(bound)) for bound in bounds), "+Inf"]
    return list(zip(names, map(float, accumulate(buckets)), strict=True))


class PublisherStats:
    """What one publisher has done since it was created.

    Attributes:
        finished_attempts: Attempts that have ended, by the state that they ended in.
        results: Results of jobs, `stored` or `dropped`.
        lost_attempts: Attempts that replaced one without an outcome: its worker has died.
        written_reports: Reports of running jobs that were written.
        coalesced_reports: Reports that a later one had replaced before they were read.
        refused_writes: Writes that Redis has refused permanently.
        superseded_writes: Writes of attempts that a later attempt or run has replaced.
        refusals: Transient refusals by Redis, by error code; the writes are retried.
        dropped_final_states: Final states that were dropped because too many were held.
        outages: Times that a write failed because Redis was unavailable.
        write_delays: Seconds from a change of state until it was written.
    """

    def __init__(self) -> None:
        self.finished_attempts: Counter[JobState] = Counter()
        self.results: Counter[str] = Counter()
        self.lost_attempts = 0
        self.written_reports = 0
        self.coalesced_reports = 0
        self.refused_writes = 0
        self.superseded_writes = 0
        self.refusals: Counter[str] = Counter()
        self.dropped_final_states = 0
        self.outages = 0
        self.write_delays = Histogram(DELAY_BUCKETS_SECONDS)

    def count_reports(self, made: int, *, is_written: bool) -> None:
        """Count the reports that a job has made since the last call.

        Args:
            made: How many reports.
            is_written: Whether the last one of them is written.
        """
        self.written_reports += is_written
        self.coalesced_reports += max(0, made - is_written)
