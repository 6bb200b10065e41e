"""What a publisher has done, in plain numbers; whoever exports metrics reads them."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

from jobstatus.status import JobState

DELAY_BUCKETS_SECONDS: Final = (
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
)
"""Upper bounds, in seconds."""


class Histogram:
    """Observations by upper bound. Quick to observe; not for two threads."""

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
        """Counts of each bucket, and the sum of all values."""
        return self.buckets, self.sum


def cumulative(bounds: Sequence[float], buckets: Sequence[int]) -> list[tuple[str, float]]:
    """Buckets as Prometheus has them: each stats the ones before it, too, and has a name."""
    names = [*(repr(float(bound)) for bound in bounds), "+Inf"]
    return list(zip(names, map(float, accumulate(buckets)), strict=True))


class PublisherStats:
    """What has happened in this process.

    Attributes:
        finished_attempts: Attempts that have ended, by how.
        lost_attempts: Attempts that replaced one that never ended: its worker died.
        written_reports: Reports of running jobs that were written.
        coalesced_reports: Those that a later one had replaced before anybody looked.
        refused_writes: Writes that Redis refused for good.
        refusals: Refusals for now of writes that are tried again, by error code.
        dropped_final_states: Final states that were dropped, since too many were held.
        superseded_writes: Writes of attempts that a later attempt or run had replaced.
        outages: Times that Redis could not take what was to be written.
        write_delays: Seconds from a change of state to its being written.
    """

    def __init__(self) -> None:
        self.finished_attempts: Counter[JobState] = Counter()
        self.lost_attempts = self.written_reports = self.coalesced_reports = self.refused_writes = (
            self.superseded_writes
        ) = self.outages = 0
        self.refusals: Counter[str] = Counter()
        self.dropped_final_states = 0
        self.write_delays = Histogram(DELAY_BUCKETS_SECONDS)

    def reports(self, made: int, is_written: bool) -> None:
        """Between two looks at a job so many reports were made; whether the last was written."""
        self.written_reports += is_written
        self.coalesced_reports += max(0, made - is_written)
