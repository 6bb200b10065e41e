"""Where the records are written: what is said to a server, and what of its answers."""

import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha1
from importlib.resources import files
from typing import Any, ClassVar, Final, Self

import msgspec
from redis import Redis
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.sentinel import MasterNotFoundError, SentinelConnectionPool

from jobstatus.client import client
from jobstatus.settings import StatusSettings
from jobstatus.status import FOLLOWS, OVER, UNFINISHED, JobState, Record, Written, format_progress

SCRIPT: Final = files("jobstatus").joinpath("write.lua").read_text(encoding="utf-8")
"""The atomic write; its header says what it takes and returns."""

SHA: Final = sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()
"""By which name the server knows the script, once it was loaded."""

OUTAGE: Final = (RedisError, OSError)
"""What any trouble with Redis raises."""

_FOLLOWS = {state: f" {' '.join(sorted(may))} " for state, may in FOLLOWS.items()}
_RUNNING = _FOLLOWS[JobState.IN_PROGRESS]
_UNFINISHED = f" {' '.join(sorted(UNFINISHED))} "
_OVER = f" {' '.join(sorted(OVER))} "
_PACKED = (
    b"*5\r\n$7\r\nEVALSHA\r\n$40\r\n" + SHA.encode() + b"\r\n$1\r\n1\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n"
)
PRIMARY_FOR: Final = 1.0
"""Seconds for which a primary is believed to be it, where there are Sentinels to ask."""

_FEW: Final = 16
"""Replies for which it isn't worth telling the kernel to wait."""

_WINDOW: Final = 16_384
"""Bytes that a socket's buffer surely holds."""

_encode = msgspec.msgpack.Encoder().encode
_PASSING = (
    "OOM",
    "READONLY",
    "LOADING",
    "BUSY",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "MOVED",
    "ASK",
    "MISCONF",
)


_CODES: Final[dict[type[Exception], str]] = {
    ReadOnlyError: "READONLY",
    OutOfMemoryError: "OOM",
    MasterDownError: "MASTERDOWN",
    ClusterDownError: "CLUSTERDOWN",
    TryAgainError: "TRYAGAIN",
    MovedError: "MOVED",
    AskError: "ASK",
}
"""Of which codes the classes of redis-py tell; which ones it knows differs from 5 to 8."""


class Write(msgspec.Struct, frozen=True, gc=False):
    """One record on its way to Redis.

    Attributes:
        key: The job's key.
        record: The whole record.
        ttl: ms for which the key is kept.
        lease: ms for which `in_progress` may be believed; 0 in other states.
    """

    key: str
    record: Record
    ttl: int
    lease: int = 0

    def command(self) -> tuple[str | bytes | int, ...]:
        """The write as one command, for a transaction of somebody else's.

        The server must know the script (`SCRIPT LOAD`), or the write is refused.
        """
        return ("EVALSHA", SHA, 1, self.key, self._argument())

    def packed(self) -> bytes:
        """The same in RESP, as it goes over the wire."""
        key, argument = self.key.encode(), self._argument()
        return _PACKED % (len(key), key, len(argument), argument)

    def _argument(self) -> bytes:
        record = self.record
        state = record.state
        return _encode(
            (
                record.created,
                record.attempt,
                state,
                record.name,
                record.reason,
                format_progress(record.progress),
                self.lease,
                self.ttl,
                # An enum's hash is slow, and this is what is written most.
                _RUNNING if state is JobState.IN_PROGRESS else _FOLLOWS[state],
                _UNFINISHED,
                _OVER,
            )
        )


class Refused(msgspec.Struct, frozen=True):
    """Redis wouldn't do one write.

    Attributes:
        why: In Redis's words.
        will_pass: Whether it is worth trying again: Redis is full, loading, a replica now. It
            isn't where something else than a record stands at the key, or the user may not.
    """

    why: str
    will_pass: bool


class Run(msgspec.Struct, frozen=True):
    """What a record says about who wrote it: which run and attempt, and how it stands."""

    FIELDS: ClassVar = ("created", "attempt", "state", "name")

    created: int
    attempt: int
    state: str
    name: str

    @classmethod
    def of(cls, record: Record) -> Self:
        """The run of a record that is being written."""
        return cls(record.created, record.attempt, record.state, record.name)

    @classmethod
    def from_fields(cls, values: Any) -> "Run | None":
        """Read the values of `FIELDS`; None where they can't be read."""
        try:
            created, attempt, state, name = values
            return cls(int(created), int(attempt), state.decode(), name.decode())
        except (TypeError, ValueError, AttributeError):
            return None


class Store:
    """Writes records through one client, in one pipeline however many there are.

    Not for two threads at once. Every method raises what `OUTAGE` names when Redis can't answer.

    Attributes:
        is_replaced: Whether another server may have taken over, without the last writes; whoever
            heeds it sets it back.
    """

    def __init__(self, client: "Redis") -> None:
        self._redis: Any = client  # redis-py types sync and async as one
        pool: Any = client.connection_pool
        self._sentinels: Any = pool if isinstance(pool, SentinelConnectionPool) else None
        self._asked = float("-inf")
        self.is_replaced = False

    @classmethod
    def from_settings(cls, settings: StatusSettings) -> Self:
        """A store at the URL of the settings. It connects when it is first used.

        Raises:
            SettingsError: the URL can't be used.
        """
        return cls(client(settings))

    def write(self, writes: Sequence[Write]) -> list[Written | Refused]:
        """Write all records in one round trip; each has its own result."""
        return [result_of(reply) for reply in self.send([write.packed() for write in writes])]

    def send(self, packed: Sequence[bytes]) -> list[Any]:
        """Send commands in RESP, and read all replies; errors of single ones are replies."""
        replies = self._exchange(packed)
        if any(isinstance(reply, NoScriptError) for reply in replies):
            # The server is new to us, or was restarted. Writing twice changes nothing.
            self._redis.script_load(SCRIPT)
            replies = self._exchange(packed)
        return replies

    def _exchange(self, packed: Sequence[bytes]) -> list[Any]:
        """Send all at once. redis-py's own pipeline does the same, at three times the CPU."""
        self._stay_with_the_primary()
        pool = self._redis.connection_pool
        connection = pool.get_connection()
        try:
            connection.send_packed_command([b"".join(packed)])
            with _all_at_once(connection, len(packed)):
                first = _reply(connection)
            return [first, *(_reply(connection) for _ in packed[1:])]
        except BaseException:
            connection.disconnect()  # replies may still be on their way
            raise
        finally:
            pool.release(connection)

    def _stay_with_the_primary(self) -> None:
        """Ask the Sentinels now and then: a primary that was replaced may not know it.

        Raises:
            ConnectionError: it was replaced; what was written to it last may be lost.
        """
        if self._sentinels is None or time.monotonic() - self._asked < PRIMARY_FOR:
            return
        before = self._sentinels.master_address
        self._asked = time.monotonic()
        try:
            now = self._sentinels.get_master_address()  # it leaves the old one, too
        except MasterNotFoundError:
            if before is None:
                raise
            return  # no Sentinel names another one
        if before not in {None, now}:
            raise ConnectionError(f"another primary has taken over: {now}")

    def runs(self, keys: Sequence[str]) -> "list[Run | Refused | None]":
        """The run that stands at each key, or None where no readable record is."""
        with self._redis.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.hmget(key, list(Run.FIELDS))
            replies = pipe.execute(raise_on_error=False)
        for reply in replies:
            if isinstance(reply, ResponseError) and will_pass(reply):
                raise reply
        return [Run.from_fields(reply) for reply in replies]

    def close(self) -> None:
        """Close every connection."""
        self._redis.close()
        for sentinel in self._sentinels.sentinel_manager.sentinels if self._sentinels else ():
            sentinel.close()


def result_of(reply: Any) -> Written | Refused:
    """What the reply to a write says."""
    if isinstance(reply, ResponseError):
        return Refused(in_words(reply), will_pass(reply))
    return Written(reply)


def in_words(error: ResponseError) -> str:
    """What Redis said, its code first: redis-py strips that of errors that it has a class for."""
    text = str(error)
    code = next((code for kind, code in _CODES.items() if type(error) is kind), "")
    return text if text.startswith(code) else f"{code} {text}"


def will_pass(error: ResponseError) -> bool:
    """Whether what Redis says will be over some time: full, loading, a replica now, elsewhere."""
    return in_words(error).startswith(_PASSING)


def _reply(connection: Any) -> Any:
    try:
        return connection.read_response()
    except ResponseError as error:
        return error


@contextmanager
def _all_at_once(connection: Any, replies: int) -> Iterator[None]:
    """Sleep until all replies are there, instead of waking for every few of them.

    A reply, such as `:1`, has four bytes at least, so the kernel may wait for that many. Not
    over TLS, which reads records.
    """
    sock = getattr(connection, "_sock", None)
    if type(sock) is not socket.socket or replies < _FEW:
        yield
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, min(4 * replies, _WINDOW))
    try:
        yield
    finally:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
