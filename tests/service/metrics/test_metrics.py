"""What Prometheus is told."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from uuid import UUID, uuid4

from prometheus_client.parser import text_string_to_metric_families
from tests.processes import service
from tests.service.conftest import Poller, Put
from tests.service.exchange import Exchange
from tests.waiting import eventually

from jobstatus.publishing.stats import Histogram
from jobstatus_service.metrics.metrics import COUNTERS, GAUGES, HISTOGRAMS, Sample, total
from jobstatus_service.metrics.multiprocess import ProcessMetrics

JOB = UUID("67c73c6b-ecba-4a4c-bb18-3f37aa64c2f8")
URL = f"/api/jobs/{JOB}"


def values(text: str) -> dict[str, float]:
    """Every sample, by its name and labels without quotes."""
    return {
        sample.name + "".join(f"{{{v}}}" for v in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_outcomes(client: Poller, put: Put) -> None:
    """Every read is counted once, by its outcome, whoever answers it."""
    await client.proven()
    put(JOB)
    first = await client.get(URL)
    await client.get(URL)
    await client.get(URL, headers={"If-None-Match": first.headers["etag"]})
    await client.get(f"/api/jobs/{uuid4()}")
    await client.get(f"/api/jobs/{JOB.hex}?wait=0.01")
    await client.get("/api/jobs/x")
    await client.get(URL, headers={"Authorization": "wrong"})
    del client.headers["Authorization"]
    response = await client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = values(response.text)
    for outcome, count in {
        "hit": 1,
        "miss": 2,
        "not_modified": 1,
        "unknown": 1,
        "error": 0,
    }.items():
        assert found[f"jobstatus_reads_total{{{outcome}}}"] == count
    assert found["jobstatus_read_seconds_count"] == 4
    assert found["jobstatus_read_seconds_bucket{+Inf}"] == 4
    assert found["jobstatus_auth_failures_total"] == 1
    assert found["jobstatus_redis_batch_keys_sum"] == 2
    assert found["jobstatus_redis_up"] == 1
    assert found["jobstatus_cache_entries"] == 2
    assert found["jobstatus_cache_bytes"] > 2 * len(first.content)


async def test_watchers(client: Poller, put: Put) -> None:
    """Waits and streams that are open, and how quickly they wake, are seen."""
    put(JOB)
    exchanges = [Exchange(client, f"{URL}{more}") for more in ("?wait=20", "/events")]
    await exchanges[1].until("in_progress")
    found = values((await client.get("/metrics")).text)
    assert (found["jobstatus_long_polls_open"], found["jobstatus_streams_open"]) == (1, 1)
    put(JOB, progress=1.0)
    await exchanges[0].task
    await exchanges[1].until('"progress":1.0')
    exchanges[1].go_away()
    await exchanges[1].task
    found = values((await client.get("/metrics")).text)
    assert (found["jobstatus_long_polls_open"], found["jobstatus_streams_open"]) == (0, 0)
    assert found["jobstatus_watcher_notification_seconds_count"] == 2
    assert found["jobstatus_cache_invalidations_total"] == 1


async def test_wake_of_a_lapse(client: Poller, put: Put) -> None:
    """What nobody told of, a lease that lapsed, counts from the moment in which it was seen."""
    put(JOB, lease=300)
    assert (await client.get(f"{URL}?wait=20")).json()["state"] == "unknown"
    assert client.app.metrics.notification_delays.sum < 0.2


async def test_every_family(client: Poller) -> None:
    """Each name in the tables is there, with a help text."""
    text = (await client.get("/metrics")).text
    names = [*COUNTERS, *GAUGES, *HISTOGRAMS]
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert sorted(families) == sorted(f"jobstatus_{name}" for name in names)
    assert all(family.documentation and family.samples for family in families.values())


def test_histogram() -> None:
    """A value on a bound is not above it."""
    histogram = Histogram((1, 2))
    for value in (0.5, 1, 1.5, 3):
        histogram.observe(value)
    assert histogram.values == ([2, 1, 1], 6)


def sample(reads: float, up: int) -> Sample:
    return Sample(
        {"reads|hit": reads}, {"redis_up": up, "long_polls_open": 2}, {"x": ([1, 0], 0.5)}
    )


def test_total() -> None:
    """Several processes are told as one; Redis is up when it is for all of them."""
    assert total([sample(1, 1), sample(2, 0)]) == Sample(
        {"reads|hit": 3}, {"redis_up": 0, "long_polls_open": 4}, {"x": ([2, 0], 1.0)}
    )


def test_ended_process_still_counts(tmp_path: Path) -> None:
    """What an ended process has counted stays, what was open in it doesn't."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    processes = ProcessMetrics(lambda: sample(1, 1), str(tmp_path))
    processes.save()
    (left,) = tmp_path.glob("*.json")
    left.rename(tmp_path / f"{ended.pid}.json")
    processes.save()
    own, other = processes.samples()
    assert own == sample(1, 1)
    assert (other.counters, other.gauges) == ({"reads|hit": 1}, {})
    assert total([own, other]).gauges["redis_up"] == 1
    assert (tmp_path / f"{os.getpid()}.json").exists()


async def test_several_processes(service_url: str) -> None:
    """Whichever process is asked, it answers for all that share the port."""
    with service(service_url, "--workers", "2") as client:
        for _ in range(20):
            client.get(URL, headers={"Connection": "close"})

        def counted() -> bool:
            found = [
                values(client.get("/metrics", headers={"Connection": "close"}).text)
                for _ in range(4)
            ]
            return {f["jobstatus_reads_total{unknown}"] for f in found} == {20}

        await asyncio.to_thread(eventually, counted)
