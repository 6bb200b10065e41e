"""The names and descriptions of all metrics, and their text format for Prometheus."""

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple, cast

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from jobstatus.publishing.stats import cumulative
from jobstatus_service.metrics.metrics import (
    BATCH_SIZE_BUCKETS,
    DURATION_BUCKETS_SECONDS,
    Sample,
    total,
)


class CounterFamily(NamedTuple):
    """A counter.

    Attributes:
        description: The text of its HELP line.
        label: The name of its only label; empty if it has none.
    """

    description: str
    label: str = ""


class HistogramFamily(NamedTuple):
    """A histogram.

    Attributes:
        description: The text of its HELP line.
        bounds: The upper bounds of its buckets.
    """

    description: str
    bounds: tuple[float, ...]


COUNTERS: Final = {
    "reads": CounterFamily(
        "Reads of a job's status that were answered, long polls included, by outcome: hit (from "
        "the cache), miss (from Redis), not_modified (304), unknown (state unknown), error (5xx).",
        "outcome",
    ),
    "auth_failures": CounterFamily("Requests that were rejected for lack of a valid API key."),
    "watchers_rejected": CounterFamily(
        "Long polls and event streams that were rejected because too many were open."
    ),
    "rate_limited": CounterFamily("Requests that were rejected because of the API key's rate."),
    "expired_leases": CounterFamily(
        "Attempts that were read after their worker had stopped reporting. Each process counts an "
        "attempt once."
    ),
    "malformed_records": CounterFamily("Reads that found a malformed record in Redis."),
    "cache_invalidations": CounterFamily("Changes of records that Redis reported."),
    "cache_flushes": CounterFamily(
        "Times that the whole cache was cleared, because changes may have been missed."
    ),
    "index_reads": CounterFamily(
        "Snapshots of the index that were read from Redis, for lists, list streams and counts."
    ),
    "cache_evictions": CounterFamily(
        "Responses that were removed from the cache to make room for others."
    ),
}

GAUGES: Final = {
    "redis_up": "1 if every process is connected to Redis, else 0.",
    "cache_valid": "Processes whose cache is in use: Redis reports changes to them.",
    "cache_entries": "Responses in the cache.",
    "cache_bytes": "Approximate size of the cache.",
    "long_polls_open": "Open long polls.",
    "streams_open": "Open event streams.",
    "jobs": "Jobs by their stored state, of all tenants with an API key; in_progress includes jobs "
    "whose lease has expired. Every process reports the same numbers, read every 15 s.",
}

GAUGE_LABELS: Final = {"jobs": "state"}
"""The label of each gauge that has one; its values in a sample are named `name|label value`."""

HISTOGRAMS: Final = {
    "read_seconds": HistogramFamily(
        "Time to answer a read, in seconds. Long polls are not included.",
        DURATION_BUCKETS_SECONDS,
    ),
    "redis_batch_keys": HistogramFamily(
        "Jobs that were read in one round trip to Redis.", BATCH_SIZE_BUCKETS
    ),
    "watcher_notification_seconds": HistogramFamily(
        "Time from the report of a change by Redis to the answer of a long poll, or to the event "
        "of a stream, in seconds.",
        DURATION_BUCKETS_SECONDS,
    ),
}


class _Collector:
    """Converts one sample for prometheus-client."""

    def __init__(self, sample: Sample) -> None:
        self._sample = sample

    def collect(self) -> Iterator[Metric]:
        """Yield every metric of the tables above (called by prometheus-client)."""
        sample = self._sample
        for name, (description, label) in COUNTERS.items():
            counter = CounterMetricFamily(
                f"jobstatus_{name}", description, labels=[label] if label else []
            )
            for key, value in sample.counters.items():
                key_name, _, label_value = key.partition("|")
                if key_name == name:
                    counter.add_metric([label_value] if label else [], value)
            yield counter
        for name, description in GAUGES.items():
            if name not in GAUGE_LABELS:
                value = sample.gauges.get(name, 0)
                yield GaugeMetricFamily(f"jobstatus_{name}", description, value)
                continue
            gauge = GaugeMetricFamily(f"jobstatus_{name}", description, labels=[GAUGE_LABELS[name]])
            for key, value in sample.gauges.items():
                if key.startswith(f"{name}|"):
                    gauge.add_metric([key.partition("|")[2]], value)
            yield gauge
        for name, (description, bounds) in HISTOGRAMS.items():
            buckets, value_sum = sample.histograms[name]
            yield HistogramMetricFamily(
                f"jobstatus_{name}", description, cumulative(bounds, buckets), value_sum
            )


def text(samples: Sequence[Sample]) -> bytes:
    """Return the total of the samples in Prometheus's text format, version 0.0.4."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(cast("Any", _Collector(total(samples))))
    return generate_latest(registry)
