"""The status in a Redis Cluster: written and read where each key is, wherever that goes."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from redis.exceptions import AskError, MovedError, ResponseError, TryAgainError
from tests.processes import free_port
from tests.service.conftest import Poller, polling
from tests.valkey_servers import Cluster, Node, closing, identity
from tests.waiting import eventually

from jobstatus import Publisher
from jobstatus.settings import PublisherSettings
from jobstatus.status import JobState, Record, WriteResult
from jobstatus.storage.cluster_store import ClusterStore
from jobstatus.storage.refusals import error_text, is_permanent
from jobstatus.storage.slots import redirect_of, slot_of
from jobstatus.storage.write import Write
from jobstatus_service.settings import ServiceSettings


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three primaries; no replicas are needed here."""
    with closing(Cluster(tmp_path_factory.mktemp("cluster"), replicas=0)) as cluster:
        yield cluster


def settings(cluster: Cluster, **more: Any) -> ServiceSettings:
    return ServiceSettings(redis_url=cluster.url, api_keys=("secret",), **more)


def store(cluster: Cluster) -> ClusterStore:
    return ClusterStore(PublisherSettings(redis_url=cluster.url))


def record(progress: float, state: JobState = JobState.IN_PROGRESS) -> Record:
    return Record(name="n", state=state, created=1_700_000_000_000, attempt=1, progress=progress)


def write(to: ClusterStore, ids: list[UUID], progress: float) -> None:
    lines = [Write(f"job:{i}", record(progress), 60_000, 30_000) for i in ids]
    results = to.write(lines)
    assert set(results) <= {WriteResult.CHANGED, WriteResult.RENEWED}, results


async def values(client: Poller, ids: list[UUID]) -> set[float]:
    answers = await asyncio.gather(*(client.get(f"/api/jobs/{i}") for i in ids))
    assert {a.status_code for a in answers} == {200}
    return {a.json()["progress"] for a in answers}


async def settled(client: Poller, ids: list[UUID], value: float) -> None:
    """Wait until all say so; they must within the staleness bound."""
    async with asyncio.timeout(2):
        while await values(client, ids) != {value}:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_every_key_has_its_node(cluster: Cluster) -> None:
    """Jobs are spread over all nodes, written, read, kept near, and told when they change."""
    ids = [uuid4() for _ in range(100)]
    own = store(cluster)
    write(own, ids, 1)
    assert {cluster.owner(slot_of(f"job:{i}")).port for i in ids} == {n.port for n in cluster.nodes}
    async with polling(settings(cluster)) as client:
        assert await values(client, ids) == {1}
        await client.proven()
        assert await values(client, ids) == {1}
        hits = client.app.metrics.reads["hit"]
        assert await values(client, ids) == {1}
        assert client.app.metrics.reads["hit"] == hits + len(ids)
        waiting = [asyncio.create_task(client.get(f"/api/jobs/{i}?wait=10")) for i in ids[:10]]
        while client.app.statuses.watchers.open["wait"] < 10:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        write(own, ids, 2)
        answers = await asyncio.gather(*waiting)
        assert {a.json()["progress"] for a in answers} == {2}
        await settled(client, ids, 2)
        ready = await client.get("/readyz")
        assert ready.status_code == 200
    own.close()


async def test_slot_on_its_way(cluster: Cluster) -> None:
    """While a slot moves, and after it has moved, its jobs are written and read as ever."""
    job = uuid4()
    slot = slot_of(f"job:{job}")
    missing = _in_slot(slot)
    own = store(cluster)
    write(own, [job], 1)
    target = next(n for n in cluster.nodes if n is not cluster.owner(slot))
    async with polling(settings(cluster)) as client:
        assert await values(client, [job]) == {1}
        await client.proven()
        assert await values(client, [job]) == {1}
        source = cluster.begin_migration(slot, target)
        write(own, [job], 2)  # still at the source
        await settled(client, [job], 2)
        write(own, [missing], 5)  # not there: it begins at the target
        await settled(client, [missing], 5)
        assert cluster.migrate_keys(slot, source, target) >= 1  # other tests' jobs, too
        write(own, [job, missing], 6)
        await settled(client, [job, missing], 6)
        cluster.end_migration(slot, target)
        write(own, [job, missing], 7)
        await settled(client, [job, missing], 7)
        await client.proven()
        write(own, [job, missing], 8)
        await settled(client, [job, missing], 8)
    own.close()
    for node in cluster.nodes:  # what Valkey 9 moves by itself may not be marked
        node.redis.execute_command("CLUSTER SETSLOT", slot, "STABLE")


async def test_job_that_begins_while_its_slot_moves(cluster: Cluster) -> None:
    """A job that wasn't there, and begins at the other node, is seen within the staleness bound."""
    job, other = uuid4(), uuid4()
    own = store(cluster)
    async with polling(settings(cluster)) as client:
        assert await values(client, [job]) == {0}
        await client.proven()
        assert await values(client, [job]) == {0}
        slot = slot_of(f"job:{job}")
        target = next(n for n in cluster.nodes if n is not cluster.owner(slot))
        waiting = asyncio.create_task(client.get(f"/api/jobs/{job}?wait=20"))
        while not client.app.statuses.watchers.open["wait"]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        source = cluster.begin_migration(slot, target)
        write(own, [job], 5)
        await settled(client, [job], 5)
        assert (await asyncio.wait_for(waiting, 3)).json()["progress"] == 5
        cluster.migrate_keys(slot, source, target)
        cluster.end_migration(slot, target)
        assert await values(client, [other]) == {0}
    own.close()
    for node in cluster.nodes:
        node.redis.execute_command("CLUSTER SETSLOT", slot, "STABLE")


def test_node_that_left(cluster: Cluster, tmp_path: Path) -> None:
    """A node that knows of no slots, named first in the URL, is not believed."""
    left = Node(tmp_path, "cluster-enabled yes", f"cluster-port {free_port()}")
    try:
        url = cluster.url.replace("//", f"//127.0.0.1:{left.port},")
        own = ClusterStore(PublisherSettings(redis_url=url))
        write(own, [uuid4()], 1)
        own.close()

        async def read() -> int:
            named = ServiceSettings(redis_url=url, api_keys=("secret",))
            async with polling(named) as client:
                return (await client.get(f"/api/jobs/{uuid4()}")).status_code

        assert asyncio.run(read()) == 200
    finally:
        left.kill()


def test_redis_py_that_strips_codes() -> None:
    """What Redis said is known by the class of the error, too: redis-py 8 strips the codes."""
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


async def test_slots_that_move_without_a_word(cluster: Cluster) -> None:
    """What is near is forgotten when its slot moved at once, as Valkey 9 can move slots."""
    ids = [uuid4() for _ in range(30)]
    own = store(cluster)
    write(own, ids, 1)
    slots = sorted({slot_of(f"job:{i}") for i in ids})
    async with polling(settings(cluster)) as client:
        assert await values(client, ids) == {1}
        await client.proven()
        assert await values(client, ids) == {1}
        for slot in slots:
            source = cluster.owner(slot)
            target = next(n for n in cluster.nodes if n is not source)
            await asyncio.to_thread(_move, source, target, slot)
            await asyncio.to_thread(eventually, lambda s=slot, t=target: cluster.owner(s) is t)
        write(own, ids, 3)
        await settled(client, ids, 3)
    own.close()


def _move(source: Node, target: Node, slot: int) -> None:
    source.redis.execute_command(
        "CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", identity(target)
    )

    def is_there() -> bool:
        found = target.redis.execute_command("CLUSTER", "SLOTS")
        own = [(start, end) for start, end, primary, *_ in found if primary[1] == target.port]
        return any(start <= slot <= end for start, end in own)

    eventually(is_there)


def _in_slot(slot: int) -> UUID:
    deadline = time.monotonic() + 20
    while slot_of(f"job:{(found := uuid4())}") != slot:
        assert time.monotonic() < deadline
    return found


def test_publisher(cluster: Cluster) -> None:
    """Jobs are published to a Cluster as to one server: runs are joined, every key has a TTL."""
    with Publisher.from_url(cluster.url) as publisher:
        for n in range(20):
            publisher.pending(f"job-{n}", name="n")
            with publisher.job(f"job-{n}", name="n") as report:
                report.progress(50)
    from jobstatus import job_uuid  # noqa: PLC0415

    for n in range(20):
        key = f"job:{job_uuid(f'job-{n}')}"
        assert cluster.get(key)["state"] == "succeeded"
        assert cluster.owner(slot_of(key)).redis.pttl(key) > 0


async def test_cluster_that_is_away(tmp_path: Path) -> None:
    """Without any node reads are a 503 in bounded time, and the process isn't ready."""
    own = ServiceSettings(redis_url="redis+cluster://127.0.0.1:1,127.0.0.1:2", api_keys=("secret",))
    async with polling(own) as client:
        began_at = time.monotonic()
        answer = await client.get(f"/api/jobs/{uuid4()}")
        assert answer.status_code == 503
        assert time.monotonic() - began_at < 1.5
        assert (await client.get("/readyz")).status_code == 503
