"""The consistency check behind Sentinels and in a Cluster: primaries die, slots move."""

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.exceptions import RedisError
from tests.consistency import Ledger, Writers, check
from tests.processes import service
from tests.valkey_servers import Cluster, Node, Sentinels, closing
from tests.waiting import eventually

from jobstatus import job_uuid
from jobstatus.settings import PublisherSettings
from jobstatus.storage.slots import slot_of

JOBS = [f"job-{n}" for n in range(12)]


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("JOBSTATUS_"):
            monkeypatch.delenv(name)


def settings(url: str) -> list[PublisherSettings]:
    """Those of two publishers."""
    return [PublisherSettings(redis_url=url, report_interval=0.02) for _ in range(2)]


def disturb(node: Node, dice: random.Random) -> str:
    """Something that a server survives as what it is."""
    what = dice.choice(["kill", "freeze", "OOM"])
    if what == "kill":
        node.redis.client_kill_filter(_type="normal", skipme=True)
    elif what == "freeze":
        node.send(signal.SIGSTOP)
        time.sleep(dice.uniform(0.1, 0.5))  # not long enough for anybody to take over
        node.send(signal.SIGCONT)
    else:
        node.redis.config_set("maxmemory", 1)
        time.sleep(dice.uniform(0.1, 0.5))
        node.redis.config_set("maxmemory", 0)
    return what


def promotion(sentinels: Sentinels, ledger: Ledger) -> None:
    """Kill the primary; its replica, without the last writes, takes its place."""
    old, since = sentinels.primary, time.monotonic()
    old.redis.client_kill_filter(_type="slave")
    old.kill()

    def is_promoted() -> bool:
        return sentinels.primary is not old and sentinels.primary.role == "master"

    eventually(is_promoted, 20)
    ledger.lost(since)


async def test_sentinel(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """The primary is disturbed, then killed; its replica takes over, and is disturbed as well."""
    seconds = 1.5 * request.config.getoption("--consistency")
    seed = request.config.getoption("--seed") or random.randrange(10**6)
    dice, ledger = random.Random(seed), Ledger(JOBS)
    with closing(Sentinels(tmp_path)) as sentinels, service(sentinels.url) as client:
        began_at = time.monotonic()

        def faults() -> Iterator[str]:
            while time.monotonic() < began_at + seconds / 3:
                time.sleep(dice.uniform(0.1, 0.4))
                yield disturb(sentinels.primary, dice)
            promotion(sentinels, ledger)
            yield "promotion"
            while True:
                time.sleep(dice.uniform(0.1, 0.4))
                yield disturb(sentinels.primary, dice)

        writers = Writers(ledger, settings(sentinels.url), dice)
        url = str(client.base_url)
        summary = await check(url, "secret", ledger, writers, faults, seconds)
    print(f"\nconsistency: seed {seed}, Sentinel, {seconds:.0f} s: {summary}")


def move_slot(cluster: Cluster, slot: int) -> None:
    """Move a slot, and what is in it, to another primary."""
    source = cluster.owner(slot)
    primaries = [n for n in cluster.nodes if n.process is not None and n.role == "master"]
    target = next(node for node in primaries if node is not source)
    cluster.begin_migration(slot, target)
    time.sleep(0.05)
    cluster.migrate_keys(slot, source, target)
    cluster.end_migration(slot, target)


async def test_cluster(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Nodes are disturbed, slots move, and a primary is killed, whose replica takes over."""
    seconds = 1.5 * request.config.getoption("--consistency")
    seed = request.config.getoption("--seed") or random.randrange(10**6)
    dice, ledger = random.Random(seed), Ledger(JOBS)
    slots = [slot_of(f"job:{job_uuid(job)}") for job in JOBS]
    with closing(Cluster(tmp_path)) as cluster, service(cluster.url) as client:
        began_at = time.monotonic()

        def one() -> str:
            time.sleep(dice.uniform(0.1, 0.4))
            slot = dice.choice(slots)
            if dice.random() < 0.4:
                try:
                    move_slot(cluster, slot)
                except RedisError:  # the Cluster is still busy with what happened before
                    return "slot that could not move"
                return "slot"
            return disturb(cluster.owner(slot), dice)

        def faults() -> Iterator[str]:
            while time.monotonic() < began_at + seconds / 2:
                yield one()
            dead, since = cluster.owner(slots[0]), time.monotonic()
            dead.kill()
            eventually(lambda: cluster.owner(slots[0]) is not dead and cluster.is_well(), 20)
            ledger.lost(since)
            yield "promotion"
            while True:
                yield one()

        writers = Writers(ledger, settings(cluster.url), dice)
        url = str(client.base_url)
        summary = await check(url, "secret", ledger, writers, faults, seconds)
    print(f"\nconsistency: seed {seed}, Cluster, {seconds:.0f} s: {summary}")
