"""One write of a record: the arguments of the atomic script, in RESP or as a command.

Protocol: https://github.com/redis/redis-specifications/blob/master/protocol/RESP2.md
"""

import functools
import time
from hashlib import sha1
from importlib.resources import files
from typing import Any, ClassVar, Final, Self

import msgspec
from msgspec.structs import replace

from jobstatus.keys import index_keys
from jobstatus.status import (
    ALLOWED_PREDECESSORS,
    FINAL_STATES,
    UNFINISHED_STATES,
    JobState,
    Record,
    WriteResult,
    format_eta,
    format_progress,
)
from jobstatus.storage.refusals import Refusal, refusal_of
from jobstatus.storage.resp import bulk_string, packed_command


def _script() -> str:
    """Return the atomic write, with the states of `jobstatus.status` inserted."""
    source = files("jobstatus.storage").joinpath("write.lua").read_text(encoding="utf-8")
    pairs = sorted(
        f"{before}>{after}" for after, allowed in ALLOWED_PREDECESSORS.items() for before in allowed
    )
    return (
        source.replace("@transitions@", " ".join(pairs))
        .replace("@unfinished@", " ".join(sorted(UNFINISHED_STATES)))
        .replace("@final@", " ".join(sorted(FINAL_STATES)))
    )


SCRIPT: Final = _script()
"""The atomic write; its header documents keys, arguments and results."""

SHA: Final = sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()
"""The name by which a server that has loaded the script executes it (EVALSHA)."""

SWEEP: Final = files("jobstatus.storage").joinpath("sweep.lua").read_text(encoding="utf-8")
"""The sweep of the index; its header documents keys, arguments and results."""

_SWEEP_SHA: Final = sha1(SWEEP.encode(), usedforsecurity=False).hexdigest()

_RESULTS_PER_MS: Final = 8
"""The script returns the server's time in ms times this, plus one, plus its result."""

_IN_PROGRESS: Final = JobState.IN_PROGRESS

_RESULTS: Final = tuple(sorted(WriteResult))


_ZERO, _EMPTY = bulk_string("0"), bulk_string("")
_EVALSHA = f"{bulk_string('EVALSHA')}{bulk_string(SHA)}"

_PARTS: Final = 16
"""The number of parts of a write, beside its keys and a result."""


@functools.lru_cache(1024)
def _head(
    keys: tuple[str, ...],
    state: str,
    created: int,
    attempt: int,
    name: str,
    lease: int,
    ttl: int,
    worker: str,
) -> str:
    """Return the part of a packed write that all reports of one attempt share."""
    arguments = (state, str(created), str(attempt), name, str(lease), str(ttl), worker)
    return _EVALSHA + "".join(map(bulk_string, (str(len(keys)), *keys, *arguments)))


class Write(msgspec.Struct, frozen=True, gc=False):
    """One record on its way to Redis.

    Attributes:
        key: The key of the record.
        record: The whole record.
        ttl: ms for which the key is kept, counted from `happened_at`.
        lease: ms for which `in_progress` is valid without another report; 0 in other states.
        began_at: When the run or attempt began, on the monotonic clock; None: when it is sent.
        happened_at: When the reported event happened, on the monotonic clock; None: the write
            reports what is true at the moment when it is sent.
        is_run_known: Whether `record.created` identifies the run; if not, `join` finds it out.
        is_rewrite: Whether it was accepted before, and is written again after an outage.
        span: The trace span that becomes the parent of the write's span, if any.
        result: The job's result, in JSON, which `record.result` describes; None if there is none.
        may_change_state: Whether the stored state may be another one, so that the index changes.
    """

    key: str
    record: Record
    ttl: int
    lease: int = 0
    began_at: float | None = None
    happened_at: float | None = None
    is_run_known: bool = True
    is_rewrite: bool = False
    span: Any = None
    result: bytes | None = None
    may_change_state: bool = True

    def join(
        self, stored: "Run | None", own: int | None = None, *, has_own_finished: bool = False
    ) -> "Write | None":
        """Return the write with the run that it belongs to; None if it comes too late.

        An attempt belongs to the unfinished run that waits for it. A `pending` report changes
        nothing while a run is unfinished, since its job has begun already. In every other case
        the write begins a new run, whose `created` differs from the stored one.

        Args:
            stored: The run of the stored record; None if there is no well-formed record.
            own: `created` of the run of this process's latest attempt at the job, if its outcome
                is not stored yet: the stored record may seem to wait for a next attempt.
            has_own_finished: Whether that run has finished.
        """
        record = self.record
        if stored is not None:
            is_unfinished, is_own = stored.state in UNFINISHED_STATES, stored.created == own
            if is_unfinished and stored.attempt < record.attempt and not is_own:
                created = stored.created
            elif is_unfinished and record.attempt == 0 and not (is_own and has_own_finished):
                return None
            else:
                created = max(record.created, stored.created + 1)
            record = replace(record, created=created, name=record.name or stored.name)
        return replace(self, record=record, is_run_known=True)

    @property
    def result_bytes(self) -> int:
        """The size of the result; 0 if there is none."""
        return 0 if self.result is None else len(self.result)

    def without_result(self, reason: str) -> "Write":
        """Return the write without the job's result; the record says why it was dropped."""
        return replace(self, record=replace(self.record, result=reason), result=None)

    def is_expired(self, now: float) -> bool:
        """Whether the record would have expired by `now` (on the monotonic clock)."""
        return 0 < self.ttl <= _age_ms(self.happened_at, now)

    def command(self) -> tuple[str | int | bytes, ...]:
        """Return the write as a command that is sent now, for another client's transaction.

        The server must have loaded the script (`SCRIPT LOAD`), or it refuses the write.
        """
        keys = self.keys
        return ("EVALSHA", SHA, len(keys), *keys, *self.arguments(time.monotonic()))

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys to declare to Redis.

        The script finds the keys of the index by itself. In a Cluster they are declared as well,
        so that while the slot is being moved, Redis refuses the write until all are at one node.
        """
        if self.may_change_state and "{" in self.key:
            return (self.key, *index_keys(self.key))
        return (self.key,)

    def arguments(self, now: float, server_ms: int = 0) -> tuple[str | int | bytes, ...]:
        """Return the arguments of the script.

        Args:
            now: When the write is sent, on the monotonic clock.
            server_ms: The same moment by the server's clock, ms since the epoch; 0 if unknown.
        """
        record = self.record
        age, event_age = _age_ms(self.began_at, now), _age_ms(self.happened_at, now)
        return (
            record.state.value,
            record.created,
            record.attempt,
            record.name,
            self.lease,
            self._remaining_ttl(event_age),
            record.worker,
            record.reason,
            format_progress(record.progress),
            age,
            event_age,
            server_ms,
            format_eta(record.eta),
            *self._result_arguments(),
        )

    def _result_arguments(self) -> tuple[str | bytes, ...]:
        if not self.record.result:
            return ()
        return self.record.result, self.result or b""

    def packed(self, now: float, server_ms: int = 0) -> bytes:
        """Return the write as a command in RESP. The arguments are those of `arguments`.

        This is done for every report of every job, hence without calls where that is possible.
        """
        record = self.record
        state = "in_progress" if record.state is _IN_PROGRESS else record.state.value
        event_age, ttl = 0, self.ttl
        if self.happened_at is not None:
            event_age = _age_ms(self.happened_at, now)
            ttl = self._remaining_ttl(event_age)
        keys = self.keys
        head = _head(
            *(keys, state, record.created, record.attempt),
            *(record.name, self.lease, ttl, record.worker),
        )
        reason, progress, sent = record.reason, format_progress(record.progress), str(server_ms)
        eta = _EMPTY if record.eta is None else bulk_string(format_eta(record.eta))
        size = len(reason) if reason.isascii() else len(reason.encode())
        age = "0" if self.began_at is None else str(max(0, int(1000 * (now - self.began_at))))
        rest = (
            f"{head}${size}\r\n{reason}\r\n${len(progress)}\r\n{progress}\r\n"
            f"${len(age)}\r\n{age}\r\n{bulk_string(str(event_age)) if event_age else _ZERO}"
            f"${len(sent)}\r\n{sent}\r\n{eta}"
        )
        parts = _PARTS + len(keys)
        if not record.result:
            return f"*{parts}\r\n{rest}".encode()
        result = self.result or b""
        return b"*%d\r\n%b%b$%d\r\n%b\r\n" % (
            parts + 2,
            rest.encode(),
            bulk_string(record.result).encode(),
            len(result),
            result,
        )

    def _remaining_ttl(self, event_age: int) -> int:
        return self.ttl - event_age if event_age < self.ttl else min(self.ttl, 1)


def script_of(packed: bytes) -> str:
    """Return the script that a packed write, or step of a sweep, executes."""
    return SWEEP if _SWEEP_SHA.encode() in packed else SCRIPT


def with_script(packed: bytes) -> bytes:
    """Return a packed command that carries its script instead of the script's name (EVAL)."""
    script = script_of(packed)
    name = SHA if script is SCRIPT else _SWEEP_SHA
    by_name = f"{bulk_string('EVALSHA')}{bulk_string(name)}".encode()
    return packed.replace(by_name, f"{bulk_string('EVAL')}{bulk_string(script)}".encode(), 1)


def packed_sweep(shard_start: str, key: str, group: str, skip: int, limit: int) -> bytes:
    """Return one step of a sweep of the index as a command in RESP; `sweep.lua` documents it."""
    arguments = (shard_start, str(limit), group, str(skip))
    return packed_command("EVALSHA", _SWEEP_SHA, "1", key, *arguments)


def result_of(reply: Any) -> WriteResult | Refusal:
    """Parse the reply to a write."""
    if reply.__class__ is int:
        return _RESULTS[reply % _RESULTS_PER_MS]
    refusal = refusal_of(reply)
    assert refusal is not None  # noqa: S101 - a reply is a number or an error
    return refusal


def server_ms_of(reply: int) -> int:
    """Return the server's time that the reply to a write carries, ms since the epoch."""
    return reply // _RESULTS_PER_MS


def _age_ms(since: float | None, now: float) -> int:
    """Whole ms from `since` to `now`; 0 for None."""
    return 0 if since is None else max(0, int(1000 * (now - since)))


class Run(msgspec.Struct, frozen=True):
    """The fields of a stored record that identify its run and attempt.

    Attributes:
        created: Identifies the run.
        attempt: The attempt that has written last.
        state: The stored state.
        name: The stored name.
        previous: `created` of the run that this one has replaced; 0 if there is none.
        reason: The stored reason.
    """

    FIELDS: ClassVar = ("created", "attempt", "state", "name", "previous", "reason")

    created: int
    attempt: int
    state: str
    name: str
    previous: int = 0
    reason: str = ""

    @classmethod
    def of(cls, record: Record) -> Self:
        """Return the run of a record that is being written."""
        return cls(record.created, record.attempt, record.state, record.name)

    @classmethod
    def from_fields(cls, values: Any) -> "Run | None":
        """Parse the values of `FIELDS`; None if the record is missing or malformed."""
        try:
            created, attempt, state, name, previous, reason = values
            run = int(created), int(attempt), state.decode(), name.decode()
            return cls(*run, int(previous or 0), (reason or b"").decode(errors="replace"))
        except (TypeError, ValueError, AttributeError):
            return None


_READ_RUN = f"*{2 + len(Run.FIELDS)}\r\n{bulk_string('HMGET')}"
_RUN_FIELDS = "".join(map(bulk_string, Run.FIELDS))


def read_run(key: str) -> bytes:
    """Return the command in RESP that reads the `FIELDS` of a run."""
    return f"{_READ_RUN}{bulk_string(key)}{_RUN_FIELDS}".encode()
