"""The store of a Redis Cluster: each write goes to the node that owns its key.

Each operation has one key, so a Cluster needs no more than this. A node that is unavailable delays
its own keys only: their writes are refused transiently, and the publisher retries them.
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
from jobstatus.storage.refusals import REDIS_ERRORS, TIMEOUT_ERRORS, Refusal, error_text
from jobstatus.storage.slots import (
    ASKING_COMMAND,
    CLUSTER_SLOTS_COMMAND,
    SLOTS,
    Layout,
    fuller_layout,
    parse_cluster_slots,
    redirect_of,
)
from jobstatus.storage.store import Store
from jobstatus.storage.write import Run, Write, result_of

_MAX_REDIRECTS: Final = 5
"""Redirects that one write follows before it is retried later."""

_SLOW_NODE_PAUSE_SECONDS: Final = 2.0
"""Seconds for which nothing is sent to a node that has not replied in time."""

_MAX_KEYS_PER_NODE: Final = 1000
"""Keys that are sent to one node at once; fewer if the node replies slowly."""

_SLOT_MOVES: Final = ("MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "ERR Attempted", "Attempted")
"""How errors begin while a slot is being moved, or has been; the last two in a script."""

_NODE_IS_SLOW: Final = Refusal("TRYAGAIN the node replies slowly", is_permanent=False)
_SLOT_WITHOUT_OWNER: Final = Refusal("CLUSTERDOWN no node owns the slot", is_permanent=False)

T = TypeVar("T")

Routed = tuple[int, HostPort, bool]
"""The index of a write, the node that it is sent to, and whether ASKING precedes it."""


def store_for(settings: StatusSettings) -> "AnyStore":
    """Create a store at the URL of the settings. It connects when it is first used.

    Raises:
        SettingsError: The URL is not valid.
    """
    if redis_url_of(settings).mode is RedisMode.CLUSTER:
        return ClusterStore(settings)
    return Store.from_settings(settings)


class ClusterStore:
    """Has the interface of `Store`, for the nodes of a Cluster. Not thread-safe.

    Attributes:
        is_replaced: Whether slots have another owner than before, perhaps one without the last
            writes. The caller sets it back to False.
    """

    def __init__(self, settings: StatusSettings) -> None:
        self._settings = settings
        self._url = redis_url_of(settings)
        self._nodes: dict[HostPort, Store] = {}
        self._layout: Layout | None = None
        self._last_layout: Layout | None = None
        self._failed: set[HostPort] = set()
        self._paused_until: dict[HostPort, float] = {}
        self._max_keys: dict[HostPort, int] = {}
        self.is_replaced = False

    def write(self, writes: Sequence[Write]) -> list[WriteResult | Refusal]:
        """Write all records in one round trip to each node; each has a result of its own."""
        results: dict[int, WriteResult | Refusal] = {}
        routed: list[Routed] = []
        layout = self._current_layout()
        for index, write in enumerate(writes):
            if (host := layout.owner(write.key)) is None:
                self._layout = None
                results[index] = _SLOT_WITHOUT_OWNER
            else:
                routed.append((index, host, False))
        for _ in range(_MAX_REDIRECTS):
            groups: dict[HostPort, list[Routed]] = {}
            for each in routed:
                groups.setdefault(each[1], []).append(each)
            routed = []
            for host, group in groups.items():
                routed += self._write_to(host, group, writes, results)
            if not routed:
                break
        for index, host, _ in routed:
            results[index] = Refusal(
                f"TRYAGAIN redirected too often, last to {host}", is_permanent=False
            )
        return [results[index] for index in range(len(writes))]

    def runs(self, keys: Sequence[str]) -> list[Run | Refusal | None]:
        """Read the run of each record; None if the record is missing or malformed.

        If the owner of a key is unavailable, its result is a transient refusal.
        """
        layout = self._current_layout()
        groups: dict[HostPort, list[str]] = {}
        found: dict[str, Run | Refusal | None] = {}
        for key in keys:
            if (host := layout.owner(key)) is None:
                self._layout = None
                found[key] = _SLOT_WITHOUT_OWNER
            else:
                groups.setdefault(host, []).append(key)
        for host, group in groups.items():
            sent, later = self._within_limit(host, group)
            found |= dict.fromkeys(later, _NODE_IS_SLOW)
            try:
                found |= zip(sent, self._node(host).runs(sent) if sent else [], strict=True)
            except REDIS_ERRORS as error:
                self._node_failed(host, error)
                found |= dict.fromkeys(sent, _unavailable(host, error))
        return [found[key] for key in keys]

    def sweep(
        self, shard_start: str, key: str, group: str, skip: int, limit: int
    ) -> tuple[str, int] | None:
        """Do one step of a sweep of the index, as `Store.sweep` does.

        A shard whose slot has no owner, or is being moved, is left to a later sweep.
        """
        host = self._current_layout().owner(key)
        if host is None:
            self._layout = None
            return None
        try:
            return self._node(host).sweep(shard_start, key, group, skip, limit)
        except ResponseError as error:
            if not error_text(error).startswith(_SLOT_MOVES):
                raise
            self._layout = None
            return None
        except REDIS_ERRORS as error:
            self._node_failed(host, error)
            raise

    def close(self) -> None:
        """Close every connection."""
        nodes, self._nodes = self._nodes, {}
        for node in nodes.values():
            node.close()

    def _write_to(
        self,
        host: HostPort,
        group: list[Routed],
        writes: Sequence[Write],
        results: dict[int, WriteResult | Refusal],
    ) -> list[Routed]:
        """Write to one node; return the writes that the node has redirected."""
        group, later = self._within_limit(host, group)
        results |= dict.fromkeys((index for index, _, _ in later), _NODE_IS_SLOW)
        if not group:
            return []
        node = self._node(host)
        packed, now = [], time.monotonic()
        server_ms = node.server_ms(now)
        for index, _, is_asking in group:
            packed += [ASKING_COMMAND] * is_asking + [writes[index].packed(now, server_ms)]
        try:
            received = node.send(packed)
        except REDIS_ERRORS as error:
            self._node_failed(host, error)
            results |= dict.fromkeys((index for index, _, _ in group), _unavailable(host, error))
            return []
        self._max_keys[host] = min(_MAX_KEYS_PER_NODE, 2 * self._limit(host))
        node.learn_server_time(received, now, time.monotonic())
        replies, redirected = iter(received), []
        for index, _, is_asking in group:
            if is_asking:
                next(replies)  # to ASKING
            reply: Any = next(replies)
            redirect = None
            if isinstance(reply, ResponseError):
                text = error_text(reply)
                redirect = redirect_of(text, host)
                if text.startswith("CLUSTERDOWN"):
                    # The node may have left the Cluster without knowing the new members.
                    self._node_failed(host)
                elif text.startswith("MOVED"):
                    self._layout = None
            if redirect is None:
                results[index] = result_of(reply)
            else:
                redirected.append((index, redirect.host, redirect.once))
        return redirected

    def _node(self, host: HostPort) -> Store:
        node = self._nodes.get(host)
        if node is None:
            node = self._nodes[host] = Store(node_client(self._settings, self._url, host))
        return node

    def _node_failed(self, host: HostPort, error: Exception | None = None) -> None:
        """Have the layout read again, from other nodes first.

        To a node that has not replied in time nothing is sent for a while, and then fewer keys.
        """
        self._layout = None
        self._failed.add(host)
        if isinstance(error, TIMEOUT_ERRORS):
            self._paused_until[host] = time.monotonic() + _SLOW_NODE_PAUSE_SECONDS
            self._max_keys[host] = max(1, self._limit(host) // 4)

    def _limit(self, host: HostPort) -> int:
        return self._max_keys.get(host, _MAX_KEYS_PER_NODE)

    def _within_limit(self, host: HostPort, group: list[T]) -> tuple[list[T], list[T]]:
        """Split a group into what may be sent to the node now, and what must wait."""
        if time.monotonic() < self._paused_until.get(host, 0.0):
            return [], group
        limit = self._limit(host)
        return group[:limit], group[limit:]

    def _current_layout(self) -> Layout:
        """Return the layout, read from the nodes if it may have changed.

        Raises:
            RedisConnectionError: No node can be asked.
        """
        if self._layout is not None:
            return self._layout
        hosts = dict.fromkeys((*self._nodes, *self._url.hosts))
        error: Exception | None = None
        best: Layout | None = None
        for host in sorted(hosts, key=self._failed.__contains__):
            try:
                best = fuller_layout(best, self._read_layout(host))
            except (*REDIS_ERRORS, ValueError) as failure:
                self._failed.add(host)
                error = failure
                continue
            if best is not None and best.size == SLOTS:
                break
        if best is None:
            raise RedisConnectionError(f"no node of the Cluster knows the layout: {error}")
        return self._use_layout(best)

    def _read_layout(self, host: HostPort) -> Layout:
        (reply,) = self._node(host).send([CLUSTER_SLOTS_COMMAND])
        return parse_cluster_slots(reply, host)

    def _use_layout(self, layout: Layout) -> Layout:
        if self._last_layout not in {None, layout}:
            self.is_replaced = True
        self._layout = self._last_layout = layout
        self._failed.clear()
        for gone in self._nodes.keys() - set(layout.owners) - set(self._url.hosts):
            self._nodes.pop(gone).close()
        return layout


def _unavailable(host: HostPort, error: Exception) -> Refusal:
    """Return the result of a write to a node that has not replied."""
    return Refusal(f"TRYAGAIN {host[0]}:{host[1]} is unavailable: {error}", is_permanent=False)


AnyStore = Store | ClusterStore
