"""Records in a Redis Cluster: each write goes to the node that has its key.

One key per operation, so a Cluster needs no more than this. A node that can't be reached holds up
its own keys only: their writes are refused for now, and the publisher tries them again.
"""

import time
from collections.abc import Sequence
from typing import Any, Final, TypeVar

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from jobstatus.redis_url import HostPort, RedisMode
from jobstatus.settings import StatusSettings
from jobstatus.status import WriteResult
from jobstatus.storage.client import node_client, redis_url_of
from jobstatus.storage.slots import SLOTS, Layout, parse_cluster_slots, redirect_of
from jobstatus.storage.store import (
    REDIS_ERRORS,
    TIMEOUT_ERRORS,
    Refusal,
    Run,
    Store,
    Write,
    error_text,
    result_of,
)

_REDIRECTS: Final = 5
"""Times that one write is sent elsewhere at most, before it is tried anew later."""

_SILENT_SECONDS: Final = 2.0
"""Seconds for which a node that gave no answer in time holds up nobody again."""

_MAX_LIMIT: Final = 1000
"""Keys that are sent to one node at once at most; fewer to one that answers slowly."""

_LATER: Final = Refusal("TRYAGAIN its node answers slowly", is_permanent=False)

T = TypeVar("T")

_ASKING: Final = b"*1\r\n$6\r\nASKING\r\n"
_SLOTS: Final = b"*2\r\n$7\r\nCLUSTER\r\n$5\r\nSLOTS\r\n"

Going = tuple[int, HostPort, bool]
"""The number of a write, where it goes, and whether ASKING precedes it."""


def store_for(settings: StatusSettings) -> "AnyStore":
    """A store at the URL of the settings. It connects when it is first used.

    Raises:
        SettingsError: the URL can't be used.
    """
    if redis_url_of(settings).mode is RedisMode.CLUSTER:
        return ClusterStore(settings)
    return Store.from_settings(settings)


class ClusterStore:
    """Does what a `Store` does, on the nodes of a Cluster. Not for two threads at once.

    Attributes:
        is_replaced: Whether slots have another owner than before, perhaps without the last writes.
    """

    def __init__(self, settings: StatusSettings) -> None:
        self._settings = settings
        self._address = redis_url_of(settings)
        self._nodes: dict[HostPort, Store] = {}
        self._layout: Layout | None = None
        self._last: Layout | None = None
        self._suspects: dict[HostPort, None] = {}
        self._silent: dict[HostPort, float] = {}
        self._limits: dict[HostPort, int] = {}
        self.is_replaced = False

    def write(self, writes: Sequence[Write]) -> list[WriteResult | Refusal]:
        """Write all records, in one round trip to each node; each has its own result."""
        results: dict[int, WriteResult | Refusal] = {}
        going = self._going([write.key for write in writes], results)
        for _ in range(_REDIRECTS):
            groups: dict[HostPort, list[Going]] = {}
            for each in going:
                groups.setdefault(each[1], []).append(each)
            going = []
            for host, group in groups.items():
                going += self._write_to(host, group, writes, results)
            if not going:
                break
        for number, host, _ in going:
            results[number] = Refusal(
                f"TRYAGAIN it was redirected too often, to {host}", is_permanent=False
            )
        return [results[number] for number in range(len(writes))]

    def runs(self, keys: Sequence[str]) -> list[Run | Refusal | None]:
        """The run that stands at each key, or None where no readable record is.

        Where a key's node can't say that now: why not.
        """
        layout = self._known_layout()
        groups: dict[HostPort, list[str]] = {}
        found: dict[str, Run | Refusal | None] = {}
        for key in keys:
            if (host := layout.owner(key)) is None:
                self._layout = None
                found[key] = Refusal("CLUSTERDOWN no node has its slot", is_permanent=False)
            else:
                groups.setdefault(host, []).append(key)
        for host, group in groups.items():
            sent, later = self._fitting(host, group)
            found |= dict.fromkeys(later, _LATER)
            try:
                found |= zip(sent, self._node(host).runs(sent) if sent else [], strict=True)
            except REDIS_ERRORS as error:
                self._doubt(host, error)
                found |= dict.fromkeys(sent, _unanswered(host, error))
        return [found[key] for key in keys]

    def close(self) -> None:
        """Close every connection."""
        nodes, self._nodes = self._nodes, {}
        for node in nodes.values():
            node.close()

    def _going(self, keys: Sequence[str], results: dict[int, WriteResult | Refusal]) -> list[Going]:
        layout = self._known_layout()
        going = []
        for number, key in enumerate(keys):
            if (host := layout.owner(key)) is None:
                self._layout = None
                results[number] = Refusal("CLUSTERDOWN no node has its slot", is_permanent=False)
            else:
                going.append((number, host, False))
        return going

    def _write_to(
        self,
        host: HostPort,
        group: list[Going],
        writes: Sequence[Write],
        results: dict[int, WriteResult | Refusal],
    ) -> list[Going]:
        """Write to one node; what is to be sent elsewhere."""
        group, later = self._fitting(host, group)
        results |= dict.fromkeys((number for number, _, _ in later), _LATER)
        if not group:
            return []
        packed, now = [], time.monotonic()
        node = self._node(host)
        server_ms = node.server_ms(now)
        for number, _, asks in group:
            packed += [_ASKING] * asks + [writes[number].packed(now, server_ms)]
        try:
            received = node.send(packed)
        except REDIS_ERRORS as error:
            self._doubt(host, error)
            for number, _, _ in group:
                results[number] = _unanswered(host, error)
            return []
        self._limits[host] = min(_MAX_LIMIT, 2 * self._limits.get(host, _MAX_LIMIT))
        node.learn_time(received, now)
        replies, elsewhere = iter(received), []
        for number, _, asks in group:
            reply: Any = [next(replies) for _ in range(1 + asks)][-1]
            redirect = None
            if isinstance(reply, ResponseError):
                words = error_text(reply)
                redirect = redirect_of(words, host)
                if words.startswith("CLUSTERDOWN"):
                    self._doubt(host)  # it may be out of the Cluster, and not know who is in it
                elif words.startswith("MOVED"):
                    self._layout = None
            if redirect is None:
                results[number] = result_of(reply)
            else:
                elsewhere.append((number, redirect.host, redirect.once))
        return elsewhere

    def _node(self, host: HostPort) -> Store:
        node = self._nodes.get(host)
        if node is None:
            node = self._nodes[host] = Store(node_client(self._settings, self._address, host))
        return node

    def _doubt(self, host: HostPort, error: Exception | None = None) -> None:
        """The node can't be reached: others are asked first who has its slots now.

        One that gave no answer in time isn't asked again for a while, and then for less.
        """
        self._layout = None
        self._suspects[host] = None
        if isinstance(error, TIMEOUT_ERRORS):
            self._silent[host] = time.monotonic() + _SILENT_SECONDS
            self._limits[host] = max(1, self._limits.get(host, _MAX_LIMIT) // 4)

    def _fitting(self, host: HostPort, group: list[T]) -> tuple[list[T], list[T]]:
        """What of a group may be sent to the node now, and what must wait."""
        if time.monotonic() < self._silent.get(host, 0.0):
            return [], group
        limit = self._limits.get(host, _MAX_LIMIT)
        return group[:limit], group[limit:]

    def _known_layout(self) -> Layout:
        """Who has which slots.

        Raises:
            RedisConnectionError: no node can say.
        """
        if self._layout is not None:
            return self._layout
        hosts = dict.fromkeys((*self._nodes, *self._address.hosts))
        first = [host for host in hosts if host not in self._suspects]
        fault: Exception | None = None
        best: Layout | None = None
        for host in (*first, *(host for host in hosts if host in self._suspects)):
            try:
                layout = self._ask(host)
            except (*REDIS_ERRORS, ValueError) as error:
                self._suspects[host] = None
                fault = error
                continue
            if best is None or layout.size > best.size:
                best = layout
            if best.size == SLOTS:  # one that has left the Cluster knows of nothing
                break
        if best is None or not best.size:
            raise RedisConnectionError(f"no node of the Cluster can say who has what: {fault}")
        return self._adopt(best)

    def _ask(self, host: HostPort) -> Layout:
        (reply,) = self._node(host).send([_SLOTS])
        if isinstance(reply, ResponseError):
            raise reply
        return parse_cluster_slots(reply, host)

    def _adopt(self, layout: Layout) -> Layout:
        if self._last not in {None, layout}:
            self.is_replaced = True
        self._layout = self._last = layout
        self._suspects.clear()
        for gone in self._nodes.keys() - set(layout.owners):
            if gone not in self._address.hosts:
                self._nodes.pop(gone).close()
        return layout


def _unanswered(host: HostPort, error: Exception) -> Refusal:
    """What stands for the reply of a node that gave none."""
    return Refusal(f"TRYAGAIN {host[0]}:{host[1]}: {error}", is_permanent=False)


AnyStore = Store | ClusterStore
