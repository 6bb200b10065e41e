"""Where the records are written: what is said to a server, and what of its answers."""

import re
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha1
from importlib.resources import files
from typing import Any, ClassVar, Final, Self

import msgspec
from msgspec.structs import replace
from redis import Redis
from redis.exceptions import (
    AskError,
    AuthenticationError,
    ClusterDownError,
    ExecAbortError,
    MasterDownError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.sentinel import MasterNotFoundError, SentinelConnectionPool

from jobstatus.settings import StatusSettings
from jobstatus.status import (
    ALLOWED_PREDECESSORS,
    FINAL_STATES,
    UNFINISHED_STATES,
    JobState,
    Record,
    WriteResult,
    format_progress,
)
from jobstatus.storage.client import client

SCRIPT: Final = files("jobstatus.storage").joinpath("write.lua").read_text(encoding="utf-8")
"""The atomic write; its header says what it takes and returns."""

SHA: Final = sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()
"""By which name the server knows the script, once it was loaded."""

REDIS_ERRORS: Final = (RedisError, OSError)
"""What any trouble with Redis raises."""

TIMEOUT_ERRORS: Final = (TimeoutError, RedisTimeoutError)
"""What is raised when Redis doesn't answer in time."""

_FOLLOWS = {state: f" {' '.join(sorted(may))} " for state, may in ALLOWED_PREDECESSORS.items()}
_RUNNING = _FOLLOWS[JobState.IN_PROGRESS]
_UNFINISHED = f" {' '.join(sorted(UNFINISHED_STATES))} "
_OVER = f" {' '.join(sorted(FINAL_STATES))} "
_EVALSHA = b"$7\r\nEVALSHA\r\n$40\r\n" + SHA.encode()
_EVAL = b"$4\r\nEVAL\r\n$%d\r\n%b" % (len(SCRIPT.encode()), SCRIPT.encode())
_PACKED = b"*5\r\n" + _EVALSHA + b"\r\n$1\r\n1\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n"

_CODES_OF_RESULTS: Final = 8
"""By what the script multiplies the server's time in its reply, to which it adds what it did."""

_RESULTS: Final = tuple(sorted(WriteResult))

_SCRIPT_LOADS: Final = 4
"""Times that the script is loaded for one exchange: behind a proxy there may be several servers."""

PRIMARY_CHECK_SECONDS: Final = 1.0
"""Seconds for which a primary is believed to be it, where there are Sentinels to ask."""

_FEW: Final = 16
"""Replies for which it isn't worth telling the kernel to wait."""

_WINDOW: Final = 16_384
"""Bytes that a socket's buffer surely holds."""

_encode = msgspec.msgpack.Encoder().encode

_FINAL: Final = (
    "WRONGTYPE",
    "wrong number of arguments",
    "syntax error",
    "Protocol error",
    "the TTL is not positive",
)
"""How a refusal starts (after ERR) that no later attempt can change: something else than a record
is stored at the key, or the command itself is malformed. Every other refusal may end: a replica
that restarts (NOREPLICAS), rights that are loaded again (NOPERM), a proxy without its backend."""

_CODE = re.compile(r"-?([A-Z]{2,})\b")

_CODES: Final[dict[type[Exception], str]] = {
    ReadOnlyError: "READONLY",
    OutOfMemoryError: "OOM",
    MasterDownError: "MASTERDOWN",
    ClusterDownError: "CLUSTERDOWN",
    TryAgainError: "TRYAGAIN",
    MovedError: "MOVED",
    AskError: "ASK",
    ExecAbortError: "EXECABORT",
    NoPermissionError: "NOPERM",
}
"""Of which codes the classes of redis-py tell; which ones it knows differs from 5 to 8."""


class Write(msgspec.Struct, frozen=True, gc=False):
    """One record on its way to Redis.

    Attributes:
        key: The job's key.
        record: The whole record.
        ttl: ms for which the key is kept, from `happened` on.
        lease: ms for which `in_progress` may be believed; 0 in other states.
        begun: When the run or attempt began, on the monotonic clock; None: when it is sent.
        happened: When that happened which the write reports, on the monotonic clock; None: what it
            reports is true when it is sent.
        is_run_known: Whether `record.created` names the run; otherwise `join` finds out which.
        is_repeat: Whether it was written before, and is written again after an outage.
        span: What the write is a child of, where there are traces.
    """

    key: str
    record: Record
    ttl: int
    lease: int = 0
    began_at: float | None = None
    happened: float | None = None
    is_run_known: bool = True
    is_rewrite: bool = False
    span: Any = None

    def join(
        self, run: "Run | None", taken: int | None = None, *, is_taken_over: bool = False
    ) -> "Write | None":
        """The same write with its run, as the stored record tells it; None: it comes too late.

        An attempt belongs to the unfinished run that waits for it. A `pending` report changes
        nothing where a run is unfinished: its job has begun already. Otherwise this is a run of
        its own, which the stored record must not be mistaken for.

        Args:
            run: The run of the stored record, if there is a readable one.
            taken: The run of an earlier attempt of this process, whose end isn't stored yet.
            is_taken_over: Whether that attempt has ended.
        """
        record = self.record
        if run is not None:
            is_unfinished, is_taken = run.state in UNFINISHED_STATES, run.created == taken
            if is_unfinished and run.attempt < record.attempt and not is_taken:
                created = run.created
            elif is_unfinished and record.attempt == 0 and not (is_taken and is_taken_over):
                return None
            else:
                created = max(record.created, run.created + 1)
            record = replace(record, created=created, name=record.name or run.name)
        return replace(self, record=record, is_run_known=True)

    def is_expired(self, now: float) -> bool:
        """Whether the record would have expired by now (on the monotonic clock)."""
        return 0 < self.ttl <= _age(self.happened, now)

    def command(self) -> tuple[str | bytes | int, ...]:
        """The write as one command that is sent now, for a transaction of somebody else's.

        The server must know the script (`SCRIPT LOAD`), or the write is refused.
        """
        return ("EVALSHA", SHA, 1, self.key, self._argument(time.monotonic()))

    def packed(self, now: float, server_ms: int = 0) -> bytes:
        """The same in RESP.

        Args:
            now: When it is sent, on the monotonic clock.
            server_ms: The same by the server's clock, in ms since the epoch; 0: unknown.
        """
        key, argument = self.key.encode(), self._argument(now, server_ms)
        return _PACKED % (len(key), key, len(argument), argument)

    def _argument(self, now: float, server_ms: int = 0) -> bytes:
        record = self.record
        # Not by calls of `_age`: this is done for every report of every job.
        news_age = 0 if self.happened is None else max(0, int(1000 * (now - self.happened)))
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
                self.ttl - news_age if news_age < self.ttl else min(self.ttl, 1),
                # An enum's hash is slow, and this is what is written most.
                _RUNNING if state is JobState.IN_PROGRESS else _FOLLOWS[state],
                _UNFINISHED,
                _OVER,
                0 if self.began_at is None else max(0, int(1000 * (now - self.began_at))),
                news_age,
                server_ms,
            )
        )


def _age(since: float | None, now: float) -> int:
    """Whole ms from `since` to `now`; 0 for None."""
    return 0 if since is None else max(0, int(1000 * (now - since)))


class Refusal(msgspec.Struct, frozen=True):
    """Redis wouldn't do one write.

    Attributes:
        why: In Redis's words.
        is_final: Whether no later attempt can succeed.
    """

    why: str
    is_permanent: bool

    @property
    def kind(self) -> str:
        """The error code, such as NOREPLICAS; `other` where there is none, as from a proxy."""
        found = _CODE.match(self.why)
        return found[1] if found is not None else "other"


class Run(msgspec.Struct, frozen=True):
    """What a record says about who wrote it: its run and attempt, its state, the run before."""

    FIELDS: ClassVar = ("created", "attempt", "state", "name", "previous")

    created: int
    attempt: int
    state: str
    name: str
    previous: int = 0

    @classmethod
    def of(cls, record: Record) -> Self:
        """The run of a record that is being written."""
        return cls(record.created, record.attempt, record.state, record.name)

    @classmethod
    def from_fields(cls, values: Any) -> "Run | None":
        """Read the values of `FIELDS`; None where they can't be read."""
        try:
            created, attempt, state, name, previous = values
            run = int(created), int(attempt), state.decode(), name.decode()
            return cls(*run, int(previous or 0))
        except (TypeError, ValueError, AttributeError):
            return None


_READ_RUN = (b"*%d\r\n$5\r\nHMGET\r\n$%%d\r\n%%b\r\n" % (2 + len(Run.FIELDS))) + b"".join(
    b"$%d\r\n%b\r\n" % (len(field), field.encode()) for field in Run.FIELDS
)


class Store:
    """Writes records through one client, in one pipeline however many there are.

    Not for two threads at once. Every method raises one of `REDIS_ERRORS` when Redis can't answer.

    Attributes:
        is_replaced: Whether another server may have taken over, without the last writes; whoever
            heeds it sets it back.
    """

    def __init__(self, client: "Redis") -> None:
        self._redis: Any = client  # redis-py types sync and async as one
        pool: Any = client.connection_pool
        self._sentinels: Any = pool if isinstance(pool, SentinelConnectionPool) else None
        self._asked = float("-inf")
        self._offset_ms: float | None = None
        self.is_replaced = False

    @classmethod
    def from_settings(cls, settings: StatusSettings) -> Self:
        """A store at the URL of the settings. It connects when it is first used.

        Raises:
            SettingsError: the URL can't be used.
        """
        return cls(client(settings))

    def write(self, writes: Sequence[Write]) -> list[WriteResult | Refusal]:
        """Write all records in one round trip; each has its own result."""
        now = time.monotonic()
        server_ms = self.server_ms(now)
        replies = self.send([write.packed(now, server_ms) for write in writes])
        self.learn_time(replies, now)
        return [
            _RESULTS[reply % _CODES_OF_RESULTS] if reply.__class__ is int else result_of(reply)
            for reply in replies
        ]

    def server_ms(self, now: float) -> int:
        """The server's time at `now` (on the monotonic clock), in ms; 0 where it isn't known.

        Rather too late than too early, by as long as the quickest exchange has taken.
        """
        return 0 if self._offset_ms is None else int(1000 * now + self._offset_ms)

    def learn_time(self, replies: Sequence[Any], sent: float) -> None:
        """Learn the server's time from the replies to writes that were sent at `sent`."""
        reply = next((each for each in reversed(replies) if isinstance(each, int)), None)
        if reply is None:
            return
        server_ms = reply // _CODES_OF_RESULTS
        latest, earliest = server_ms - 1000 * sent, server_ms - 1000 * time.monotonic()
        if self._offset_ms is None or earliest > self._offset_ms:  # its clock was set forward
            self._offset_ms = latest
        self._offset_ms = min(self._offset_ms, latest)

    def send(self, packed: Sequence[bytes]) -> list[Any]:
        """Send commands in RESP, and read all replies; errors of single ones are replies."""
        replies = self._exchange(packed)
        for _ in range(_SCRIPT_LOADS):
            unknown = [n for n, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
            if not unknown:
                break
            # The server is new to us, or was restarted. Writing twice changes nothing.
            self._load_script(packed[unknown[0]])
            replies = self._exchange(packed)
        return replies

    def _load_script(self, packed: bytes) -> None:
        """Have the server know the script.

        A proxy may close the connection on SCRIPT LOAD, as twemproxy does. EVAL, with one of the
        writes, goes to the server behind it that didn't know the script.

        Args:
            packed: A write to that server.

        Raises:
            RedisError: it can't be loaded.
        """
        try:
            self._redis.script_load(SCRIPT)
        except RedisConnectionError:
            self._exchange([packed.replace(_EVALSHA, _EVAL, 1)])

    def _exchange(self, packed: Sequence[bytes]) -> list[Any]:
        """Send all at once. redis-py's own pipeline does the same, at three times the CPU."""
        self._stay_with_the_primary()
        pool = self._redis.connection_pool
        connection = self._connection(pool)
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

    @staticmethod
    def _connection(pool: Any) -> Any:
        """A connection of the pool; without a name, if a proxy closes it on CLIENT SETNAME."""
        try:
            return pool.get_connection()
        except AuthenticationError:
            raise
        except RedisConnectionError:
            name = pool.connection_kwargs.pop("client_name", None)
            if name is None:
                raise
            pool.reset()  # it keeps the connection that could not be made, with its name
            try:
                return pool.get_connection()
            except BaseException:
                pool.connection_kwargs["client_name"] = name
                pool.reset()
                raise

    def _stay_with_the_primary(self) -> None:
        """Ask the Sentinels now and then: a primary that was replaced may not know it.

        Raises:
            ConnectionError: it was replaced; what was written to it last may be lost.
        """
        if self._sentinels is None or time.monotonic() - self._asked < PRIMARY_CHECK_SECONDS:
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
            self._offset_ms = None  # it has a clock of its own
            raise ConnectionError(f"another primary has taken over: {now}")

    def runs(self, keys: Sequence[str]) -> "list[Run | Refusal | None]":
        """The run that stands at each key, or None where no readable record is."""
        names = [key.encode() for key in keys]
        replies = self._exchange([_READ_RUN % (len(name), name) for name in names])
        return [
            Refusal(error_text(reply), is_permanent=False)
            if isinstance(reply, ResponseError) and not is_permanent(reply)
            else Run.from_fields(reply)
            for reply in replies
        ]

    def close(self) -> None:
        """Close every connection."""
        self._redis.close()
        for sentinel in self._sentinels.sentinel_manager.sentinels if self._sentinels else ():
            sentinel.close()


def result_of(reply: Any) -> WriteResult | Refusal:
    """What the reply to a write says."""
    return refusal_of(reply) or _RESULTS[reply % _CODES_OF_RESULTS]


def refusal_of(error: BaseException | None) -> Refusal | None:
    """What an error says, if Redis has answered with it; None for an outage."""
    if isinstance(error, ResponseError):
        return Refusal(error_text(error), is_permanent(error))
    return None


def error_text(error: ResponseError) -> str:
    """Redis's error with its code first: redis-py strips the code of errors it has a class for.

    What redis-py puts before it in a pipeline, the command with all its arguments, is left out.
    """
    text = str(error)
    if text.startswith("Command # "):
        text = text.partition(" of pipeline caused error: ")[2] or text
    code = next((code for kind, code in _CODES.items() if type(error) is kind), "")
    return text if text.startswith(code) else f"{code} {text}"


def is_permanent(error: ResponseError) -> bool:
    """Whether no later attempt at the command can succeed."""
    text = error_text(error)
    # Redis 6 wraps the errors of scripts in its own words.
    return text.removeprefix("ERR ").startswith(_FINAL) or "WRONGTYPE" in text


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
        with suppress(OSError):  # redis-py has closed it, since the replies were late
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
