"""Read records in batches, from one server.

All keys that are requested in one turn of the event loop are sent as one pipeline. A key is read
once per pipeline, even if many clients request it.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from jobstatus_service.settings import ServiceSettings
from jobstatus_service.storage.batch import Batch, Waiters, fail, parse_record
from jobstatus_service.storage.connection import OnInvalidation, ReplyError
from jobstatus_service.storage.link import Link, UnavailableError
from jobstatus_service.storage.redis_endpoints import Endpoint
from jobstatus_service.storage.stored_record import StoredRecord

_MAX_PIPELINES_IN_FLIGHT: Final = 2
"""Pipelines that wait for replies at once. Keys requested meanwhile share the next pipeline."""

_MULTI_COMMAND: Final = b"*1\r\n$5\r\nMULTI\r\n"
_EXEC_COMMAND: Final = b"*1\r\n$4\r\nEXEC\r\n"

_MAX_KEYS_PER_PIPELINE: Final = 1000
"""The limit keeps the time until the first reply short."""

MakeResponse = Callable[[str, StoredRecord, float, Link | None], Any]
"""Make the response that `Reader.read` returns.

Called with the key, what is stored there, the monotonic time at which the read was sent, and the
link that reports the key's next change. The link is None where the change would not be reported.
"""

FollowRedirect = Callable[[str, Waiters, str], bool]
"""Read a key from the node that a Cluster's redirect names, for the same waiters.

Called with the key, its waiters and Redis's error; returns False if the error is not a redirect.
"""


class Reader:
    """Reads the records of one server. Belongs to one event loop.

    Attributes:
        link: Keeps the connection to the server open.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        settings: ServiceSettings,
        make_response: MakeResponse,
        on_invalidation: OnInvalidation,
        on_sent: Callable[[int], None] = lambda _: None,
        follow_redirect: FollowRedirect | None = None,
    ) -> None:
        """Prepare a reader. Call `start` to connect it.

        Args:
            endpoint: The server to read from.
            settings: The timeouts and the staleness bound.
            make_response: Called for each key, in the order in which Redis sends replies and
                invalidations.
            on_invalidation: Called with the keys that have changed; with None when any key may
                have changed.
            on_sent: Called with the number of keys in each pipeline.
            follow_redirect: Called with each error that may be a Cluster's redirect.
        """
        self.link = Link(
            endpoint, settings, on_invalidation, self._schedule_send, self._fail_in_flight
        )
        self._timeout = settings.timeout
        self._make_response = make_response
        self._on_sent = on_sent
        self._follow_redirect = follow_redirect
        self._queued: deque[Batch] = deque()
        self._in_flight: deque[Batch] = deque()
        self._is_send_scheduled = False

    def start(self) -> None:
        """Connect, and reconnect whenever the connection is lost."""
        self.link.start()

    @property
    def links(self) -> list[Link]:
        """The links of this reader: exactly one."""
        return [self.link]

    def link_of(self, key: str) -> Link | None:
        """Return the link over which a key is read."""
        del key
        return self.link

    async def close(self) -> None:
        """Close the link. Pending reads raise `UnavailableError`."""
        await self.link.close()
        for batch in self._queued:
            batch.fail("the service is shutting down")

    def request(self, key: str, *, is_redirected: bool = False) -> Waiters:
        """Read a key with the next pipeline, and pass the result to `make_response`.

        Args:
            key: The key.
            is_redirected: Whether an ASK redirect of a Cluster sent the key to this node.

        Returns:
            The key's waiters; append a future to receive the response.
        """
        batch = self._queued[-1] if self._queued else None
        if batch is None or (
            len(batch.waiters) >= _MAX_KEYS_PER_PIPELINE and key not in batch.waiters
        ):
            batch = Batch()
            self._queued.append(batch)
            loop = asyncio.get_running_loop()
            batch.timeout = loop.call_later(self._timeout, self._time_out, batch)
            self._schedule_send()
        if is_redirected:
            batch.redirected.add(key)
        return batch.waiters.setdefault(key, [])

    async def read(self, key: str) -> Any:
        """Read a key.

        Returns:
            What `make_response` returned.

        Raises:
            UnavailableError: Redis does not answer in time.
        """
        if self.link.is_down_for(self._timeout):
            # A shorter outage is waited out below. In a longer one, fail at once.
            raise UnavailableError(self.link.fault)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.request(key).append(future)
        return await future

    async def execute(
        self, key: str, commands: Sequence[bytes], *, is_transaction: bool = False
    ) -> list[Any]:
        """Send other commands than reads of records; return their replies, with strings as bytes.

        Args:
            key: One of their keys; all belong to one slot.
            commands: The commands, encoded in RESP.
            is_transaction: Whether Redis is to execute them at one moment.

        Raises:
            UnavailableError: Redis does not answer in time, or refuses a command.
        """
        del key
        replies = await self.exchange(commands, is_transaction=is_transaction)
        for reply in replies:
            if isinstance(reply, ReplyError):
                raise UnavailableError(str(reply))
        return replies

    async def exchange(
        self, commands: Sequence[bytes], *, is_transaction: bool = False
    ) -> list[Any]:
        """Do the same as `execute`, except that an error of a command is its reply.

        A transaction that is refused as a whole has one reply, which is an error.
        """
        if self.link.is_down_for(self._timeout):
            raise UnavailableError(self.link.fault)
        sent = [_MULTI_COMMAND, *commands, _EXEC_COMMAND] if is_transaction else commands
        future: asyncio.Future[Sequence[Any]] = asyncio.get_running_loop().create_future()

        def on_replies(replies: Sequence[Any]) -> None:
            if not future.done():
                future.set_result(replies)

        try:
            async with asyncio.timeout(self._timeout):
                connection = await self.link.connected()
                if is_transaction and not connection.has_time:
                    # It would close the connection, over which all jobs are read.
                    raise UnavailableError("the proxy of Redis forwards no transactions")
                connection.send_pipeline(b"".join(sent), len(sent), on_replies, is_binary=True)
                await asyncio.wait((future, connection.lost), return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            raise UnavailableError(self.link.timeout_reason()) from None
        if not future.done():
            raise UnavailableError(self.link.fault)
        replies = future.result()
        if not is_transaction:
            return list(replies)
        refused = next((reply for reply in replies if isinstance(reply, ReplyError)), None)
        return list(replies[-1]) if refused is None else [refused]

    def _schedule_send(self) -> None:
        if (
            self._queued
            and not self._is_send_scheduled
            and len(self._in_flight) < _MAX_PIPELINES_IN_FLIGHT
        ):
            self._is_send_scheduled = True
            asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        self._is_send_scheduled = False
        connection = self.link.connection
        if connection is None or not self._queued:
            return
        batch = self._queued.popleft()
        self._in_flight.append(batch)
        sent_at, has_time = time.monotonic(), connection.has_time
        commands, reply_count = batch.commands(has_time=has_time)
        connection.send_pipeline(
            commands,
            reply_count,
            lambda replies: self._receive(replies, sent_at, has_time=has_time),
        )
        self._on_sent(len(batch.waiters))
        self._schedule_send()

    def _receive(self, replies: Sequence[Any], sent_at: float, *, has_time: bool) -> None:
        batch = self._in_flight.popleft()  # replies come in the order of the commands
        if batch.timeout is not None:
            batch.timeout.cancel()
        self._schedule_send()
        remaining = iter(replies)
        if has_time:
            time_reply = next(remaining)
            if isinstance(time_reply, ReplyError):
                batch.fail(str(time_reply))
                return
            seconds, microseconds = map(int, time_reply)
            now_ms = seconds * 1000 + microseconds // 1000
        else:  # a proxy does not forward TIME: use this machine's clock
            now_ms = time.time_ns() // 1_000_000
        for key, waiters in batch.waiters.items():
            link: Link | None = self.link
            if key in batch.redirected:
                next(remaining)  # the reply to the ASKING before HGETALL
                fields = next(remaining)
                next(remaining)  # the reply to the ASKING before PTTL
                ttl_ms = next(remaining)
                link = None  # Redis does not report every change of a key whose slot is being moved
            else:
                fields = next(remaining)
                ttl_ms = next(remaining)
            error = fields if isinstance(fields, ReplyError) else ttl_ms
            if (
                isinstance(error, ReplyError)
                and self._follow_redirect is not None
                and self._follow_redirect(key, waiters, str(error))
            ):
                continue
            try:
                stored = parse_record(key, fields, ttl_ms, now_ms)
                response = self._make_response(key, stored, sent_at, link)
            except UnavailableError as unavailable:
                fail(waiters, str(unavailable))
                continue
            for future in waiters:
                if not future.done():
                    future.set_result(response)

    def _time_out(self, batch: Batch) -> None:
        """Fail a batch that was not answered in time; do not send it any more.

        If it was sent already, its late replies are still passed to `make_response`.
        """
        if batch in self._queued:
            self._queued.remove(batch)
        batch.fail(self.link.timeout_reason())

    def _fail_in_flight(self, reason: str) -> None:
        """Fail what was sent over a lost connection. Queued batches wait for the next one."""
        while self._in_flight:
            self._in_flight.popleft().fail(reason)
