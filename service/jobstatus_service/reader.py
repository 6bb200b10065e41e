"""Where the records are read: the one module of the service that talks to Redis.

All reads that arrive in one turn of the event loop go out as one pipeline, and one key is asked
once however many ask for it.
"""

import asyncio
import contextlib
import logging
from typing import Any, Final, Self

import msgspec
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError

from jobstatus.status import Record
from jobstatus.store import DEFAULT_URL, OUTAGE, client_options
from jobstatus_service.found import Found
from jobstatus_service.settings import ServiceSettings

_IN_FLIGHT: Final = 4
"""Pipelines on their way at once; what arrives meanwhile shares the next one."""

_BATCH: Final = 1000
"""Keys in one pipeline at most, so that no reply is long in coming."""

_log = logging.getLogger("jobstatus.service")


class UnavailableError(Exception):
    """Redis can't answer in time."""


class Reader:
    """Reads records, in batches. Belongs to one event loop."""

    def __init__(self, client: "Redis", timeout: float) -> None:
        self._redis: Any = client
        self._timeout = timeout
        self._waiting: dict[str, asyncio.Future[Found]] = {}
        self._in_flight: set[asyncio.Task[None]] = set()
        self._scheduled = False

    @classmethod
    def from_settings(cls, settings: ServiceSettings) -> Self:
        """A reader at the URL of the settings. It connects when it is first asked."""
        options = client_options(settings) | {
            "client_name": "jobstatus-service",
            "decode_responses": True,
            "encoding_errors": "replace",
            "retry": Retry(NoBackoff(), 0),
        }
        url = settings.redis_url or DEFAULT_URL
        return cls(Redis.from_url(url, **options), settings.timeout)

    async def read(self, key: str) -> Found:
        """What stands at `key`.

        Raises:
            UnavailableError: Redis can't answer in time.
        """
        future = self._waiting.get(key)
        if future is None:
            future = asyncio.get_running_loop().create_future()
            self._waiting[key] = future
            self._schedule()
        try:
            async with asyncio.timeout(self._timeout):
                return await asyncio.shield(future)
        except TimeoutError:
            raise UnavailableError("Redis did not answer in time") from None

    async def ping(self) -> None:
        """See whether Redis answers.

        Raises:
            UnavailableError: it doesn't, in time.
        """
        try:
            async with asyncio.timeout(self._timeout):
                await self._redis.ping()
        except (*OUTAGE, TimeoutError) as error:
            raise UnavailableError(str(error) or "Redis did not answer in time") from None

    async def close(self) -> None:
        """Close every connection; what is still being read fails."""
        for task in self._in_flight:
            task.cancel()
        with contextlib.suppress(*OUTAGE):
            await self._redis.aclose()

    def _schedule(self) -> None:
        if not self._scheduled and len(self._in_flight) < _IN_FLIGHT:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        self._scheduled = False
        keys = list(self._waiting)[:_BATCH]
        batch = {key: self._waiting.pop(key) for key in keys}
        task = asyncio.get_running_loop().create_task(self._fetch(batch))
        self._in_flight.add(task)
        task.add_done_callback(self._sent)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._in_flight.discard(task)
        if self._waiting:
            self._schedule()

    async def _fetch(self, batch: dict[str, asyncio.Future[Found]]) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                time, *replies = await self._ask(list(batch))
            now = int(time[0]) * 1000 + int(time[1]) // 1000
            for number, (key, future) in enumerate(batch.items()):
                fields, ttl = replies[2 * number : 2 * number + 2]
                if not future.done():
                    future.set_result(_found(key, fields, ttl, now))
        except BaseException as error:
            reason = str(error) or "Redis did not answer in time"
            for future in batch.values():
                if not future.done():
                    future.set_exception(UnavailableError(reason))
                    future.exception()  # whoever asked may have gone
            if not isinstance(error, (*OUTAGE, TimeoutError)):
                raise

    async def _ask(self, keys: list[str]) -> Any:
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.time()
            for key in keys:
                pipe.hgetall(key)
                pipe.pttl(key)
            replies = await pipe.execute(raise_on_error=False)
        if isinstance(replies[0], Exception):
            raise replies[0]
        return replies


def _found(key: str, fields: Any, ttl: Any, now: int) -> Found:
    if isinstance(fields, ResponseError):
        if "WRONGTYPE" not in str(fields):
            raise fields
        return _unreadable(key, "it is no hash", now)
    if not fields:
        return Found(None, "", now, -2)
    try:
        return Found(Record.from_fields(fields), "", now, int(ttl))
    except (msgspec.ValidationError, ValueError) as error:
        return _unreadable(key, str(error), now)


def _unreadable(key: str, fault: str, now: int) -> Found:
    _log.error("%s can't be read: %s", key, fault)
    return Found(None, fault, now, -1)
