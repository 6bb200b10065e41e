"""Reads in a Redis Cluster: one reader for each primary, and who has which keys.

The layout (CLUSTER SLOTS) is asked for anew when a node sends a key elsewhere, when one can't be
reached, when the Cluster's epoch moves, and every few seconds. What is near is forgotten when it
has changed: a slot that moved takes its keys away without a word.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from jobstatus.redis_url import HostPort
from jobstatus.storage.client import redis_url_of
from jobstatus.storage.slots import SLOTS, Layout, parse_cluster_slots, redirect_of
from jobstatus_service.settings import ServiceSettings
from jobstatus_service.storage.connection import Changed, ConnectionLostError, RedisConnection
from jobstatus_service.storage.endpoints import ClusterNodeEndpoint
from jobstatus_service.storage.link import Link, UnavailableError
from jobstatus_service.storage.reader import Made, Reader, fail

_LOOK: Final = 5.0
"""Seconds after which the layout is asked for though nothing said that it has changed."""

_PAUSE: Final = 0.1
"""Seconds between two looks at least."""

_HOPS: Final = 8
"""Times that one key is sent elsewhere at most; then its readers are told that it can't be read."""

_SLOTS: Final = b"*2\r\n$7\r\nCLUSTER\r\n$5\r\nSLOTS\r\n"

_log = logging.getLogger("jobstatus.service")

T = TypeVar("T")


class ClusterReader(Generic[T]):
    """Does what a `Reader` does, on the nodes of a Cluster. Belongs to one event loop."""

    def __init__(
        self,
        settings: ServiceSettings,
        found: Made[T],
        changed: Changed,
        sent: Callable[[int], None] = lambda _: None,
    ) -> None:
        """A reader that is still to be started; its arguments are those of `Reader`."""
        self._settings = settings
        self._address = redis_url_of(settings)
        self._made = found
        self._changed = changed
        self._sent = sent
        self._readers: dict[HostPort, Reader[T]] = {}
        self._layout: Layout | None = None
        self._known = asyncio.Event()
        self._doubted = asyncio.Event()
        self._hops: dict[str, int] = {}
        self._keeping: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._is_closed = False

    @property
    def links(self) -> list[Link]:
        """The links to all nodes."""
        return [reader.link for reader in self._readers.values()]

    def start(self) -> None:
        """Find the nodes, connect, and stay connected."""
        self._keeping = asyncio.get_running_loop().create_task(self._keep())

    async def close(self) -> None:
        """Close all links; what is still being read fails."""
        self._is_closed = True
        if self._keeping is not None:
            self._keeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeping
        await asyncio.gather(*self._closing, *(r.close() for r in self._readers.values()))

    def link_of(self, key: str) -> Link | None:
        """The link over which a key is read; None where nobody is known to have it."""
        reader = self._reader_of(key)
        return None if reader is None else reader.link

    def request(self, key: str) -> list[asyncio.Future[T]]:
        """Have `key` read in its node's next pipeline; who waits for what is found there."""
        reader = self._reader_of(key)
        return [] if reader is None else reader.request(key)

    async def read(self, key: str) -> T:
        """What was made of that which stands at `key` now.

        Raises:
            UnavailableError: its node can't answer in time.
        """
        if self._layout is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.timeout):
                    await self._known.wait()
        reader = self._reader_of(key)
        if reader is None:
            self._doubted.set()
            raise UnavailableError("no node of the Cluster is known to have the job")
        return await reader.read(key)

    def _reader_of(self, key: str) -> Reader[T] | None:
        owner = self._layout.owner(key) if self._layout is not None else None
        return self._readers.get(owner) if owner is not None else None

    def _reader(self, node: HostPort) -> Reader[T]:
        reader = self._readers.get(node)
        if reader is None:
            reader = self._readers[node] = Reader(
                self._node(node),
                self._settings,
                self._found,
                self._told,
                self._sent,
                lambda key, waiting, error: self._redirect(node, key, waiting, error),
            )
            reader.start()
        return reader

    def _node(self, node: HostPort) -> ClusterNodeEndpoint:
        return ClusterNodeEndpoint(self._settings, self._address, node, self._doubted.set)

    def _found(self, key: str, found: Any, asked: float, link: Link | None) -> T:
        if self._hops:
            self._hops.pop(key, None)
        return self._made(key, found, asked, link)

    def _told(self, keys: Any) -> None:
        if keys is None:
            self._doubted.set()  # a node was lost, or flushed
        self._changed(keys)

    def _redirect(
        self, asked: HostPort, key: str, waiting: list[asyncio.Future[Any]], error: str
    ) -> bool:
        """Read a key where Redis says that it is; whether it said so."""
        redirect = redirect_of(error, asked)
        if redirect is None:
            if error.startswith("CLUSTERDOWN"):
                self._doubted.set()
            return False
        if not redirect.once:
            self._doubted.set()
        hops = self._hops[key] = self._hops.get(key, 0) + 1
        if hops > _HOPS:
            del self._hops[key]
            fail(waiting, f"it was sent elsewhere too often, to {redirect.host}")
        else:
            self._reader(redirect.host).request(key, asking=redirect.once).extend(waiting)
        return True

    async def _keep(self) -> None:
        """Know the layout, until it is closed, whatever happens."""
        while not self._is_closed:
            try:
                self._doubted.clear()
                layout = await self._look()
                if layout is not None:
                    self._adopt(layout)
                await asyncio.sleep(_PAUSE)
                if layout is not None and all(
                    self._readers[node].link.is_connected for node in layout.owners
                ):
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_LOOK):
                            await self._doubted.wait()
            except Exception:
                _log.exception("the Cluster's layout could not be looked at")
                await asyncio.sleep(_LOOK)

    async def _look(self) -> Layout | None:
        """Ask nodes that are connected, then those of the URL, until one knows of all slots.

        A node that has left the Cluster knows of none.
        """
        best: Layout | None = None
        for node, reader in list(self._readers.items()):
            if reader.link.connection is not None:
                best = _fuller(best, await self._slots(reader.link.connection, node))
                if best is not None and best.size == SLOTS:
                    return best
        fault = "no node answered"
        for node in self._address.hosts:
            try:
                connection = await RedisConnection.connect(
                    self._node(node), self._settings, lambda _: None
                )
            except ConnectionLostError as error:
                fault = str(error)
                continue
            try:
                best = _fuller(best, await self._slots(connection, node))
            finally:
                connection.close()
            if best is not None and best.size == SLOTS:
                break
        if best is None and self._layout is None:
            _log.warning("the Cluster's layout can't be found out: %s", fault)
        return best

    async def _slots(self, connection: RedisConnection, node: HostPort) -> Layout | None:
        try:
            async with asyncio.timeout(self._settings.timeout):
                reply = await connection.ask(_SLOTS)
            return parse_cluster_slots(reply, node)
        except (TimeoutError, ConnectionLostError):
            return None
        except ValueError as error:
            _log.warning("%s:%d: %s", *node, error)
            return None

    def _adopt(self, layout: Layout) -> None:
        """Go by a layout."""
        if layout == self._layout:
            return
        is_first = self._layout is None
        self._layout = layout
        self._hops.clear()
        _log.info("the Cluster has %d primaries", len(set(layout.owners)))
        for node in layout.owners:
            self._reader(node)
        for gone in self._readers.keys() - set(layout.owners):
            task = asyncio.get_running_loop().create_task(self._readers.pop(gone).close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        self._known.set()
        if not is_first:
            self._changed(None)


def _fuller(one: Layout | None, other: Layout | None) -> Layout | None:
    """The layout that knows of more slots; one that knows of none is no layout."""
    known = [each for each in (one, other) if each is not None and each.size]
    return max(known, key=lambda each: each.size, default=None)
