"""Where the records are written: the one module of this package that talks to Redis."""

from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import Any, ClassVar, Final, Self

import msgspec
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.retry import Retry

from jobstatus.settings import StatusSettings
from jobstatus.status import FOLLOWS, UNFINISHED, Record, Written, format_progress

SCRIPT: Final = files("jobstatus").joinpath("write.lua").read_text(encoding="utf-8")
"""The atomic write; its header says what it takes and returns."""

DEFAULT_URL: Final = "redis://127.0.0.1:6379/0"

OUTAGE: Final = (RedisError, OSError)
"""What any trouble with Redis raises."""

_FOLLOWS = {state: f" {' '.join(sorted(may))} " for state, may in FOLLOWS.items()}
_UNFINISHED = f" {' '.join(sorted(UNFINISHED))} "


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
        )

    def eval_command(self) -> tuple[str | int, ...]:
        """The write as one EVAL, for a transaction of somebody else's."""
        return ("EVAL", SCRIPT, 1, *self.args())


class Refused(msgspec.Struct, frozen=True):
    """Redis wouldn't do one write.

    Attributes:
        why: In Redis's words.
        is_foreign: Whether something else than a record stands at the key, so that trying again
            is no use.
    """

    why: str
    is_foreign: bool


class Run(msgspec.Struct, frozen=True):
    """What a record says about who wrote it: which run and attempt, and how it stands."""

    FIELDS: ClassVar = ("created", "attempt", "state", "name")

    created: int
    attempt: int
    state: str
    name: str

    @classmethod
    def from_fields(cls, values: Any) -> "Run | None":
        """Read the values of `FIELDS`; None where they can't be read."""
        try:
            created, attempt, state, name = values
            return cls(int(created), int(attempt), state.decode(), name.decode())
        except (TypeError, ValueError, AttributeError):
            return None


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
        url = settings.redis_url or DEFAULT_URL
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
            return [Run.from_fields(values) for values in pipe.execute(raise_on_error=False)]

    def close(self) -> None:
        """Close every connection."""
        self._redis.close()


def _result(reply: Any) -> Written | Refused:
    if isinstance(reply, ResponseError):
        return Refused(str(reply), "WRONGTYPE" in str(reply))
    return Written(reply)
