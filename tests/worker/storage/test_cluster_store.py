"""The store of a Redis Cluster. Its tests with a real Cluster are in `tests/e2e`."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest
from tests.records import cluster_key
from tests.waiting import eventually

from jobstatus import Publisher
from jobstatus.settings import PublisherSettings
from jobstatus.status import JobState, Record, WriteResult
from jobstatus.storage.cluster_store import ClusterStore, store_for
from jobstatus.storage.refusals import Refusal
from jobstatus.storage.slots import Layout
from jobstatus.storage.store import Store
from jobstatus.storage.write import Run, Write

HEALTHY, SLOW = ("127.0.0.1", 1), ("127.0.0.1", 2)
LAYOUT = Layout((0, 8192), (8191, 16_383), (HEALTHY, SLOW))
IDS = [f"job-{n}" for n in range(200)]
HEALTHY_IDS = [job_id for job_id in IDS if LAYOUT.owner(cluster_key(job_id)) == HEALTHY]
SLOW_IDS = [job_id for job_id in IDS if job_id not in HEALTHY_IDS]


class SlowNode(Store):
    """A node that does not reply in time.

    Attributes:
        exchanges: How many commands each exchange had.
    """

    def __init__(self, client: Any) -> None:
        super().__init__(client)
        self.exchanges: list[int] = []

    def send(self, packed: Sequence[bytes]) -> list[Any]:
        """Count the commands, and time out."""
        self.exchanges.append(len(packed))
        raise TimeoutError

    def runs(self, keys: Sequence[str]) -> list[Run | Refusal | None]:
        """Count the keys, and time out."""
        self.exchanges.append(len(keys))
        raise TimeoutError


@pytest.fixture
def slow_node(redis_url: str) -> SlowNode:
    """Return a node that does not reply in time."""
    return SlowNode.from_settings(PublisherSettings(redis_url=redis_url))


@pytest.fixture
def cluster(
    redis_url: str, slow_node: SlowNode, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ClusterStore]:
    """Create a Cluster of one healthy node and the slow one, each with half of the slots."""
    cluster = ClusterStore(cluster_settings())
    healthy = Store.from_settings(PublisherSettings(redis_url=redis_url))
    cluster._nodes = {HEALTHY: healthy, SLOW: slow_node}
    monkeypatch.setattr(cluster, "_current_layout", lambda: LAYOUT)
    yield cluster
    cluster.close()


def cluster_settings() -> PublisherSettings:
    return PublisherSettings(redis_url="redis+cluster://127.0.0.1:1", report_interval=0.02)


def writes(ids: Sequence[str]) -> list[Write]:
    record = Record(name="x", state=JobState.SUCCEEDED, created=1, attempt=1)
    return [Write(cluster_key(job_id), record, 60_000) for job_id in ids]


def is_transient(result: object) -> bool:
    return isinstance(result, Refusal) and not result.is_permanent


def test_store_for() -> None:
    """The URL decides which store is used."""
    assert isinstance(store_for(cluster_settings()), ClusterStore)
    assert isinstance(store_for(PublisherSettings(redis_url="redis://h")), Store)


def test_slow_node_delays_only_its_own_keys(
    cluster: ClusterStore, slow_node: SlowNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writes to a slow node are refused transiently, then it is not asked for a while."""
    monkeypatch.setattr("jobstatus.storage.cluster_store._SLOW_NODE_PAUSE_SECONDS", 3600)
    results = dict(zip(IDS, cluster.write(writes(IDS)), strict=True))
    assert {results[job_id] for job_id in HEALTHY_IDS} == {WriteResult.CHANGED}
    assert all(is_transient(results[job_id]) for job_id in SLOW_IDS)
    runs = dict(zip(IDS, cluster.runs([cluster_key(job_id) for job_id in IDS]), strict=True))
    assert all(isinstance(runs[job_id], Run) for job_id in HEALTHY_IDS)
    assert all(is_transient(runs[job_id]) for job_id in SLOW_IDS)
    assert slow_node.exchanges == [len(SLOW_IDS)]


def test_slow_node_gets_fewer_keys(cluster: ClusterStore, slow_node: SlowNode) -> None:
    """After each pause a slow node gets a quarter of the keys, and at least one."""
    cluster._max_keys[SLOW] = 20
    for _ in range(4):
        cluster.write(writes(IDS))
        cluster._paused_until.clear()
    assert slow_node.exchanges == [20, 5, 1, 1]


def test_publisher_with_a_slow_node(redis: Any, cluster: ClusterStore, slow_node: SlowNode) -> None:
    """Progress of jobs on the healthy node is written; that of the others when theirs recovers."""
    began_at = time.monotonic()
    with Publisher(cluster, cluster_settings()) as publisher, ExitStack() as stack:
        reports = [stack.enter_context(publisher.job(each, name="x", created=1)) for each in IDS]
        for percent in range(1, 13):
            for report in reports:
                report.progress(percent)
            eventually(partial(has_progress, redis, HEALTHY_IDS, percent))
        exchanges = len(slow_node.exchanges)
        assert 1 <= exchanges <= 1 + (time.monotonic() - began_at) / 2  # one after each pause
        assert not redis.exists(*map(cluster_key, SLOW_IDS))
        cluster._nodes[SLOW] = cluster._nodes[HEALTHY]
        cluster._paused_until.clear()
        assert publisher.flush(10)
        assert has_progress(redis, IDS, 12)


def has_progress(redis: Any, ids: Sequence[str], percent: int) -> bool:
    pipeline = redis.pipeline(transaction=False)
    for job_id in ids:
        pipeline.hget(cluster_key(job_id), "progress")
    return set(pipeline.execute()) == {str(percent)}


def test_slot_without_owner(cluster: ClusterStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write to a slot that no node owns is refused transiently, and the layout read again."""
    cluster._layout = LAYOUT
    monkeypatch.setattr(cluster, "_current_layout", lambda: Layout((), (), ()))
    (result,) = cluster.write(writes(["a"]))
    assert result == Refusal("CLUSTERDOWN no node owns the slot", is_permanent=False)
    assert cluster._layout is None
