"""A job's status: the states and their transitions, the stored record, and what a poller gets.

Pure: standard library and msgspec only, no clock and no I/O. The Lua script and the service's
responses are both built on the tables in this module.

To add a state: `JobState`, `FINAL_STATES` or `UNFINISHED_STATES`, `ALLOWED_PREDECESSORS`, then the
contract. To add a field to the record: `Record`, then `storage/write.py` and `storage/write.lua`.
"""

import math
import re
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from threading import current_thread, main_thread
from typing import Annotated, Final, Self
from uuid import UUID, uuid5

import msgspec

NAME_LIMIT: Final = 120
"""Maximum length of a name, in characters (`maxLength` of the published contract)."""

REASON_LIMIT: Final = 500
"""Maximum length of a reason, in characters."""

ID_NAMESPACE: Final = UUID("5a0cdcd9-9d3e-4c67-8f0b-6d8f3b6f1f27")
"""The uuid5 namespace of job ids that are not UUIDs. It must never change."""

_UUID = re.compile(
    r"[0-9a-fA-F]{8}(-?)[0-9a-fA-F]{4}\1[0-9a-fA-F]{4}\1[0-9a-fA-F]{4}\1[0-9a-fA-F]{12}"
)
_HEX = re.compile(r"[0-9a-f]{32}")  # the form of the ids that arq creates

MAX_TIMESTAMP_MS: Final = 253_402_300_799_999
"""9999-12-31T23:59:59.999Z in ms since the epoch: the latest time that a `datetime` can hold."""

WORKER_LIMIT: Final = 63
"""Maximum length of a worker's host name, in characters; a name of DNS has no longer label."""

DETAIL_MARK: Final = "\x1f"
"""Encloses the message of an exception in a stored reason (ASCII's unit separator).

Such messages may contain URLs, paths and secrets, so a reader must be able to leave them out. No
other text in a record contains control characters.
"""

Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=MAX_TIMESTAMP_MS)]
Percent = Annotated[float, msgspec.Meta(ge=0, le=100)]


class JobState(StrEnum):
    """The seven states of the published contract."""

    PENDING = "pending"
    """Enqueued, waiting for a worker. The worker that begins the first attempt moves it on."""

    IN_PROGRESS = "in_progress"
    """An attempt is running, and its lease is valid. Its worker moves it on."""

    RETRYING = "retrying"
    """An attempt has failed and another one follows, which moves it on."""

    SUCCEEDED = "succeeded"
    """Final: the job has done what it should."""

    ABORTED = "aborted"
    """Final: the job was cancelled on request."""

    FAILED = "failed"
    """Final: the job has failed and is not run again."""

    UNKNOWN = "unknown"
    """There is no record, or its lease has expired. Reported by the service; never stored."""

    @property
    def is_final(self) -> bool:
        """Whether no other state can follow within the same run."""
        return self in FINAL_STATES


FINAL_STATES: Final = frozenset({JobState.SUCCEEDED, JobState.ABORTED, JobState.FAILED})
"""States in which a run ends."""

ALLOWED_PREDECESSORS: Final[dict[JobState, frozenset[JobState]]] = {
    JobState.PENDING: frozenset(),
    JobState.IN_PROGRESS: frozenset({JobState.PENDING, JobState.IN_PROGRESS}),
    JobState.RETRYING: frozenset({JobState.PENDING, JobState.IN_PROGRESS, JobState.RETRYING}),
    JobState.SUCCEEDED: frozenset({JobState.PENDING, JobState.IN_PROGRESS}),
    JobState.ABORTED: frozenset({JobState.PENDING, JobState.IN_PROGRESS, JobState.RETRYING}),
    JobState.FAILED: frozenset({JobState.PENDING, JobState.IN_PROGRESS, JobState.RETRYING}),
}
"""For each state that is written: the stored states that it may follow *within one attempt*.

A later attempt of the same run may follow every unfinished state, and a later run any state.
"""

UNFINISHED_STATES: Final = frozenset({JobState.PENDING, JobState.IN_PROGRESS, JobState.RETRYING})
"""The stored states that a later attempt of the same run may follow."""

STORED_STATES: Final = tuple(state for state in JobState if state is not JobState.UNKNOWN)
"""The states that a record can have, in the contract's order."""


class ResultState(StrEnum):
    """What is stored at the key of a job's result. Any other text says why it was dropped."""

    NONE = ""
    """Nothing: the job has no result, or has not finished."""

    VALUE = "value"
    """What the job has returned, in JSON."""

    TRACEBACK = "traceback"
    """`{"traceback": "..."}` of the exception with which the job has failed."""


class Record(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What Redis stores for one job, and what one write carries. Always complete.

    Attributes:
        name: The kind of job; under arq the function's name.
        state: One of the six stored states.
        reason: Why the job is in this state, one line; may be empty. The message of an exception
            is enclosed in `DETAIL_MARK`.
        progress: 0..100 percent; None until a worker first reports it.
        created: When this run was enqueued, ms since the epoch. It identifies the run.
        attempt: 0 while pending, then 1, 2, ...
        updated: When state, progress or reason last changed, in ms by Redis's clock. Set by
            the script; ignored in a write.
        lease: When the lease of an `in_progress` attempt expires, in ms by Redis's clock. Set by
            the script; 0 in every other state.
        started: When the attempt began, in ms by Redis's clock; 0 if none has. Set by the script;
            ignored in a write.
        worker: The host name of the process that runs the attempt; empty if none has run it.
        eta: Estimated seconds from `updated` until the attempt succeeds; None if unknown.
        expires: When the record of a finished job expires, in ms by Redis's clock; 0 before that.
            Set by the script; ignored in a write.
        result: Whether the job has a result (see `ResultState`), or why it was dropped; empty if
            there is none.
    """

    name: str
    state: JobState
    created: Milliseconds
    attempt: Annotated[int, msgspec.Meta(ge=0)]
    reason: str = ""
    progress: Percent | None = None
    updated: Milliseconds = 0
    lease: Milliseconds = 0
    started: Milliseconds = 0
    worker: str = ""
    eta: Annotated[float, msgspec.Meta(ge=0)] | None = None
    expires: Milliseconds = 0
    result: str = ""

    def __post_init__(self) -> None:
        if self.state is JobState.UNKNOWN:
            raise ValueError("the state `unknown` is never stored")
        if self.progress is not None and math.isnan(self.progress):
            raise ValueError("progress is not a number")

    @classmethod
    def from_fields(cls, fields: dict[str, str]) -> "Record":
        """Parse the fields of the stored hash; unknown fields are ignored.

        Raises:
            msgspec.ValidationError: A field is missing or malformed.
        """
        return msgspec.convert(fields, cls, strict=False)


class WriteResult(IntEnum):
    """What the atomic write did. Above 0: the record was written, or its lease renewed."""

    TOOK_OVER = 3
    """The visible status changed, and the previous attempt was still shown as running: its worker
    has died without reporting an outcome."""
    CHANGED = 2
    """The visible status changed."""
    RENEWED = 1
    """Only the lease and the TTL were renewed."""
    ALREADY_FINAL = 0
    """Nothing: this attempt, or this run, is already in a final state."""
    SUPERSEDED = -1
    """Nothing: a later attempt or run has reported already."""


class JobStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The status of one job as a poller gets it: `JobStatus` of the published contract.

    Attributes:
        id: The job's UUID.
        created_at: When it was enqueued, UTC; the epoch if there is no record.
        updated_at: When state, progress or reason last changed, UTC.
        name: The kind of job, at most 120 characters.
        reason: Why it is in this state; while it runs, its worker's message.
        has_progress: Whether a worker has ever reported progress.
        progress: 0..100 percent; 0 if there is none.
        state: The job's state.
    """

    id: UUID
    created_at: datetime
    updated_at: datetime
    name: str = ""
    reason: str = ""
    has_progress: bool = False
    progress: Percent = 0.0
    state: JobState = JobState.PENDING

    @classmethod
    def from_record(cls, job_id: UUID, record: Record) -> Self:
        """Return the status that a stored record describes.

        A job that has reported progress and succeeded has 100 percent.
        """
        progress = record.progress
        if record.state is JobState.SUCCEEDED and progress is not None:
            progress = 100.0
        return cls(
            id=job_id,
            created_at=to_datetime(record.created),
            updated_at=to_datetime(record.updated),
            name=record.name,
            reason=full_reason(record.reason),
            has_progress=progress is not None,
            progress=progress or 0.0,
            state=record.state,
        )

    @classmethod
    def unknown(cls, job_id: UUID, reason: str) -> Self:
        """Return the status of a job without a record: the times are the epoch."""
        epoch = to_datetime(0)
        return cls(
            id=job_id, created_at=epoch, updated_at=epoch, reason=reason, state=JobState.UNKNOWN
        )

    def to_json(self) -> bytes:
        """Encode as the contract's JSON: eight members in order, times in ms with `Z`."""
        return _encode(
            _JobStatusJson(
                str(self.id),
                rfc3339(self.created_at),
                rfc3339(self.updated_at),
                self.name,
                self.reason,
                self.has_progress,
                self.progress,
                self.state,
            )
        )

    @classmethod
    def from_json(cls, body: bytes | str) -> "JobStatus":
        """Decode a response of the service.

        Raises:
            msgspec.ValidationError: It is not a `JobStatus`.
        """
        return msgspec.json.decode(body, type=cls)


class _JobStatusJson(msgspec.Struct, frozen=True):
    """`JobStatus` with formatted times; members in the contract's order."""

    id: str
    created_at: str
    updated_at: str
    name: str
    reason: str
    has_progress: bool
    progress: float
    state: JobState


_encode = msgspec.json.Encoder().encode


def rfc3339(time: datetime) -> str:
    """Format an aware time in UTC with milliseconds: `2026-11-27T20:57:56.000Z`."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def to_datetime(ms: int) -> datetime:
    """Convert ms since the epoch to an aware datetime in UTC."""
    return datetime.fromtimestamp(ms // 1000, UTC).replace(microsecond=ms % 1000 * 1000)


def parse_uuid(job_id: str) -> UUID | None:
    """Parse a UUID, hyphenated or as 32 hex digits in either case; None if it is not one."""
    return UUID(job_id) if _UUID.fullmatch(job_id) else None


def job_uuid(job_id: str | UUID) -> UUID:
    """Return the UUID under which a job's status is stored and requested.

    A UUID, or its text with or without hyphens, is used as it is; any other job id becomes the
    uuid5 of `ID_NAMESPACE` and the id.

    Raises:
        TypeError: `job_id` is neither a str nor a UUID.
    """
    if isinstance(job_id, UUID):
        return job_id
    if not isinstance(job_id, str):
        raise TypeError(f"a job id must be a str or a UUID, not {type(job_id).__name__}")
    plain = job_id.encode("utf-8", "backslashreplace").decode("utf-8")  # lone surrogates
    return parse_uuid(job_id) or uuid5(ID_NAMESPACE, plain)


def job_uuid_text(job_id: str | UUID) -> str:
    """Return `str(job_uuid(job_id))`, with a fast path for the ids that arq creates."""
    if isinstance(job_id, str) and _HEX.fullmatch(job_id):
        return f"{job_id[:8]}-{job_id[8:12]}-{job_id[12:16]}-{job_id[16:20]}-{job_id[20:]}"
    return str(job_uuid(job_id))


def one_line(text: object, limit: int) -> str:
    """Return `text` as one line without control characters, at most `limit` characters long.

    Never raises: an object whose `str()` fails is replaced by its type's name.
    """
    try:
        line = str(text)[: 8 * limit]  # cheap even for a text of megabytes
    except BaseException as error:  # an object of job code may raise anything
        raise_interrupt(error)
        line = f"<{type(text).__name__}>"
    if not line.isprintable():
        line = "".join(c for c in " ".join(line.split()) if c.isprintable())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def stored_reason(reason: str) -> str:
    """Return a reason as it is stored: one line, of which at most `REASON_LIMIT` are shown.

    If it is too long, the message of the exception is shortened, and what follows it is kept.
    """
    before, mark, rest = reason.partition(DETAIL_MARK)
    if not mark:
        return one_line(reason, REASON_LIMIT)
    message, _, after = rest.partition(DETAIL_MARK)
    before, after = one_line(before, REASON_LIMIT // 3), one_line(after, REASON_LIMIT // 3)
    message = one_line(message, REASON_LIMIT - len(before) - len(after))
    return f"{before}{mark}{message}{mark if after else ''}{after}"


def full_reason(stored: str) -> str:
    """Return a stored reason with the message of its exception."""
    return stored.replace(DETAIL_MARK, "") if DETAIL_MARK in stored else stored


def public_reason(stored: str) -> str:
    """Return a stored reason without the message of its exception, whose type remains."""
    before, _, rest = stored.partition(DETAIL_MARK)
    return before + rest.partition(DETAIL_MARK)[2]


def raise_interrupt(error: BaseException) -> None:
    """Raise `error` again if it is a Ctrl-C; do nothing for any other error.

    Python delivers a Ctrl-C in the main thread only; elsewhere a KeyboardInterrupt comes from job
    code.

    Raises:
        KeyboardInterrupt: `error` is one, and this is the main thread.
    """
    if isinstance(error, KeyboardInterrupt) and current_thread() is main_thread():
        raise error


def format_progress(progress: float | None) -> str:
    """Format progress for storage: at most two decimals, rounded down; empty for None.

    59.83 stays 59.83 although 100 * 59.83 is 5982.999...; only 100 itself becomes 100.
    """
    if progress is None:
        return ""
    hundredths = math.floor(progress * 100 + 1e-7)
    if hundredths == 10_000 and progress < 100:  # noqa: PLR2004 - percent
        hundredths -= 1
    return f"{hundredths / 100:.2f}".rstrip("0").rstrip(".")


def format_eta(seconds: float | None) -> str:
    """Format an estimated time for storage: whole seconds from 10 on, tenths below; empty for None.

    More digits would say more than an estimate can.
    """
    if seconds is None:
        return ""
    return f"{seconds:.0f}" if seconds >= 10 else f"{seconds:.1f}"  # noqa: PLR2004
