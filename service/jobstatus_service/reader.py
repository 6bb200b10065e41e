"""Where the records are read: in batches, over one connection that is kept alive.

All keys that are asked for in one turn of the event loop go out as one pipeline, and one key is
asked once however many want it. The connection proves itself with a ping several times within the
staleness bound: until the bound has passed since the last ping that was answered, every change
that Redis knew of has been told.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, TypeVar, cast

import msgspec

from jobstatus.status import Record
from jobstatus_service.found import Found
from jobstatus_service.settings import ServiceSettings
from jobstatus_service.wire import Changed, LostError, ReplyError, Wire

_IN_FLIGHT: Final = 2
"""Pipelines on their way at once; what is asked for meanwhile shares the next one."""

_BATCH: Final = 1000
"""Keys in one pipeline at most, so that no reply is long in coming."""

_PINGS: Final = 4
"""Proofs of the connection within one staleness bound."""

_BACKOFF: Final = (0.02, 0.5)
"""Seconds before connecting again: the first, and the longest."""

_TIME: Final = b"*1\r\n$4\r\nTIME\r\n"
_PING: Final = b"*1\r\n$4\r\nPING\r\n"
_READ: Final = b"*2\r\n$7\r\nHGETALL\r\n$%d\r\n%b\r\n*2\r\n$4\r\nPTTL\r\n$%d\r\n%b\r\n"

_log = logging.getLogger("jobstatus.service")

T = TypeVar("T")


class UnavailableError(Exception):
    """Redis can't answer in time."""


class _Batch(Generic[T]):
    """Keys that go out together, and who waits for what is found there."""

    def __init__(self) -> None:
        self.keys: dict[str, list[asyncio.Future[T]]] = {}
        self.alarm: asyncio.TimerHandle | None = None

    def fail(self, why: str) -> None:
        """Tell everybody that there will be no answer."""
        for waiting in self.keys.values():
            for future in waiting:
                if not future.done():
                    future.set_exception(UnavailableError(why))
            waiting.clear()


class Reader(Generic[T]):
    """Reads records. Belongs to one event loop.

    Attributes:
        tracks: Whether Redis tells what of that which was read has changed.
        proven: Until when, on the monotonic clock, all changes are known to have been told.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        found: Callable[[str, Found, float], T],
        changed: Changed,
        sent: Callable[[int], None] = lambda _: None,
    ) -> None:
        """A reader that connects when it is started.

        Args:
            settings: Where Redis is, and how long it may take.
            found: Makes of what was found what `read` returns, given the key and the monotonic
                time at which it was asked for. Called in the order in which Redis answers and
                tells changes.
            changed: Called with the keys that have changed; with None when that holds for all,
                or is not known any more.
            sent: Called with the number of keys in each pipeline.
        """
        self.tracks = False
        self.proven = float("-inf")
        self._settings = settings
        self._found = found
        self._changed = changed
        self._sent = sent
        self._wire: Wire | None = None
        self._up = asyncio.Event()
        self._fault = "it was not asked yet"
        self._down_since = float("-inf")
        self._next: deque[_Batch[T]] = deque()
        self._in_flight: deque[_Batch[T]] = deque()
        self._scheduled = False
        self._closing = False  # a cancellation may be lost: asyncio.wait_for in Python 3.11
        self._keeping: asyncio.Task[None] | None = None

    @property
    def is_up(self) -> bool:
        """Whether there is a connection."""
        return self._up.is_set()

    def start(self) -> None:
        """Connect, and stay connected."""
        self._down_since = time.monotonic()
        self._keeping = asyncio.get_running_loop().create_task(self._keep())

    async def close(self) -> None:
        """Close the connection; what is still being read fails."""
        self._closing = True
        if self._keeping is not None:
            self._keeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeping
        for batch in (*self._in_flight, *self._next):
            batch.fail("the service is shutting down")

    def ask(self, key: str) -> list[asyncio.Future[T]]:
        """Have `key` read in the next pipeline, whoever else asks for it.

        Returns:
            Who waits for what is found there, to join.
        """
        batch = self._next[-1] if self._next else None
        if batch is None or (len(batch.keys) >= _BATCH and key not in batch.keys):
            batch = _Batch()
            self._next.append(batch)
            loop = asyncio.get_running_loop()
            batch.alarm = loop.call_later(self._settings.timeout, self._give_up, batch)
            self._schedule()
        return batch.keys.setdefault(key, [])

    async def read(self, key: str) -> T:
        """What was made of that which stands at `key` now.

        Raises:
            UnavailableError: Redis can't answer in time.
        """
        if self._wire is None:
            # For a moment an outage is waited out; then nobody waits for what won't come.
            down = time.monotonic() - self._down_since
            if down >= self._settings.timeout:
                raise UnavailableError(self._fault)
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.ask(key).append(future)
        return await future

    async def ping(self) -> None:
        """See whether Redis answers.

        Raises:
            UnavailableError: it doesn't, in time.
        """
        try:
            async with asyncio.timeout(self._settings.timeout):
                await self._up.wait()
                reply = await cast("Wire", self._wire).ask(_PING)
        except TimeoutError:
            raise UnavailableError(self._late()) from None
        except LostError as error:
            raise UnavailableError(str(error)) from None
        if isinstance(reply, ReplyError):
            raise UnavailableError(str(reply))

    def _late(self) -> str:
        return "Redis did not answer in time" if self.is_up else self._fault

    async def _keep(self) -> None:
        """Connect, watch over the connection until it is lost, and connect again, for ever."""
        least, most = _BACKOFF
        pause = least
        while not self._closing:
            try:
                wire = await Wire.connect(self._settings, self._changed)
            except LostError as error:
                if pause == least:
                    _log.warning("Redis can't be reached: %s", error)
                self._fault = str(error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, most)
                continue
            begun = time.monotonic()
            try:
                self._rise(wire)
                await self._prove(wire)
            finally:
                self._fall(wire)
            if time.monotonic() - begun > most:
                pause = least
            await asyncio.sleep(pause)

    def _rise(self, wire: Wire) -> None:
        self._wire = wire
        self.tracks = wire.tracks
        self._up.set()
        _log.info("connected to Redis; %s", _NEAR if self.tracks else _FAR)
        self._schedule()

    def _fall(self, wire: Wire) -> None:
        wire.close()
        self._wire = None
        self._up.clear()
        self._down_since = time.monotonic()
        self._fault = "the connection was lost"
        self.proven = float("-inf")
        if not self._closing:
            _log.warning("the connection to Redis was lost")
        while self._in_flight:
            self._in_flight.popleft().fail(self._fault)
        self._changed(None)

    async def _prove(self, wire: Wire) -> None:
        """Ping until the connection is lost or doesn't answer within the staleness bound."""
        bound = self._settings.staleness
        while not (wire.lost.done() or self._closing):
            sent = time.monotonic()
            ping = wire.ask(_PING)
            await asyncio.wait((ping,), timeout=bound)
            if not ping.done():
                # Perhaps it was this process that stood still, and the answer is here already.
                await asyncio.wait((ping,), timeout=0.01)
            if not ping.done() or ping.exception() is not None:
                return
            if self.tracks and not isinstance(ping.result(), ReplyError):
                self.proven = sent + bound
            await asyncio.wait((wire.lost,), timeout=bound / _PINGS)

    def _schedule(self) -> None:
        if self._next and not self._scheduled and len(self._in_flight) < _IN_FLIGHT:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        self._scheduled = False
        if self._wire is None or not self._next:
            return
        batch = self._next.popleft()
        self._in_flight.append(batch)
        asked = time.monotonic()
        commands = [_TIME]
        for key in batch.keys:
            name = key.encode()
            commands.append(_READ % (len(name), name, len(name), name))
        self._wire.send(
            b"".join(commands),
            1 + 2 * len(batch.keys),
            lambda replies: self._take(replies, asked),
        )
        self._sent(len(batch.keys))
        self._schedule()

    def _take(self, replies: Sequence[Any], asked: float) -> None:
        batch = self._in_flight.popleft()  # replies come in the order of the commands
        if batch.alarm is not None:
            batch.alarm.cancel()
        self._schedule()
        if isinstance(replies[0], ReplyError):
            batch.fail(str(replies[0]))
            return
        seconds, microseconds = map(int, replies[0])
        now = seconds * 1000 + microseconds // 1000
        for (key, waiting), fields, ttl in zip(
            batch.keys.items(), replies[1::2], replies[2::2], strict=True
        ):
            try:
                result = self._found(key, _found(key, fields, ttl, now), asked)
            except UnavailableError as error:
                for future in waiting:
                    if not future.done():
                        future.set_exception(error)
                continue
            for future in waiting:
                if not future.done():
                    future.set_result(result)

    def _give_up(self, batch: _Batch[T]) -> None:
        """Nobody waits longer; what was sent is answered later, what wasn't is not sent."""
        if batch in self._next:
            self._next.remove(batch)
        batch.fail(self._late())


_NEAR: Final = "it tells what changes, so the near cache is on"
_FAR: Final = "it doesn't tell what changes, so the near cache is off"


def _found(key: str, fields: Any, ttl: Any, now: int) -> Found:
    if isinstance(ttl, ReplyError):
        raise UnavailableError(str(ttl))
    if isinstance(fields, ReplyError):
        if not str(fields).startswith("WRONGTYPE"):
            raise UnavailableError(str(fields))
        return _unreadable(key, "it is no hash", now, ttl)
    if isinstance(fields, list):  # RESP2
        fields = dict(zip(fields[::2], fields[1::2], strict=True))
    if not fields:
        return Found(None, "", now, -2)
    try:
        return Found(Record.from_fields(fields), "", now, ttl)
    except (msgspec.ValidationError, ValueError) as error:
        return _unreadable(key, str(error), now, ttl)


def _unreadable(key: str, fault: str, now: int, ttl: int) -> Found:
    _log.error("%s can't be read: %s", key, fault)
    return Found(None, fault, now, ttl)
