"""Records in a Redis Cluster are written to and read from the node that has the key's slot."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from msgspec.structs import replace
from redis.exceptions import AskError, MovedError, ResponseError, TryAgainError
from tests.processes import free_port
from tests.records import cluster_key
from tests.service.conftest import Poller, polling
from tests.service.storage.waiting import long_polls_are_open, until
from tests.valkey_servers import Cluster, Node, closing, identity
from tests.waiting import eventually

from jobstatus import Publisher
from jobstatus.settings import PublisherSettings
from jobstatus.status import JobState, Record, WriteResult
from jobstatus.storage.cluster_store import ClusterStore
from jobstatus.storage.refusals import Refusal, error_text, is_permanent
from jobstatus.storage.slots import redirect_of, slot_of
from jobstatus.storage.write import Write
from jobstatus_service.settings import ServiceSettings


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Start three primaries without replicas."""
    with closing(Cluster(tmp_path_factory.mktemp("cluster"), replicas=0)) as cluster:
        yield cluster


def settings(cluster: Cluster, **more: Any) -> ServiceSettings:
    return ServiceSettings(redis_url=cluster.url, api_keys=("secret",), **more)


def store(cluster: Cluster) -> ClusterStore:
    return ClusterStore(PublisherSettings(redis_url=cluster.url))


def record(progress: float, state: JobState = JobState.IN_PROGRESS) -> Record:
    return Record(name="n", state=state, created=1_700_000_000_000, attempt=1, progress=progress)


def write(store: ClusterStore, ids: list[UUID], progress: float) -> None:
    results = store.write(writes(ids, progress))
    assert set(results) <= {WriteResult.CHANGED, WriteResult.RENEWED}, results


def write_while_moving(store: ClusterStore, ids: list[UUID], progress: float) -> None:
    """Write progress of running jobs, which changes no state, while their slot is being moved."""
    moving = [replace(each, may_change_state=False) for each in writes(ids, progress)]
    assert set(store.write(moving)) == {WriteResult.CHANGED}


def begin_while_moving(store: ClusterStore, ids: list[UUID]) -> None:
    """Try to write jobs that begin while their slot is being moved: they have to wait."""
    results = store.write(writes(ids, 0))
    assert all(isinstance(each, Refusal) and not each.is_permanent for each in results), results


def writes(ids: list[UUID], progress: float) -> list[Write]:
    return [Write(cluster_key(str(i)), record(progress), 60_000, 30_000) for i in ids]


async def served(client: Poller, ids: list[UUID]) -> set[float]:
    """Return the progress that the service reports for the jobs."""
    answers = await asyncio.gather(*(client.get(f"/api/jobs/{i}") for i in ids))
    assert {a.status_code for a in answers} == {200}
    return {a.json()["progress"] for a in answers}


async def listed(client: Poller) -> set[str]:
    """Return the ids of the newest jobs."""
    response = await client.get("/api/jobs?limit=200")
    assert response.status_code == 200, response.text
    return {each["id"] for each in response.json()["jobs"]}


async def serves(client: Poller, ids: list[UUID], progress: float) -> None:
    """Wait until the service reports this progress for all jobs, at most the staleness bound."""

    async def is_served() -> bool:
        return await served(client, ids) == {progress}

    await until(is_served, timeout=2)


async def cached(client: Poller, ids: list[UUID], progress: float) -> None:
    """Have the jobs cached by the service, with this progress."""
    assert await served(client, ids) == {progress}
    await client.cache_valid()
    assert await served(client, ids) == {progress}


async def test_every_key_has_its_node(cluster: Cluster) -> None:
    """Jobs spread over all nodes are written, read, cached, and reported when they change."""
    ids = [uuid4() for _ in range(100)]
    own = store(cluster)
    write(own, ids, 1)
    assert {cluster.owner(slot_of(cluster_key(str(i)))).port for i in ids} == {
        n.port for n in cluster.nodes
    }
    async with polling(settings(cluster)) as client:
        await cached(client, ids, 1)
        hits = client.app.metrics.reads["hit"]
        assert await served(client, ids) == {1}
        assert client.app.metrics.reads["hit"] == hits + len(ids)
        long_polls = [asyncio.create_task(client.get(f"/api/jobs/{i}?wait=10")) for i in ids[:10]]
        await long_polls_are_open(client, 10)
        write(own, ids, 2)
        answers = await asyncio.gather(*long_polls)
        assert {a.json()["progress"] for a in answers} == {2}
        await serves(client, ids, 2)
        assert (await client.get("/readyz")).status_code == 200
    own.close()


async def test_jobs_of_a_slot_that_is_being_moved(cluster: Cluster) -> None:
    """While a slot is moved to another node, and afterwards, its jobs are written and read."""
    job = uuid4()
    slot = slot_of(cluster_key(str(job)))
    missing = _in_slot(slot)
    own = store(cluster)
    write(own, [job], 1)
    target = next(n for n in cluster.nodes if n is not cluster.owner(slot))
    async with polling(settings(cluster)) as client:
        await cached(client, [job], 1)
        source = cluster.begin_migration(slot, target)
        write_while_moving(own, [job], 2)  # its key is still at the source
        await serves(client, [job], 2)
        begin_while_moving(own, [missing])
        assert await listed(client) >= {str(job)}
        assert cluster.migrate_keys(slot, source, target) >= 1  # other tests' jobs, too
        write_while_moving(own, [job], 6)
        await serves(client, [job], 6)
        begin_while_moving(own, [missing])
        assert await listed(client) >= {str(job)}
        cluster.end_migration(slot, target)
        write(own, [missing], 6)
        assert await listed(client) >= {str(job), str(missing)}
        write(own, [job, missing], 7)
        await serves(client, [job, missing], 7)
        await client.cache_valid()
        write(own, [job, missing], 8)
        await serves(client, [job, missing], 8)
    own.close()
    _stop_migration(cluster, slot)


async def test_job_that_begins_while_its_slot_is_being_moved(cluster: Cluster) -> None:
    """A job that has begun while its slot was moved is seen within the staleness bound."""
    job, other = uuid4(), uuid4()
    slot = slot_of(cluster_key(str(job)))
    own = store(cluster)
    async with polling(settings(cluster)) as client:
        await cached(client, [job], 0)
        target = next(n for n in cluster.nodes if n is not cluster.owner(slot))
        long_poll = asyncio.create_task(client.get(f"/api/jobs/{job}?wait=20"))
        await long_polls_are_open(client)
        source = cluster.begin_migration(slot, target)
        begin_while_moving(own, [job])
        cluster.migrate_keys(slot, source, target)
        cluster.end_migration(slot, target)
        write(own, [job], 5)
        await serves(client, [job], 5)
        assert (await asyncio.wait_for(long_poll, 3)).json()["progress"] == 5
        assert await served(client, [other]) == {0}
    own.close()
    _stop_migration(cluster, slot)


def _stop_migration(cluster: Cluster, slot: int) -> None:
    for node in cluster.nodes:
        node.redis.execute_command("CLUSTER SETSLOT", slot, "STABLE")


async def test_node_that_left_the_cluster(cluster: Cluster, tmp_path: Path) -> None:
    """A node without slots that comes first in the URL is not used."""
    left = Node(tmp_path, "cluster-enabled yes", f"cluster-port {free_port()}")
    try:
        url = cluster.url.replace("//", f"//127.0.0.1:{left.port},")
        own = ClusterStore(PublisherSettings(redis_url=url))
        job = uuid4()
        write(own, [job], 1)
        own.close()
        async with polling(ServiceSettings(redis_url=url, api_keys=("secret",))) as client:
            assert await served(client, [job]) == {1}
    finally:
        left.kill()


def test_error_codes_that_redis_py_removes() -> None:
    """Redis's error code is derived from the exception's class: redis-py 8 removes it."""
    text = "3999 127.0.0.1:6381"
    kinds: list[Any] = [MovedError, AskError]
    for kind in kinds:
        code = kind.__name__.removesuffix("Error").upper()
        assert error_text(kind(text)) == f"{code} {text}"
        assert redirect_of(error_text(kind(text)), ("h", 1)) is not None
        assert not is_permanent(kind(text))
    assert error_text(ResponseError("MOVED 1 h:1")) == "MOVED 1 h:1"
    assert not is_permanent(cast("Any", TryAgainError)("later"))
    assert is_permanent(ResponseError("WRONGTYPE no"))


async def test_slots_that_are_moved_atomically(cluster: Cluster) -> None:
    """Cached responses of a slot are dropped when Valkey 9 moves the slot, without redirects."""
    ids = [uuid4() for _ in range(30)]
    own = store(cluster)
    write(own, ids, 1)
    slots = sorted({slot_of(cluster_key(str(i))) for i in ids})
    async with polling(settings(cluster)) as client:
        await cached(client, ids, 1)
        for slot in slots:
            source = cluster.owner(slot)
            target = next(n for n in cluster.nodes if n is not source)
            await asyncio.to_thread(_move, source, target, slot)
            await asyncio.to_thread(eventually, lambda s=slot, t=target: cluster.owner(s) is t)
        write(own, ids, 3)
        await serves(client, ids, 3)
    own.close()


def _move(source: Node, target: Node, slot: int) -> None:
    source.redis.execute_command(
        "CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", identity(target)
    )

    def is_moved() -> bool:
        ranges = target.redis.execute_command("CLUSTER", "SLOTS")
        return any(
            start <= slot <= end for start, end, primary, *_ in ranges if primary[1] == target.port
        )

    eventually(is_moved)


def _in_slot(slot: int) -> UUID:
    """Return a new job id whose key is in this slot; one in 64 is."""
    return next(i for i in iter(uuid4, None) if slot_of(cluster_key(str(i))) == slot)


def test_publisher_writes_to_a_cluster(cluster: Cluster) -> None:
    """Both states of each job are published to a Cluster, and every key has a TTL."""
    with Publisher.from_url(cluster.url) as publisher:
        for n in range(20):
            publisher.pending(f"job-{n}", name="n")
            with publisher.job(f"job-{n}", name="n") as report:
                report.progress(50)
    for n in range(20):
        key = cluster_key(f"job-{n}")
        assert cluster.get(key)["state"] == "succeeded"
        assert cluster.owner(slot_of(key)).redis.pttl(key) > 0


async def test_cluster_that_is_unavailable() -> None:
    """Without any node, a read is a 503 within 1.5 s, and the process is not ready."""
    unreachable = "redis+cluster://127.0.0.1:1,127.0.0.1:2"
    async with polling(ServiceSettings(redis_url=unreachable, api_keys=("secret",))) as client:
        began_at = time.monotonic()
        answer = await client.get(f"/api/jobs/{uuid4()}")
        assert answer.status_code == 503
        assert time.monotonic() - began_at < 1.5
        assert (await client.get("/readyz")).status_code == 503
