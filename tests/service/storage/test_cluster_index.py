"""The index in a Redis Cluster: lists over all shards, while slots move and nodes change."""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis
from tests.index import disagreements, sweep
from tests.service.conftest import Poller, polling
from tests.service.world import World, check_one_listing
from tests.valkey_servers import Cluster, closing

from jobstatus.keys import due_key, shard_starts
from jobstatus.settings import PublisherSettings
from jobstatus.storage.cluster_store import ClusterStore
from jobstatus.storage.slots import slot_of
from jobstatus_service.lookup import listing
from jobstatus_service.settings import ServiceSettings

STARTS = shard_starts("job", is_cluster=True)


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Start three primaries without replicas."""
    with closing(Cluster(tmp_path_factory.mktemp("cluster"), replicas=0)) as cluster:
        yield cluster


@pytest.fixture
def world(cluster: Cluster) -> Iterator[World]:
    """Return jobs in the Cluster, of which some have changed already."""
    store = ClusterStore(PublisherSettings(redis_url=cluster.url))
    world = World(store, 3, is_cluster=True)
    for _ in range(300):
        world.change()
    yield world
    store.close()


@contextlib.asynccontextmanager
async def service(cluster: Cluster) -> Any:
    """Run a service of the Cluster."""
    async with polling(ServiceSettings(redis_url=cluster.url, api_keys=("secret",))) as client:
        yield client


def found_wrong(cluster: Cluster) -> list[str]:
    """Return what is wrong with the index, on each node for the shards that it has."""
    wrong = []
    for node in cluster.nodes:
        own = [start for start in STARTS if cluster.owner(slot_of(due_key(start))) is node]
        with Redis(port=node.port) as raw:
            for start in own:
                sweep(raw, start)
            wrong += disagreements(raw, own)
    return wrong


async def check(client: Poller, world: World, limit: int) -> None:
    await check_one_listing(client, world, set(world.states), limit)


@pytest.mark.parametrize("limit", [1, 7, 100])
async def test_list_over_all_shards(
    cluster: Cluster, world: World, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list is merged from all shards, in order; its pages and counts are complete."""
    monkeypatch.setattr(listing, "_COUNTS_SECONDS", 0.0)
    async with service(cluster) as client:
        await check(client, world, limit)
        counts = (await client.get("/api/jobs/counts")).json()
        assert sum(counts.values()) == len(world.states)
        jobs = (await client.get("/api/jobs?state=in_progress&limit=200")).json()["jobs"]
        created = [job["created_at"] for job in jobs]
        assert created == sorted(created, reverse=True)
        assert len(jobs) == counts["in_progress"]
    assert found_wrong(cluster) == []


async def test_slots_that_move(cluster: Cluster, world: World) -> None:
    """While slots move key by key, lists are complete, and the index agrees afterwards."""
    slots = [slot_of(due_key(start)) for start in STARTS[:6]]

    async def move() -> None:
        for slot in slots:
            await asyncio.to_thread(cluster.move_slot, slot)

    async with service(cluster) as client:
        moving = asyncio.create_task(move())
        while not moving.done():
            await check(client, world, 20)
        await moving
        await check(client, world, 50)
    assert found_wrong(cluster) == []
