"""Count what happens in this process, and add up the counts of several processes.

Counting a read costs one addition and a search among sixteen bounds. The counters of
prometheus-client take a lock each, which costs more than a read from the cache; so this module
counts in plain numbers, and `metrics.prometheus` formats them when they are requested.

To add a metric, add it to `Metrics`, to the sample that `Statuses.sample` takes, and to the tables
in `metrics.prometheus`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, get_args

import msgspec

from jobstatus.publishing.stats import Histogram

Outcome = Literal["hit", "miss", "not_modified", "unknown", "error"]
"""How a read was answered: hit, a 200 from the cache; miss, a 200 after Redis was read;
not_modified, a 304; unknown, a 200 with the state `unknown`; error, a 5xx."""

DURATION_BUCKETS_SECONDS: Final = (
    *(0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005),
    *(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0),
)
BATCH_SIZE_BUCKETS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)

_MAX_REMEMBERED_ATTEMPTS: Final = 10_000
"""Attempts with expired leases that are remembered, so that each is counted once."""

_JOBS: Final = "jobs|"
"""How the names of the gauges begin that say how many jobs there are in each state."""


class Metrics:
    """The counts of this process. `metrics.prometheus` describes each of them."""

    def __init__(self) -> None:
        self.reads: dict[Outcome, int] = dict.fromkeys(get_args(Outcome), 0)
        self.read_durations = Histogram(DURATION_BUCKETS_SECONDS)
        self.batch_sizes = Histogram(BATCH_SIZE_BUCKETS)
        self.notification_delays = Histogram(DURATION_BUCKETS_SECONDS)
        self.cache_invalidations = 0
        self.cache_flushes = 0
        self.malformed_records = 0
        self.auth_failures = 0
        self.watchers_rejected = 0
        self.expired_leases = 0
        self.rate_limited = 0
        self._expired_attempts: dict[tuple[str, int, int], None] = {}

    def count_expired_lease(self, key: str, created: int, attempt: int) -> None:
        """Count an attempt whose lease has expired, unless it has been counted already.

        Args:
            key: The key of the job's record.
            created: When the run was enqueued, in ms since the epoch.
            attempt: The number of the attempt in the run.
        """
        identity = (key, created, attempt)
        if identity in self._expired_attempts:
            return
        self.expired_leases += 1
        if len(self._expired_attempts) >= _MAX_REMEMBERED_ATTEMPTS:
            self._expired_attempts.clear()
        self._expired_attempts[identity] = None

    def count_read(self, outcome: Outcome, seconds: float | None) -> None:
        """Count a read that was answered.

        Args:
            outcome: How.
            seconds: How long it took; None for a long poll.
        """
        self.reads[outcome] += 1
        if seconds is not None:
            self.read_durations.observe(seconds)


class Sample(msgspec.Struct, frozen=True):
    """All metrics of one process at one moment, by their names in `metrics.prometheus`.

    Attributes:
        counters: Values by name, or by `name|label value` where the counter has a label.
        gauges: Values by name; empty for a process that has exited.
        histograms: The count of each bucket, and the sum of all observed values.
    """

    counters: Mapping[str, float]
    gauges: Mapping[str, float]
    histograms: dict[str, tuple[list[int], float]]


def total(samples: Sequence[Sample]) -> Sample:
    """Add the samples of several processes.

    `redis_up` is not added: it is 1 only if it is 1 in every running process. Nor are the numbers
    of jobs, of which each process knows all.
    """
    counters: Any = Counter()
    gauges: Any = Counter()
    jobs: dict[str, float] = {}
    histograms: dict[str, tuple[list[int], float]] = {}
    for sample in samples:
        counters.update(sample.counters)
        gauges.update({k: v for k, v in sample.gauges.items() if not k.startswith(_JOBS)})
        jobs.update({k: v for k, v in sample.gauges.items() if k.startswith(_JOBS)})
        for name, (buckets, value_sum) in sample.histograms.items():
            total_buckets, total_sum = histograms.get(name, ([0] * len(buckets), 0.0))
            added = [a + b for a, b in zip(buckets, total_buckets, strict=True)]
            histograms[name] = added, value_sum + total_sum
    gauges["redis_up"] = min((s.gauges["redis_up"] for s in samples if s.gauges), default=0)
    return Sample(dict(counters), dict(gauges) | jobs, histograms)
