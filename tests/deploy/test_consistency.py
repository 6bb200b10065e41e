"""The consistency check with Sentinel and with a Cluster: primaries fail, slots move."""

import random
import signal
import time
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

import pytest
from redis.exceptions import RedisError
from tests.consistency import JOBS, Ledger, Writers, check
from tests.processes import service
from tests.records import key
from tests.valkey_servers import Cluster, Node, Sentinels
from tests.waiting import eventually

from jobstatus.settings import PublisherSettings
from jobstatus.storage.slots import slot_of


def two_publishers(url: str) -> list[PublisherSettings]:
    """Return the settings of two publishers."""
    return [PublisherSettings(redis_url=url, report_interval=0.02) for _ in range(2)]


def disturb(node: Node, rng: random.Random) -> str:
    """Cause a fault that does not lead to a failover; return its name."""
    time.sleep(rng.uniform(0.1, 0.4))
    fault = rng.choice(["closed connections", "frozen server", "OOM"])
    if fault == "closed connections":
        node.redis.client_kill_filter(_type="normal", skipme=True)
    elif fault == "frozen server":
        node.send(signal.SIGSTOP)
        time.sleep(rng.uniform(0.1, 0.5))  # less than DOWN_AFTER_MS
        node.send(signal.SIGCONT)
    else:
        node.redis.config_set("maxmemory", 1)
        time.sleep(rng.uniform(0.1, 0.5))
        node.redis.config_set("maxmemory", 0)
    return fault


def fail_over(sentinels: Sentinels, ledger: Ledger) -> None:
    """Kill the primary after its last writes have not reached the replica, which is promoted."""
    old, since = sentinels.primary, time.monotonic()
    old.redis.client_kill_filter(_type="slave")
    old.kill()
    sentinels.wait_for_promotion(old)
    ledger.record_loss(since)


async def test_sentinel(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Responses stay right while primaries are disturbed, and one is killed and replaced."""
    seconds = 1.5 * request.config.getoption("--consistency")
    seed = request.config.getoption("--seed") or random.randrange(10**6)
    print(f"\nconsistency: seed {seed}")  # pytest shows it when the test fails
    rng, ledger = random.Random(seed), Ledger(JOBS)
    with closing(Sentinels(tmp_path)) as sentinels, service(sentinels.url) as client:
        began_at = time.monotonic()

        def faults() -> Generator[str]:
            while time.monotonic() < began_at + seconds / 3:
                yield disturb(sentinels.primary, rng)
            fail_over(sentinels, ledger)
            yield "failover"
            while True:
                yield disturb(sentinels.primary, rng)

        writers = Writers(ledger, two_publishers(sentinels.url), rng)
        url = str(client.base_url)
        summary = await check(url, "secret", ledger, writers, faults(), seconds)
    print(f"Sentinel, {seconds:.0f} s: {summary}")


async def test_cluster(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Responses stay right while nodes are disturbed, slots move, and a primary is replaced."""
    seconds = 1.5 * request.config.getoption("--consistency")
    seed = request.config.getoption("--seed") or random.randrange(10**6)
    print(f"\nconsistency: seed {seed}")  # pytest shows it when the test fails
    rng, ledger = random.Random(seed), Ledger(JOBS)
    slots = [slot_of(key(job)) for job in JOBS]
    with closing(Cluster(tmp_path)) as cluster, service(cluster.url) as client:
        began_at = time.monotonic()

        def move_or_disturb() -> str:
            slot = rng.choice(slots)
            if rng.random() < 0.6:
                return disturb(cluster.owner(slot), rng)
            try:
                cluster.move_slot(slot)
            except RedisError:  # the Cluster has not yet recovered from an earlier fault
                return "slot could not be moved"
            return "moved slot"

        def faults() -> Generator[str]:
            while time.monotonic() < began_at + seconds / 2:
                yield move_or_disturb()
            dead, since = cluster.owner(slots[0]), time.monotonic()
            dead.kill()
            eventually(lambda: cluster.owner(slots[0]) is not dead and cluster.is_healthy(), 20)
            ledger.record_loss(since)
            yield "failover"
            while True:
                yield move_or_disturb()

        writers = Writers(ledger, two_publishers(cluster.url), rng)
        url = str(client.base_url)
        summary = await check(url, "secret", ledger, writers, faults(), seconds)
    print(f"Cluster, {seconds:.0f} s: {summary}")
