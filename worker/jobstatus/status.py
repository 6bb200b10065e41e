"""A job's status: its states, how they follow one another, the record and the answer.

Pure: standard library and msgspec only, no clock and no I/O. What the Lua script enforces and
what a poller is told both start from the tables here.
"""

import math
import re
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from threading import current_thread, main_thread
from typing import Annotated, Final
from uuid import UUID, uuid5

import msgspec

NAME_LIMIT: Final = 120
"""Longest name, in characters (`maxLength` of the published contract)."""

REASON_LIMIT: Final = 500
"""Longest reason, in characters."""

ID_NAMESPACE: Final = UUID("5a0cdcd9-9d3e-4c67-8f0b-6d8f3b6f1f27")
"""The uuid5 namespace of job ids that are no UUIDs themselves. It never changes."""

_UUID = re.compile(
    r"[0-9a-fA-F]{8}(-?)[0-9a-fA-F]{4}\1[0-9a-fA-F]{4}\1[0-9a-fA-F]{4}\1[0-9a-fA-F]{12}"
)
_HEX = re.compile(r"[0-9a-f]{32}")  # as arq makes them
_LAST_MS = 253_402_300_799_999  # 9999-12-31T23:59:59.999Z, the last that a datetime can say

Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=_LAST_MS)]
Percent = Annotated[float, msgspec.Meta(ge=0, le=100)]


class JobState(StrEnum):
    """The seven states of the published contract."""

    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    RETRYING = "retrying"
    SUCCEEDED = "succeeded"
    ABORTED = "aborted"
    FAILED = "failed"
    UNKNOWN = "unknown"
    """The reader's word for "no telling"; never written."""

    @property
    def is_final(self) -> bool:
        """Whether nothing can follow within the same run."""
        return self in FINAL_STATES


FINAL_STATES: Final = frozenset({JobState.SUCCEEDED, JobState.ABORTED, JobState.FAILED})

ALLOWED_PREDECESSORS: Final[dict[JobState, frozenset[JobState]]] = {
    JobState.PENDING: frozenset(),
    JobState.IN_PROGRESS: frozenset({JobState.PENDING, JobState.IN_PROGRESS}),
    JobState.RETRYING: frozenset({JobState.PENDING, JobState.IN_PROGRESS, JobState.RETRYING}),
    JobState.SUCCEEDED: frozenset({JobState.PENDING, JobState.IN_PROGRESS}),
    JobState.ABORTED: frozenset({JobState.PENDING, JobState.IN_PROGRESS, JobState.RETRYING}),
    JobState.FAILED: frozenset({JobState.PENDING, JobState.IN_PROGRESS, JobState.RETRYING}),
}
"""Which stored states each written state may follow *within one attempt*.

A later attempt of the same run may follow whatever is not over, and a later run anything.
"""

UNFINISHED_STATES: Final = frozenset({JobState.PENDING, JobState.IN_PROGRESS, JobState.RETRYING})
"""Which stored states a later attempt of the same run may follow."""


class Record(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What stands in Redis for one job, and what one write carries. Never partial.

    Attributes:
        name: What the job is; arq: the function's name.
        state: One of the six written states.
        reason: One line; empty where there is none.
        progress: 0..100, or None until a worker first reports it.
        created: When this run was enqueued, in ms since the epoch. Names the run.
        attempt: 0 while pending, then 1, 2, ...
        updated: When state, progress or reason last changed, in ms by Redis's clock. Set by
            the script; ignored in a write.
        lease: Until when `in_progress` may be believed, in ms by Redis's clock. Set by the
            script; 0 in every other state.
    """

    name: str
    state: JobState
    created: Milliseconds
    attempt: Annotated[int, msgspec.Meta(ge=0)]
    reason: str = ""
    progress: Percent | None = None
    updated: Milliseconds = 0
    lease: Milliseconds = 0

    def __post_init__(self) -> None:
        if self.state is JobState.UNKNOWN:
            raise ValueError("`unknown` is never written")
        if self.progress is not None and math.isnan(self.progress):
            raise ValueError("progress is not a number")

    @classmethod
    def from_fields(cls, fields: dict[str, str]) -> "Record":
        """Read the fields of the hash; those that are not known are ignored.

        Raises:
            msgspec.ValidationError: a field is missing or can't be read.
        """
        return msgspec.convert(fields, cls, strict=False)


class WriteResult(IntEnum):
    """What the atomic write did."""

    TOOK_OVER = 3
    """What a poller sees moved; an earlier attempt, shown as running, had never ended."""
    CHANGED = 2
    """What a poller sees moved."""
    RENEWED = 1
    """Only lease and TTL moved."""
    ALREADY_FINAL = 0
    """Nothing: this attempt, or this run, is over already."""
    SUPERSEDED = -1
    """Nothing: a later attempt or run has reported."""


class JobStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What a poller is told of one job: the `JobStatus` of the published contract.

    Attributes:
        id: The job's UUID.
        created_at: When it was enqueued. UTC; the epoch where nothing is known.
        updated_at: When state, progress or reason last changed. UTC.
        name: What the job is, at most 120 characters.
        reason: Why it is in this state; while it runs, its worker's message.
        has_progress: Whether a worker ever reported progress.
        progress: 0..100, in percent.
        state: Where the job stands.
    """

    id: UUID
    created_at: datetime
    updated_at: datetime
    name: str = ""
    reason: str = ""
    has_progress: bool = False
    progress: Percent = 0.0
    state: JobState = JobState.PENDING

    def to_json(self) -> bytes:
        """Encode as the contract's JSON: eight members in order, times in ms with `Z`."""
        return _encode(
            _Wire(
                str(self.id),
                _rfc3339(self.created_at),
                _rfc3339(self.updated_at),
                self.name,
                self.reason,
                self.has_progress,
                self.progress,
                self.state,
            )
        )

    @classmethod
    def from_json(cls, body: bytes | str) -> "JobStatus":
        """Decode an answer of the service.

        Raises:
            msgspec.ValidationError: it is not a `JobStatus`.
        """
        return msgspec.json.decode(body, type=cls)


class _Wire(msgspec.Struct, frozen=True):
    """`JobStatus` with its times as the text that goes out; members in the contract's order."""

    id: str
    created_at: str
    updated_at: str
    name: str
    reason: str
    has_progress: bool
    progress: float
    state: JobState


_encode = msgspec.json.Encoder().encode


def _rfc3339(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def to_datetime(ms: int) -> datetime:
    """Milliseconds since the epoch as an aware datetime in UTC."""
    return datetime.fromtimestamp(ms // 1000, UTC).replace(microsecond=ms % 1000 * 1000)


def parse_uuid(job_id: str) -> UUID | None:
    """The UUID that `job_id` spells, hyphenated or as 32 hex digits in either case, or None."""
    return UUID(job_id) if _UUID.fullmatch(job_id) else None


def job_uuid(job_id: str | UUID) -> UUID:
    """The UUID under which a job's status is kept and asked for.

    A UUID, or a text that spells one hyphenated or not, stands for itself; any other arq job id
    becomes the uuid5 of `ID_NAMESPACE` and the id.

    Raises:
        TypeError: it is neither a text nor a UUID.
    """
    if isinstance(job_id, UUID):
        return job_id
    if not isinstance(job_id, str):
        raise TypeError(f"a job id is a str or a UUID, not {type(job_id).__name__}")
    plain = job_id.encode("utf-8", "backslashreplace").decode("utf-8")  # lone surrogates
    return parse_uuid(job_id) or uuid5(ID_NAMESPACE, plain)


def job_uuid_text(job_id: str | UUID) -> str:
    """`str(job_uuid(job_id))`, quickly for the ids that arq makes."""
    if isinstance(job_id, str) and _HEX.fullmatch(job_id):
        return f"{job_id[:8]}-{job_id[8:12]}-{job_id[12:16]}-{job_id[16:20]}-{job_id[20:]}"
    return str(job_uuid(job_id))


def one_line(text: object, limit: int) -> str:
    """`text` on one line, without control characters, of at most `limit` characters.

    Never raises: what can't be made a text is named by its type.
    """
    try:
        line = str(text)[: 8 * limit]  # there may be much more of it than anybody reads
    except BaseException as error:  # job code may raise anything, such as CancelledError
        raise_interrupt(error)
        line = f"<{type(text).__name__}>"
    if not line.isprintable():
        line = "".join(c for c in " ".join(line.split()) if c.isprintable())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def raise_interrupt(error: BaseException) -> None:
    """Raise a Ctrl-C that has arrived while job code was being called; pass over all else.

    Python delivers it in the main thread only.

    Raises:
        KeyboardInterrupt: `error` is one, and this is the main thread.
    """
    if isinstance(error, KeyboardInterrupt) and current_thread() is main_thread():
        raise error


def format_progress(progress: float | None) -> str:
    """Progress as it is stored: at most two decimals, rounded down; empty for None.

    59.83 is 59.83, though 100 times it is 5982.999...; and nothing but 100 is 100.
    """
    if progress is None:
        return ""
    hundredths = math.floor(progress * 100 + 1e-7)
    if hundredths == 10_000 and progress < 100:  # noqa: PLR2004 - percent
        hundredths -= 1
    return f"{hundredths / 100:.2f}".rstrip("0").rstrip(".")
