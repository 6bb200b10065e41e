"""Where the records are read: in batches.

All keys that are asked for in one turn of the event loop go out as one pipeline, and one key is
asked once however many want it.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, TypeVar

import msgspec

from jobstatus.status import Record
from jobstatus_service.settings import ServiceSettings
from jobstatus_service.storage.connection import Changed, ReplyError
from jobstatus_service.storage.endpoints import Endpoint
from jobstatus_service.storage.link import Link, UnavailableError
from jobstatus_service.storage.stored_record import StoredRecord

_IN_FLIGHT: Final = 2
"""Pipelines on their way at once; what is asked for meanwhile shares the next one."""

_BATCH: Final = 1000
"""Keys in one pipeline at most, so that no reply is long in coming."""

_TIME: Final = b"*1\r\n$4\r\nTIME\r\n"
_ASKING: Final = b"*1\r\n$6\r\nASKING\r\n"
_READ: Final = b"*2\r\n$7\r\nHGETALL\r\n$%d\r\n%b\r\n*2\r\n$4\r\nPTTL\r\n$%d\r\n%b\r\n"

_log = logging.getLogger("jobstatus.service")

T = TypeVar("T")


Made = Callable[[str, StoredRecord, float, Link | None], T]
"""Makes what `read` returns of a key, of what was found there, of the monotonic time at which it
was asked for, and of the link that tells when it changes; None: none does."""

Redirected = Callable[[str, list[asyncio.Future[Any]], str], bool]
"""Takes a key, who waits for it, and Redis's error; whether that said where else it is."""


class _Batch(Generic[T]):
    """Keys that go out together, and who waits for what is found there.

    Attributes:
        keys: Who waits, by key.
        asking: Keys that are on their way to this server from another one, in a Cluster.
        alarm: Goes off when it has taken too long.
    """

    def __init__(self) -> None:
        self.keys: dict[str, list[asyncio.Future[T]]] = {}
        self.asking: set[str] = set()
        self.alarm: asyncio.TimerHandle | None = None

    def fail(self, why: str) -> None:
        """Tell everybody that there will be no answer."""
        for waiting in self.keys.values():
            fail(waiting, why)
            waiting.clear()


def fail(waiting: list[asyncio.Future[T]], why: str) -> None:
    """Tell those who wait that there will be no answer."""
    for future in waiting:
        if not future.done():
            future.set_exception(UnavailableError(why))


class Reader(Generic[T]):
    """Reads records of one server. Belongs to one event loop.

    Attributes:
        link: The way to Redis.
    """

    def __init__(
        self,
        server: Endpoint,
        settings: ServiceSettings,
        found: Made[T],
        changed: Changed,
        sent: Callable[[int], None] = lambda _: None,
        redirected: Redirected | None = None,
    ) -> None:
        """A reader whose link is still to be started.

        Args:
            server: Which one.
            settings: How long it may take.
            found: Called in the order in which Redis answers and tells changes.
            changed: Called with the keys that have changed; with None when that holds for all,
                or is not known any more.
            sent: Called with the number of keys in each pipeline.
            redirected: Called when Redis says that a key may be elsewhere.
        """
        self.link = Link(server, settings, changed, self._schedule, self._fail_sent)
        self._timeout = settings.timeout
        self._found = found
        self._sent = sent
        self._redirected = redirected
        self._next: deque[_Batch[T]] = deque()
        self._in_flight: deque[_Batch[T]] = deque()
        self._scheduled = False

    def start(self) -> None:
        """Connect, and stay connected."""
        self.link.start()

    @property
    def links(self) -> list[Link]:
        """Every link: the one."""
        return [self.link]

    def link_of(self, key: str) -> Link | None:
        """The link over which a key is read."""
        del key
        return self.link

    async def close(self) -> None:
        """Close the link; what is still being read fails."""
        await self.link.close()
        for batch in self._next:
            batch.fail("the service is shutting down")

    def request(self, key: str, *, asking: bool = False) -> list[asyncio.Future[T]]:
        """Have `key` read in the next pipeline, whoever else asks for it.

        Args:
            key: Which.
            asking: Whether it is on its way to this server from another one, in a Cluster.

        Returns:
            Who waits for what is found there, to join.
        """
        batch = self._next[-1] if self._next else None
        if batch is None or (len(batch.keys) >= _BATCH and key not in batch.keys):
            batch = _Batch()
            self._next.append(batch)
            loop = asyncio.get_running_loop()
            batch.alarm = loop.call_later(self._timeout, self._give_up, batch)
            self._schedule()
        if asking:
            batch.asking.add(key)
        return batch.keys.setdefault(key, [])

    async def read(self, key: str) -> T:
        """What was made of that which stands at `key` now.

        Raises:
            UnavailableError: Redis can't answer in time.
        """
        if self.link.is_down_for(self._timeout):
            # For a moment an outage is waited out; then nobody waits for what won't come.
            raise UnavailableError(self.link.fault)
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.request(key).append(future)
        return await future

    def _schedule(self) -> None:
        if self._next and not self._scheduled and len(self._in_flight) < _IN_FLIGHT:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        self._scheduled = False
        if self.link.connection is None or not self._next:
            return
        batch = self._next.popleft()
        self._in_flight.append(batch)
        asked, has_time = time.monotonic(), self.link.connection.has_time
        commands = [_TIME] if has_time else []
        for key in batch.keys:
            name = key.encode()
            read = _READ % (len(name), name, len(name), name)
            commands.append(_asking(read) if key in batch.asking else read)
        self.link.connection.send(
            b"".join(commands),
            has_time + 2 * (len(batch.keys) + len(batch.asking)),
            lambda replies: self._take(replies, asked, has_time=has_time),
        )
        self._sent(len(batch.keys))
        self._schedule()

    def _take(self, replies: Sequence[Any], asked: float, *, has_time: bool) -> None:
        batch = self._in_flight.popleft()  # replies come in the order of the commands
        if batch.alarm is not None:
            batch.alarm.cancel()
        self._schedule()
        each = iter(replies)
        now = time.time_ns() // 1_000_000  # behind a proxy that doesn't pass TIME on
        if has_time:
            first = next(each)
            if isinstance(first, ReplyError):
                batch.fail(str(first))
                return
            seconds, microseconds = map(int, first)
            now = seconds * 1000 + microseconds // 1000
        for key, waiting in batch.keys.items():
            link: Link | None = self.link
            if key in batch.asking:
                fields, ttl = [(next(each), next(each))[1] for _ in range(2)]
                link = None
            else:
                fields, ttl = next(each), next(each)
            error = fields if isinstance(fields, ReplyError) else ttl
            if isinstance(error, ReplyError) and self._sends_elsewhere(key, waiting, str(error)):
                continue
            try:
                result = self._found(key, _found(key, fields, ttl, now), asked, link)
            except UnavailableError as unavailable:
                fail(waiting, str(unavailable))
                continue
            for future in waiting:
                if not future.done():
                    future.set_result(result)

    def _sends_elsewhere(self, key: str, waiting: list[asyncio.Future[Any]], error: str) -> bool:
        return self._redirected is not None and self._redirected(key, waiting, error)

    def _give_up(self, batch: _Batch[T]) -> None:
        """Nobody waits longer; what was sent is answered later, what wasn't is not sent."""
        if batch in self._next:
            self._next.remove(batch)
        batch.fail(self.link.late())

    def _fail_sent(self, why: str) -> None:
        """What was sent gets no answer any more; what wasn't waits for the next connection."""
        while self._in_flight:
            self._in_flight.popleft().fail(why)


def _asking(read: bytes) -> bytes:
    """A read of two commands, ASKING before each."""
    first, second, third = read.partition(b"*2\r\n$4\r\nPTTL")
    return _ASKING + first + _ASKING + second + third


def _found(key: str, fields: Any, ttl: Any, now: int) -> StoredRecord:
    if isinstance(ttl, ReplyError):
        raise UnavailableError(str(ttl))
    if isinstance(fields, ReplyError):
        if not str(fields).startswith("WRONGTYPE"):
            raise UnavailableError(str(fields))
        return _unreadable(key, "it is no hash", now, ttl)
    if isinstance(fields, list):  # RESP2
        fields = dict(zip(fields[::2], fields[1::2], strict=True))
    if not fields:
        return StoredRecord(None, "", now, -2)
    try:
        return StoredRecord(Record.from_fields(fields), "", now, ttl)
    except (msgspec.ValidationError, ValueError) as error:
        return _unreadable(key, str(error), now, ttl)


def _unreadable(key: str, fault: str, now: int, ttl: int) -> StoredRecord:
    _log.error("%s can't be read: %s", key, fault)
    return StoredRecord(None, fault, now, ttl)
