"""The service counts what happens, and `/metrics` shows it to Prometheus."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.processes import service
from tests.service.asgi_exchange import Exchange
from tests.service.conftest import Poller, Put, until
from tests.waiting import eventually

from jobstatus.publishing.stats import Histogram
from jobstatus.status import JobState
from jobstatus_service.http.api_keys import ApiKeys, parse_keys
from jobstatus_service.lookup import listing
from jobstatus_service.metrics.metrics import Sample, total
from jobstatus_service.metrics.multiprocess import ProcessMetrics
from jobstatus_service.metrics.prometheus import COUNTERS, GAUGES, HISTOGRAMS
from jobstatus_service.settings import ServiceSettings

JOB = UUID("67c73c6b-ecba-4a4c-bb18-3f37aa64c2f8")
URL = f"/api/jobs/{JOB}"


def parse(text: str) -> dict[str, float]:
    """Return the value of each series by its name and its label values, as `name{value}`."""
    return {
        sample.name + "".join(f"{{{v}}}" for v in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_reads_are_counted_by_outcome(client: Poller, put: Put) -> None:
    """Every read is counted once, by its outcome; other requests are not counted as reads."""
    await client.cache_valid()
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
    values = parse(response.text)
    counts = {"hit": 1, "miss": 2, "not_modified": 1, "unknown": 1, "error": 0}
    for outcome, count in counts.items():
        assert values[f"jobstatus_reads_total{{{outcome}}}"] == count
    assert values["jobstatus_read_seconds_count"] == 4
    assert values["jobstatus_read_seconds_bucket{+Inf}"] == 4
    assert values["jobstatus_auth_failures_total"] == 1
    assert values["jobstatus_redis_batch_keys_sum"] == 2
    assert values["jobstatus_redis_up"] == 1
    assert values["jobstatus_cache_entries"] == 2
    assert values["jobstatus_cache_bytes"] > 2 * len(first.content)


async def test_watchers(client: Poller, put: Put) -> None:
    """Open long polls and streams, and the delay of their notifications, are measured."""
    put(JOB)
    long_poll, stream = (Exchange(client, f"{URL}{more}") for more in ("?wait=20", "/events"))
    await stream.until("in_progress")
    values = parse((await client.get("/metrics")).text)
    assert (values["jobstatus_long_polls_open"], values["jobstatus_streams_open"]) == (1, 1)
    put(JOB, progress=1.0)
    await long_poll.task
    await stream.until('"progress":1.0')
    stream.disconnect()
    await stream.task
    values = parse((await client.get("/metrics")).text)
    assert (values["jobstatus_long_polls_open"], values["jobstatus_streams_open"]) == (0, 0)
    assert values["jobstatus_watcher_notification_seconds_count"] == 2
    assert values["jobstatus_cache_invalidations_total"] == 1


async def test_delay_of_an_expired_lease(client: Poller, put: Put) -> None:
    """The delay of a notification about an expired lease starts when the expiry is noticed."""
    put(JOB, lease=300)
    assert (await client.get(f"{URL}?wait=20")).json()["state"] == "unknown"
    assert client.app.metrics.notification_delays.sum < 0.2


async def test_every_metric_is_exposed(client: Poller) -> None:
    """`/metrics` has every metric of the tables, with a description."""
    await until(lambda: bool(client.app.state.job_counts.by_state))
    text = (await client.get("/metrics")).text
    names = [*COUNTERS, *GAUGES, *HISTOGRAMS]
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert sorted(families) == sorted(f"jobstatus_{name}" for name in names)
    assert all(family.documentation and family.samples for family in families.values())


def test_histogram() -> None:
    """A value that equals an upper bound is counted in that bound's bucket."""
    histogram = Histogram((1, 2))
    for value in (0.5, 1, 1.5, 3):
        histogram.observe(value)
    assert histogram.values == ([2, 1, 1], 6)


def sample(reads: float, redis_up: int) -> Sample:
    gauges = {"redis_up": redis_up, "long_polls_open": 2}
    return Sample({"reads|hit": reads}, gauges, {"x": ([1, 0], 0.5)})


def test_total() -> None:
    """Samples are added, but Redis is up only if it is up for every process."""
    assert total([sample(1, 1), sample(2, 0)]) == Sample(
        {"reads|hit": 3}, {"redis_up": 0, "long_polls_open": 4}, {"x": ([2, 0], 1.0)}
    )


def test_exited_process_still_counts(tmp_path: Path) -> None:
    """The counters of a process that has exited remain; its gauges do not."""
    exited = subprocess.Popen([sys.executable, "-c", ""])
    exited.wait()
    processes = ProcessMetrics(lambda: sample(1, 1), str(tmp_path))
    processes.save()
    (saved,) = tmp_path.glob("*.json")
    assert saved.stem == str(os.getpid())
    saved.rename(tmp_path / f"{exited.pid}.json")
    processes.save()
    own, other = processes.samples()
    assert own == sample(1, 1)
    assert (other.counters, other.gauges) == ({"reads|hit": 1}, {})
    assert total([own, other]).gauges["redis_up"] == 1


async def test_each_process_answers_for_all(service_url: str) -> None:
    """Each process that serves the port reports the metrics of all of them."""
    with service(service_url, "--workers", "2") as client:
        new_connection = {"Connection": "close"}  # it may reach either process
        for _ in range(20):
            client.get(URL, headers=new_connection)

        def all_are_counted() -> bool:
            answers = [client.get("/metrics", headers=new_connection).text for _ in range(4)]
            return {parse(text)["jobstatus_reads_total{unknown}"] for text in answers} == {20}

        await asyncio.to_thread(eventually, all_are_counted)


async def test_jobs_by_state(client: Poller, put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    """The jobs of all tenants with an API key are counted by state; processes are not added up."""
    put(uuid4())
    put(uuid4(), state=JobState.FAILED)
    put(uuid4(), state=JobState.FAILED, prefix="one")
    counts = client.app.state.job_counts
    await until(lambda: bool(counts.by_state))
    monkeypatch.setattr(listing, "_COUNTS_SECONDS", 0.0)
    await counts.read()
    metrics = (await client.get("/metrics")).text
    assert 'jobstatus_jobs{state="failed"} 1.0' in metrics
    own = Sample({}, {"jobs|failed": 3, "redis_up": 1}, {})
    assert total([own, own]).gauges["jobs|failed"] == 3


def test_jobs_of_several_tenants(service_settings: ServiceSettings) -> None:
    """The tenants are those of the key file, each once."""
    keys = ApiKeys(service_settings)
    keys._keys = parse_keys(f"a {'0' * 64} one\nb {'1' * 64} two\nc {'2' * 64} one", "job")
    assert keys.prefixes() == {"one", "two"}
