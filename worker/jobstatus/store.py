"""Where the records are written: the one module of this package that talks to Redis."""

from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import Any, ClassVar, Final, Self

import msgspec
from redis import ConnectionPool, Redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    ClusterDownError,
    MasterDownError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.retry import Retry

from jobstatus.errors import SettingsError
from jobstatus.settings import StatusSettings
from jobstatus.status import FOLLOWS, OVER, UNFINISHED, Record, Written, format_progress

SCRIPT: Final = files("jobstatus").joinpath("write.lua").read_text(encoding="utf-8")
"""The atomic write; its header says what it takes and returns."""

DEFAULT_URL: Final = "redis://127.0.0.1:6379/0"

OUTAGE: Final = (RedisError, OSError)
"""What any trouble with Redis raises."""

_FOLLOWS = {state: f" {' '.join(sorted(may))} " for state, may in FOLLOWS.items()}
_UNFINISHED = f" {' '.join(sorted(UNFINISHED))} "
_OVER = f" {' '.join(sorted(OVER))} "
_PASSING = (
    "OOM",
    "READONLY",
    "LOADING",
    "BUSY",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "MISCONF",
)


class Write(msgspec.Struct, frozen=True):
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

    def args(self) -> tuple[str | int, ...]:
        """KEYS and ARGV of the script."""
        record = self.record
        return (
            self.key,
            record.created,
            record.attempt,
            record.state.value,
            record.name,
            record.reason,
            format_progress(record.progress),
            self.lease,
            self.ttl,
            _FOLLOWS[record.state],
            _UNFINISHED,
            _OVER,
        )

    def eval_command(self) -> tuple[str | int, ...]:
        """The write as one EVAL, for a transaction of somebody else's."""
        return ("EVAL", SCRIPT, 1, *self.args())


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


def check_url(settings: StatusSettings) -> str:
    """The URL of the settings, which redis-py can use.

    Raises:
        SettingsError: it can't.
    """
    url = settings.redis_url or DEFAULT_URL
    try:
        connection: Any = ConnectionPool.from_url(url).make_connection()
        if not 0 < getattr(connection, "port", 1) < 65_536:  # noqa: PLR2004
            raise ValueError("the port is out of range")  # noqa: TRY301
    except (TypeError, ValueError, AttributeError) as error:
        raise SettingsError(f"JOBSTATUS_REDIS_URL can't be used: {error}") from None
    return url


def client_options(settings: StatusSettings) -> dict[str, Any]:
    """Options of a redis-py client: every timeout set, no retries; the caller has its own."""
    return {
        "protocol": 2,
        "socket_timeout": settings.timeout,
        "socket_connect_timeout": settings.connect_timeout,
        "socket_keepalive": True,
        "retry": Retry(NoBackoff(), 0),
        "client_name": "jobstatus-publisher",
    }


class Store:
    """Writes records through one client, in one pipeline however many there are.

    Not for two threads at once. Every method raises what `OUTAGE` names when Redis can't answer.
    """

    def __init__(self, client: "Redis") -> None:
        self._redis: Any = client  # redis-py types sync and async as one
        self._sha: str | None = None

    @classmethod
    def from_settings(cls, settings: StatusSettings) -> Self:
        """A store at the URL of the settings. It connects when it is first used."""
        url = check_url(settings)
        return cls(Redis.from_url(url, **client_options(settings)))

    def write(self, writes: Sequence[Write]) -> list[Written | Refused]:
        """Write all records in one round trip; each has its own result."""
        if self._sha is None:
            self._sha = self._load()
        results = self._evalsha(self._sha, writes)
        if any(isinstance(result, NoScriptError) for result in results):
            # Redis was restarted, or its scripts were flushed. Writing twice changes nothing.
            self._sha = self._load()
            results = self._evalsha(self._sha, writes)
        return [_result(result) for result in results]

    def _load(self) -> str:
        return str(self._redis.script_load(SCRIPT))

    def _evalsha(self, sha: str, writes: Iterable[Write]) -> list[Any]:
        with self._redis.pipeline(transaction=False) as pipe:
            for write in writes:
                pipe.evalsha(sha, 1, *write.args())
            results: list[Any] = pipe.execute(raise_on_error=False)
            return results

    def runs(self, keys: Sequence[str]) -> list[Run | None]:
        """The run that stands at each key, or None where no readable record is."""
        with self._redis.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.hmget(key, list(Run.FIELDS))
            replies = pipe.execute(raise_on_error=False)
        for reply in replies:
            if isinstance(reply, ResponseError) and _will_pass(reply):
                raise reply
        return [Run.from_fields(reply) for reply in replies]

    def close(self) -> None:
        """Close every connection."""
        self._redis.close()


def _result(reply: Any) -> Written | Refused:
    if isinstance(reply, ResponseError):
        return Refused(str(reply), _will_pass(reply))
    return Written(reply)


def _will_pass(error: ResponseError) -> bool:
    # redis-py strips the code of errors that it has a class for.
    known = isinstance(error, (ReadOnlyError, OutOfMemoryError, MasterDownError, ClusterDownError))
    return known or str(error).startswith(_PASSING)
