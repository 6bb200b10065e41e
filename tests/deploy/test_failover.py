"""Redis fails over under load: no job is harmed, no answer is too old, all comes right."""

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from tests.processes import running, service
from tests.service.conftest import polling
from tests.valkey_servers import Cluster, Sentinels, closing
from tests.waiting import eventually

from jobstatus import Publisher, job_uuid
from jobstatus.arq import create_pool
from jobstatus.arq.queue import redis_settings
from jobstatus.settings import PublisherSettings
from jobstatus.status import JobState, Record, WriteResult
from jobstatus.storage.cluster_store import ClusterStore
from jobstatus.storage.slots import slot_of
from jobstatus.storage.write import Write
from jobstatus_service.settings import ServiceSettings

BOUND = 2.0
"""The service's staleness bound, in seconds."""

RIGHT_WITHIN = 5.0
"""Seconds after a promotion within which every status is right."""

WORKER = ("jobstatus-worker", "tests.deploy.app.WorkerSettings")


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("JOBSTATUS_"):
            monkeypatch.delenv(name)


class Poll:
    """Polls all jobs all the time, over HTTP.

    Attributes:
        failed: When there was a 503, by `time.monotonic()`.
        statuses: How often there was which status.
        states: The last state of each job.
    """

    def __init__(self, client: httpx.Client, ids: list[str]) -> None:
        self.failed: list[float] = []
        self.statuses: Counter[int] = Counter()
        self.states: dict[str, str] = {}
        self._client = client
        self._ids = ids
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._stop.is_set():
            for job_id in self._ids:
                answer = self._client.get(f"/api/jobs/{job_uuid(job_id)}")
                self.statuses[answer.status_code] += 1
                if answer.status_code == 503:
                    self.failed.append(time.monotonic())
                else:
                    self.states[job_id] = answer.json()["state"]
            self._stop.wait(0.005)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """While the block runs."""
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join()


async def enqueue(url: str, count: int) -> list[str]:
    """Jobs in the queue, of half a second to a second."""
    pool = await create_pool(redis_settings(url), status=PublisherSettings(redis_url=url))
    try:
        ids = [f"job-{n}" for n in range(count)]
        for n, job_id in enumerate(ids):
            assert await pool.enqueue_job("work", 10, 0.05 + n % 5 / 100, _job_id=job_id)
        return ids
    finally:
        await pool.aclose()


def promoted(sentinels: Sentinels, old: Any) -> bool:
    """Whether another server is the primary now, and says so."""
    found = sentinels.primary
    return found is not old and found.role == "master"


def _kill(sentinels: Sentinels) -> float:
    """Kill the primary; what was written to it last reaches nobody else."""
    old = sentinels.primary
    old.redis.config_set("requirepass", "the replica can't come back")
    old.redis.client_kill_filter(_type="slave")
    time.sleep(0.3)
    old.kill()
    return time.monotonic()


def is_right(client: httpx.Client, ids: list[str]) -> bool:
    """Whether every job is shown as succeeded."""
    answers = [client.get(f"/api/jobs/{job_uuid(job_id)}") for job_id in ids]
    return all(a.status_code == 200 and a.json()["state"] == "succeeded" for a in answers)


def test_sentinel(tmp_path: Path) -> None:
    """The primary is killed while workers work: each job runs once, and pollers see every end."""
    runs = tmp_path / "runs"
    with closing(Sentinels(tmp_path)) as sentinels:
        environ = {"JOBSTATUS_REDIS_URL": sentinels.url, "RUNS": str(runs)}
        with (
            service(sentinels.url) as client,
            running(*WORKER, **environ) as one,
            running(*WORKER, **environ) as two,
        ):
            ids = asyncio.run(enqueue(sentinels.url, 120))
            poll = Poll(client, ids)
            with poll.running():
                eventually(lambda: sum(s == "succeeded" for s in poll.states.values()) > 20, 20)
                old = sentinels.primary
                killed = _kill(sentinels)
                eventually(lambda: promoted(sentinels, old), 20)
                promotion = time.monotonic()
                eventually(
                    lambda: sum(s == "succeeded" for s in poll.states.values()) == len(ids), 40
                )
            took = time.monotonic() - promotion
            assert one.poll() is None
            assert two.poll() is None
    ran = Counter(line.split()[0] for line in runs.read_text().splitlines())
    print(
        f"\nSentinel: promoted {promotion - killed:.1f} s after the kill; 503 from "
        f"{min(poll.failed, default=killed) - killed:.1f} to "
        f"{max(poll.failed, default=killed) - killed:.1f} s, {poll.statuses}; all {len(ids)} jobs "
        f"over {took:.1f} s after the promotion"
    )
    assert ran == dict.fromkeys(ids, 1)
    assert set(poll.statuses) <= {200, 503}
    assert not poll.failed or max(poll.failed) < promotion + 1.5


def test_sentinel_ends_are_right_at_once(tmp_path: Path) -> None:
    """Ends that the old primary took with it are shown within 5 s of the promotion."""
    with closing(Sentinels(tmp_path)) as sentinels, service(sentinels.url) as client:
        stopped = threading.Event()
        ids: list[str] = []

        def work() -> None:
            with Publisher.from_url(sentinels.url) as publisher:
                while not stopped.is_set():
                    ids.append(job_id := str(uuid4()))
                    with publisher.job(job_id, name="short") as report:
                        report.progress(50)
                        time.sleep(0.01)

        workers = [threading.Thread(target=work, daemon=True) for _ in range(4)]
        for worker in workers:
            worker.start()
        eventually(lambda: len(ids) > 200)
        old = sentinels.primary
        _kill(sentinels)
        eventually(lambda: promoted(sentinels, old), 20)
        stopped.set()
        for worker in workers:
            worker.join()
        eventually(lambda: is_right(client, ids), RIGHT_WITHIN)
        print(f"\nSentinel: {len(ids)} jobs, all right")


def test_frozen_sentinel_primary(tmp_path: Path) -> None:
    """A primary that freezes, is replaced and wakes up again is not believed any more."""
    with closing(Sentinels(tmp_path)) as sentinels, service(sentinels.url) as client:
        job = str(uuid4())
        with Publisher.from_url(sentinels.url) as publisher:
            with publisher.job(job, name="long") as report:
                report.progress(10)
                eventually(lambda: client.get(f"/api/jobs/{job}").json()["progress"] == 10)
                old = sentinels.primary
                old.send(signal.SIGSTOP)
                eventually(lambda: promoted(sentinels, old), 20)
                report.progress(20)
                old.send(signal.SIGCONT)
                began_at = time.monotonic()
                eventually(
                    lambda: (
                        (a := client.get(f"/api/jobs/{job}")).status_code == 200
                        and a.json()["progress"] == 20
                    ),
                    RIGHT_WITHIN,
                )
                print(
                    f"\nfrozen primary: right {time.monotonic() - began_at:.1f} s after it woke up"
                )
                for _ in range(50):
                    answer = client.get(f"/api/jobs/{job}")
                    assert answer.status_code == 503 or answer.json()["progress"] == 20
                    time.sleep(0.02)


class Writing(threading.Thread):
    """Writes rising progress to many jobs of a Cluster, and remembers what was said yes to.

    Attributes:
        taken: Of each job, when which progress was taken.
    """

    def __init__(self, url: str, ids: list[UUID]) -> None:
        super().__init__(daemon=True)
        self.taken: dict[UUID, list[tuple[float, float]]] = {job_id: [] for job_id in ids}
        self.stopped = threading.Event()
        self._store = ClusterStore(PublisherSettings(redis_url=url))

    def run(self) -> None:
        """Until it is stopped."""
        value = 0.0
        while not self.stopped.is_set():
            value = min(99.99, round(value + 0.01, 2))
            record = Record(
                name="n", state=JobState.IN_PROGRESS, created=1, attempt=1, progress=value
            )
            writes = [Write(f"job:{i}", record, 60_000, 30_000) for i in self.taken]
            try:
                results = self._store.write(writes)
            except OSError:
                results = []
            except Exception as error:
                if "Cluster" not in str(error):
                    raise
                results = []
            now = time.monotonic()
            for job_id, result in zip(self.taken, results, strict=False):
                if result is WriteResult.CHANGED:
                    self.taken[job_id].append((now, value))
            self.stopped.wait(0.02)
        self._store.close()

    def known_by(self, job_id: UUID, moment: float) -> float:
        """The progress that had been taken by then."""
        return max((value for at, value in self.taken[job_id] if at <= moment), default=0.0)


async def test_cluster(tmp_path: Path) -> None:
    """A slot moves and a primary dies under load: no answer is too old, and all comes right."""
    with closing(Cluster(tmp_path)) as cluster:
        ids = [uuid4() for _ in range(60)]
        writing = Writing(cluster.url, ids)
        writing.start()
        seen: list[tuple[float, UUID, int, float]] = []
        settings = ServiceSettings(redis_url=cluster.url, api_keys=("secret",), max_staleness=BOUND)
        async with polling(settings) as client:

            async def read() -> None:
                while not writing.stopped.is_set():
                    for job_id in ids:
                        began_at = time.monotonic()
                        answer = await client.get(f"/api/jobs/{job_id}")
                        value = answer.json()["progress"] if answer.status_code == 200 else -1.0
                        seen.append((began_at, job_id, answer.status_code, value))
                    await asyncio.sleep(0.005)

            readers = [asyncio.create_task(read()) for _ in range(4)]
            await asyncio.sleep(1)
            await asyncio.to_thread(_move_slots, cluster, ids[:5])
            await asyncio.sleep(1)
            dead = cluster.owner(slot_of(f"job:{ids[-1]}"))
            killed = time.monotonic()
            dead.kill()
            await asyncio.to_thread(eventually, lambda: _has_new_owner(cluster, ids[-1], dead), 20)
            promotion = time.monotonic()
            await asyncio.sleep(RIGHT_WITHIN)
            writing.stopped.set()
            await asyncio.gather(*readers)
            writing.join()
            for job_id in ids:
                answer = await client.get(f"/api/jobs/{job_id}")
                assert answer.json()["progress"] == writing.taken[job_id][-1][1]
        hits = client.app.metrics.reads["hit"]
    failed = [began_at for began_at, _, status, _ in seen if status != 200]
    print(
        f"\nCluster: promoted {promotion - killed:.1f} s after the kill; {len(failed)} of "
        f"{len(seen)} reads were 503, from {min(failed, default=killed) - killed:.1f} to "
        f"{max(failed, default=killed) - killed:.1f} s; {hits} hits"
    )
    assert {status for _, _, status, _ in seen} <= {200, 503}
    assert not failed or (min(failed) >= killed and max(failed) < promotion + 1.5)
    lost = _lost(writing, promotion, killed)
    for began_at, job_id, status, value in seen:
        if status == 200 and not (job_id in lost and killed <= began_at < promotion + RIGHT_WITHIN):
            known = writing.known_by(job_id, began_at - BOUND)
            assert value >= known, (
                f"{value} {began_at - killed:.2f} s after the kill; {known} stood"
            )


def _lost(writing: Writing, promotion: float, killed: float) -> set[UUID]:
    """Jobs whose node died: writes that it had not yet passed on are gone."""
    return {
        job_id
        for job_id, taken in writing.taken.items()
        if not any(killed + 0.2 < at < promotion - 0.2 for at, _ in taken)
    }


def _move_slots(cluster: Cluster, ids: list[UUID]) -> None:
    for job_id in ids:
        slot = slot_of(f"job:{job_id}")
        source = cluster.owner(slot)
        target = next(n for n in cluster.nodes if n.role == "master" and n is not source)
        cluster.begin_migration(slot, target)
        time.sleep(0.05)
        cluster.migrate_keys(slot, source, target)
        cluster.end_migration(slot, target)


def _has_new_owner(cluster: Cluster, job_id: UUID, dead: Any) -> bool:
    owner = cluster.owner(slot_of(f"job:{job_id}"))
    return owner is not dead and cluster.is_well()
