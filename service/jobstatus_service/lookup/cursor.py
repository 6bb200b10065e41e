"""Cursors: where a list goes on. A cursor is opaque to clients, and never expires.

A list is ordered by the scores of the index, newest first. Jobs that come are newer than the
cursor, so no job is listed twice. A job that finishes moves to the front, which the cursor has
passed: so a cursor also says until when finished jobs were looked for, and the next page begins
with those that have finished since then and had not been listed before.
"""

import base64
import binascii
import struct
from hashlib import blake2b
from typing import Final, Self

import msgspec

_FORMAT: Final = struct.Struct(">B4sdq16s")
_VERSION: Final = 1

MARK_BYTES: Final = 4
"""Bytes of a UUID by which a cursor remembers a job."""

MAX_MARKS: Final = 64
"""Jobs that a cursor remembers at most."""


class ListFilter(msgspec.Struct, frozen=True):
    """Which jobs a list contains.

    Attributes:
        prefix: The tenant's key prefix.
        states: The states as they are shown, in the contract's order; empty for all.
        name: The name that the jobs have; None for any.
    """

    prefix: str
    states: tuple[str, ...] = ()
    name: str | None = None

    @property
    def digest(self) -> bytes:
        """Identifies the filter in a cursor."""
        return blake2b(msgspec.json.encode((self.states, self.name)), digest_size=4).digest()


class Cursor(msgspec.Struct, frozen=True):
    """Where a list goes on.

    Attributes:
        score: The score of the last listed job.
        job_id: Its UUID, in 16 bytes; it orders jobs with equal scores.
        looked_until: Until when finished jobs were looked for, in ticks (`TICKS_PER_MS`) by
            Redis's clock.
        seen: The first bytes of the UUIDs of jobs that were looked at although they were stored in
            this very tick or later: the clock alone can't tell them from jobs that were stored
            just after the index was read. Of a Cluster's nodes, some are read later than others.
    """

    score: float
    job_id: bytes
    looked_until: int
    seen: frozenset[bytes] = frozenset()

    @classmethod
    def parse(cls, text: str, wanted: ListFilter) -> Self:
        """Parse a cursor.

        Args:
            text: The cursor.
            wanted: The filter of the request.

        Raises:
            ValueError: It is malformed, or of a list with another filter.
        """
        try:
            packed = base64.urlsafe_b64decode(text.encode("ascii") + b"==")
            version, digest, score, looked_until, job_id = _FORMAT.unpack_from(packed)
        except (UnicodeEncodeError, binascii.Error, struct.error):
            raise ValueError("This is not a cursor of this service.") from None
        if version != _VERSION or score != score or looked_until < 0:  # noqa: PLR0124 - NaN
            raise ValueError("This is not a cursor of this service.")
        if digest != wanted.digest:
            raise ValueError("The cursor belongs to a list with other states or another name.")
        marks = packed[_FORMAT.size :]
        if len(marks) % MARK_BYTES or len(marks) > MAX_MARKS * MARK_BYTES:
            raise ValueError("This is not a cursor of this service.")
        seen = (marks[at : at + MARK_BYTES] for at in range(0, len(marks), MARK_BYTES))
        return cls(score, job_id, looked_until, frozenset(seen))

    def text(self, wanted: ListFilter) -> str:
        """Return the cursor as text, for a list with this filter."""
        packed = _FORMAT.pack(_VERSION, wanted.digest, self.score, self.looked_until, self.job_id)
        packed += b"".join(sorted(self.seen)[:MAX_MARKS])
        return base64.urlsafe_b64encode(packed).rstrip(b"=").decode()
