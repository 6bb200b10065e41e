"""What is counted: plain numbers while serving, Prometheus's text when somebody asks for it.

Counting a read costs an addition and a search among sixteen bounds; prometheus-client's own
counters take a lock each, and cost more than a read out of the near cache.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal, cast, get_args

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from jobstatus.publishing.stats import Histogram, cumulative

Outcome = Literal["hit", "miss", "not_modified", "unknown", "error"]
"""hit: a 200 out of the near cache; miss: one out of Redis; not_modified: a 304; unknown: a 200
with that state; error: a 5xx."""

_SECONDS: Final = (
    *(0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005),
    *(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0),
)
_REMEMBERED: Final = 10_000
"""Attempts with lapsed leases that are remembered at most, so that each counts once."""

_KEYS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Metrics:
    """What has happened in this process."""

    def __init__(self) -> None:
        self.reads: dict[Outcome, int] = dict.fromkeys(get_args(Outcome), 0)
        self.read_durations = Histogram(_SECONDS)
        self.batch_sizes = Histogram(_KEYS)
        self.notification_delays = Histogram(_SECONDS)
        self.cache_invalidations = 0
        self.cache_flushes = 0
        self.malformed_records = 0
        self.auth_failures = 0
        self.watchers_rejected = 0
        self.expired_leases = 0
        self.rate_limited = 0
        self._expired: dict[tuple[str, int, int], None] = {}

    def count_expired_lease(self, key: str, created: int, attempt: int) -> None:
        """An attempt was found whose lease has run out; it counts once."""
        one = (key, created, attempt)
        if one in self._expired:
            return
        self.expired_leases += 1
        if len(self._expired) >= _REMEMBERED:
            self._expired.clear()
        self._expired[one] = None

    def count_read(self, outcome: Outcome, seconds: float | None) -> None:
        """A read was answered; within so many seconds, unless it was asked to wait."""
        self.reads[outcome] += 1
        if seconds is not None:
            self.read_durations.observe(seconds)


class Sample(msgspec.Struct, frozen=True):
    """All numbers of one process at one moment, by the names in the tables below.

    Attributes:
        counters: They only rise; `name|label` where there is a label.
        gauges: What is now.
        histograms: Counts of each bucket, and the sum of all values.
    """

    counters: Mapping[str, float]
    gauges: Mapping[str, float]
    histograms: dict[str, tuple[list[int], float]]


def total(samples: Sequence[Sample]) -> Sample:
    """The numbers of several processes as those of one: sums, and the least of `redis_up`."""
    counters: Any = Counter()
    gauges: Any = Counter()
    histograms: dict[str, tuple[list[int], float]] = {}
    for sample in samples:
        counters.update(sample.counters)
        gauges.update(sample.gauges)
        for name, (buckets, seconds) in sample.histograms.items():
            others, others_sum = histograms.get(name, ([0] * len(buckets), 0.0))
            added = [a + b for a, b in zip(buckets, others, strict=True)]
            histograms[name] = added, seconds + others_sum
    gauges["redis_up"] = min((s.gauges["redis_up"] for s in samples if s.gauges), default=0)
    return Sample(dict(counters), dict(gauges), histograms)


COUNTERS: Final = {
    "reads": ("Reads of jobs that were answered, waits included, by outcome.", "outcome"),
    "auth_failures": ("Requests without a valid API key.", ""),
    "watchers_rejected": ("Waits and streams beyond a limit.", ""),
    "rate_limited": ("Requests beyond the rate of an API key.", ""),
    "expired_leases": ("Attempts found whose worker had stopped reporting, each once.", ""),
    "malformed_records": ("Records that were found and can't be read.", ""),
    "cache_invalidations": ("Jobs that Redis said have changed.", ""),
    "cache_flushes": (
        "Times that the near cache was emptied, since what changes was in doubt.",
        "",
    ),
    "cache_evictions": ("Replies that left the near cache for lack of room.", ""),
}
GAUGES: Final = {
    "redis_up": "Whether there is a connection to Redis.",
    "cache_valid": "Whether the near cache is trusted now, as a number of processes.",
    "cache_entries": "Replies in the near cache.",
    "cache_bytes": "What they take, about.",
    "long_polls_open": "Long polls that wait.",
    "streams_open": "Event streams.",
}
HISTOGRAMS: Final = {
    "read_seconds": ("From a read's arrival to its answer; waits are not in it.", _SECONDS),
    "redis_batch_keys": ("Jobs in one round trip to Redis.", _KEYS),
    "watcher_notification_seconds": (
        "From Redis's word of a change to the answer of each that waited.",
        _SECONDS,
    ),
}


class _Collected:
    """Samples in the form that prometheus-client writes."""

    def __init__(self, sample: Sample) -> None:
        self._sample = sample

    def collect(self) -> Iterator[Metric]:
        """Every family of the tables above."""
        for name, (text, label) in COUNTERS.items():
            counter = CounterMetricFamily(f"jobstatus_{name}", text, labels=[label] * bool(label))
            for key, value in self._sample.counters.items():
                own, _, labelled = key.partition("|")
                if own == name:
                    counter.add_metric([labelled] * bool(label), value)
            yield counter
        for name, text in GAUGES.items():
            yield GaugeMetricFamily(f"jobstatus_{name}", text, self._sample.gauges.get(name, 0))
        for name, (text, bounds) in HISTOGRAMS.items():
            buckets, seconds = self._sample.histograms[name]
            yield HistogramMetricFamily(
                f"jobstatus_{name}", text, cumulative(bounds, buckets), seconds
            )


def text(samples: Sequence[Sample]) -> bytes:
    """Prometheus's text format, version 0.0.4, for all processes together."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(cast("Any", _Collected(total(samples))))
    return generate_latest(registry)
