"""Read records in a Redis Cluster: one `Reader` for each primary.

The layout (the reply to CLUSTER SLOTS) says which primary has which keys. It is requested again
when a node redirects a key, when the connection to a node is lost, when the Cluster's epoch
changes, and every few seconds. When it has changed, the whole cache is cleared: a node that has
given a slot away sends no invalidations for the slot's keys.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

from jobstatus.redis_url import HostPort
from jobstatus.storage.client import redis_url_of
from jobstatus.storage.slots import (
    ASKING_COMMAND,
    CLUSTER_SLOTS_COMMAND,
    SLOTS,
    Layout,
    fuller_layout,
    parse_cluster_slots,
    redirect_of,
)
from jobstatus_service.settings import ServiceSettings
from jobstatus_service.storage.batch import Waiters, fail
from jobstatus_service.storage.connection import (
    ConnectionLostError,
    OnInvalidation,
    RedisConnection,
    ReplyError,
)
from jobstatus_service.storage.link import Link, UnavailableError
from jobstatus_service.storage.reader import MakeResponse, Reader
from jobstatus_service.storage.redis_endpoints import ClusterNodeEndpoint
from jobstatus_service.storage.stored_record import StoredRecord

_REFRESH_INTERVAL_SECONDS: Final = 5.0
"""How often the layout is requested when there is no sign that it has changed."""

_MIN_REFRESH_INTERVAL_SECONDS: Final = 0.1
"""How often the layout is requested at most."""

_MAX_REDIRECTS: Final = 8
"""How often one read follows a redirect before it fails."""

_log = logging.getLogger("jobstatus.service")


class ClusterReader:
    """Reads records as `Reader` does, from the nodes of a Cluster. Belongs to one event loop."""

    def __init__(
        self,
        settings: ServiceSettings,
        make_response: MakeResponse,
        on_invalidation: OnInvalidation,
        on_sent: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Prepare a reader; the arguments are those of `Reader`. Call `start` to connect it."""
        self._settings = settings
        self._address = redis_url_of(settings)
        self._make_final_response = make_response
        self._on_invalidation = on_invalidation
        self._on_sent = on_sent
        self._readers: dict[HostPort, Reader] = {}
        self._layout: Layout | None = None
        self._layout_known = asyncio.Event()
        self._refresh_needed = asyncio.Event()
        self._redirects: dict[str, int] = {}
        self._task: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._is_closed = False

    @property
    def links(self) -> list[Link]:
        """The links to all nodes."""
        return [reader.link for reader in self._readers.values()]

    def start(self) -> None:
        """Find the nodes, connect to them, and reconnect whenever a connection is lost."""
        self._task = asyncio.get_running_loop().create_task(self._keep_layout_current())

    async def close(self) -> None:
        """Close all links. Pending reads raise `UnavailableError`."""
        self._is_closed = True
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await asyncio.gather(*self._closing, *(r.close() for r in self._readers.values()))

    def link_of(self, key: str) -> Link | None:
        """Return the link over which a key is read; None while its node is not known."""
        reader = self._owner_of(key)
        return None if reader is None else reader.link

    def request(self, key: str) -> Waiters:
        """Read a key with its node's next pipeline, as `Reader.request` does.

        While the key's node is not known, nothing is read.
        """
        reader = self._owner_of(key)
        return [] if reader is None else reader.request(key)

    async def execute(
        self, key: str, commands: Sequence[bytes], *, is_transaction: bool = False
    ) -> list[Any]:
        """Send commands to the node that has a key, as `Reader.execute` does.

        While the key's slot is being moved, some keys of the slot are at one node and some at the
        other; then each command is sent by itself, and redirects are followed.

        Raises:
            UnavailableError: The key's node is not known, does not answer in time, or refuses a
                command.
        """
        reader = await self._wait_for_owner(key)
        replies = await reader.exchange(commands, is_transaction=is_transaction)
        if not any(map(_is_redirect, replies)):
            for reply in replies:
                if isinstance(reply, ReplyError):
                    raise UnavailableError(str(reply))
            return replies
        self._refresh_needed.set()
        return [await self._follow(key, command) for command in commands]

    async def _follow(self, key: str, command: bytes) -> Any:
        """Send one command to the node that has a key, and to each node that a redirect names."""
        node = self._layout.owner(key) if self._layout is not None else None
        is_asking = False
        for _ in range(_MAX_REDIRECTS):
            if node is None:
                raise UnavailableError("no node of the Cluster is known to have the job's slot")
            sent = [ASKING_COMMAND, command] if is_asking else [command]
            reply = (await self._reader_of(node).exchange(sent))[-1]
            if not isinstance(reply, ReplyError):
                return reply
            redirect = redirect_of(str(reply), node)
            if redirect is None:
                raise UnavailableError(str(reply))
            node, is_asking = redirect.host, redirect.once
        raise UnavailableError("a command was redirected too often")

    async def read(self, key: str) -> Any:
        """Read a key, as `Reader.read` does.

        Raises:
            UnavailableError: the key's node is not known, or does not answer in time.
        """
        reader = await self._wait_for_owner(key)
        return await reader.read(key)

    async def _wait_for_owner(self, key: str) -> Reader:
        if self._layout is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.timeout):
                    await self._layout_known.wait()
        reader = self._owner_of(key)
        if reader is None:
            self._refresh_needed.set()
            raise UnavailableError("no node of the Cluster is known to have the job's slot")
        return reader

    def _owner_of(self, key: str) -> Reader | None:
        owner = self._layout.owner(key) if self._layout is not None else None
        return self._readers.get(owner) if owner is not None else None

    def _reader_of(self, node: HostPort) -> Reader:
        """Return the reader of a node; start one if there is none."""
        reader = self._readers.get(node)
        if reader is None:
            reader = self._readers[node] = Reader(
                self._endpoint_of(node),
                self._settings,
                self._make_response,
                self._pass_on_invalidation,
                self._on_sent,
                lambda key, waiters, error: self._follow_redirect(node, key, waiters, error),
            )
            reader.start()
        return reader

    def _endpoint_of(self, node: HostPort) -> ClusterNodeEndpoint:
        return ClusterNodeEndpoint(self._settings, self._address, node, self._refresh_needed.set)

    def _make_response(
        self, key: str, stored: StoredRecord, sent_at: float, link: Link | None
    ) -> Any:
        if self._redirects:
            self._redirects.pop(key, None)
        return self._make_final_response(key, stored, sent_at, link)

    def _pass_on_invalidation(self, keys: Sequence[str] | None) -> None:
        if keys is None:
            self._refresh_needed.set()  # the connection to a node was lost, or it was flushed
        self._on_invalidation(keys)

    def _follow_redirect(
        self, redirecting: HostPort, key: str, waiters: Waiters, error: str
    ) -> bool:
        """Read a key from the node that a redirect names; see `FollowRedirect`."""
        redirect = redirect_of(error, redirecting)
        if redirect is None:
            if error.startswith("CLUSTERDOWN"):
                self._refresh_needed.set()
            return False
        if not redirect.once:
            self._refresh_needed.set()
        count = self._redirects[key] = self._redirects.get(key, 0) + 1
        if count > _MAX_REDIRECTS:
            del self._redirects[key]
            fail(waiters, f"it was redirected too often, last to {redirect.host}")
        else:
            reader = self._reader_of(redirect.host)
            reader.request(key, is_redirected=redirect.once).extend(waiters)
        return True

    async def _keep_layout_current(self) -> None:
        """Request the layout again and again until the reader is closed; outlive every error."""
        while not self._is_closed:
            try:
                self._refresh_needed.clear()
                layout = await self._request_layout()
                if layout is not None:
                    self._adopt(layout)
                await asyncio.sleep(_MIN_REFRESH_INTERVAL_SECONDS)
                if layout is not None and all(
                    self._readers[node].link.is_connected for node in layout.owners
                ):
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_REFRESH_INTERVAL_SECONDS):
                            await self._refresh_needed.wait()
            except Exception:
                _log.exception(
                    "cannot refresh the Cluster's layout because of a bug, retrying in %g s",
                    _REFRESH_INTERVAL_SECONDS,
                )
                await asyncio.sleep(_REFRESH_INTERVAL_SECONDS)

    async def _request_layout(self) -> Layout | None:
        """Ask the connected nodes, then the nodes in the URL, until one knows all slots.

        If none knows all of them, return the layout with the most slots. A node that has left the
        Cluster knows none.
        """
        best: Layout | None = None
        for node, reader in list(self._readers.items()):
            if reader.link.connection is not None:
                best = fuller_layout(best, await self._layout_from(reader.link.connection, node))
                if best is not None and best.size == SLOTS:
                    return best
        fault = "no node has answered"
        for node in self._address.hosts:
            try:
                connection = await RedisConnection.connect(
                    self._endpoint_of(node), self._settings, lambda _: None
                )
            except ConnectionLostError as error:
                fault = str(error)
                continue
            try:
                best = fuller_layout(best, await self._layout_from(connection, node))
            finally:
                connection.close()
            if best is not None and best.size == SLOTS:
                break
        if best is None and self._layout is None:
            _log.warning(
                "no node in JOBSTATUS_REDIS_URL knows the Cluster's layout, retrying: %s", fault
            )
        return best

    async def _layout_from(self, connection: RedisConnection, node: HostPort) -> Layout | None:
        try:
            async with asyncio.timeout(self._settings.timeout):
                reply = await connection.execute(CLUSTER_SLOTS_COMMAND)
            return parse_cluster_slots(reply, node)
        except (TimeoutError, ConnectionLostError):
            return None
        except ValueError as error:
            _log.warning("the Redis Cluster node %s:%d did not return a layout: %s", *node, error)
            return None

    def _adopt(self, layout: Layout) -> None:
        """Use a layout from now on: connect to new primaries, disconnect from the others."""
        if layout == self._layout:
            return
        is_first = self._layout is None
        self._layout = layout
        self._redirects.clear()
        primaries = set(layout.owners)
        _log.info("the Cluster's layout has changed; it now has %d primaries", len(primaries))
        for node in primaries:
            self._reader_of(node)
        for node in self._readers.keys() - primaries:
            task = asyncio.get_running_loop().create_task(self._readers.pop(node).close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        self._layout_known.set()
        if not is_first:
            self._on_invalidation(None)


def _is_redirect(reply: Any) -> bool:
    """Whether a reply may be the consequence of a slot that is being moved, or was."""
    if not isinstance(reply, ReplyError):
        return False
    return str(reply).startswith(("MOVED ", "ASK ", "TRYAGAIN ", "EXECABORT "))
