"""What one read of Redis finds. The reader makes it; `lookup.representation` turns it into JSON."""

import msgspec

from jobstatus.status import Record


class StoredRecord(msgspec.Struct, frozen=True):
    """What is stored at one key, and when it was read.

    Attributes:
        record: The record; None where there is none, or where it is malformed.
        error: What is malformed; empty if nothing is.
        now_ms: The time of the read by Redis's clock, in ms since the epoch.
        ttl_ms: ms until the key expires; negative if it does not expire, or does not exist.
    """

    record: Record | None
    error: str
    now_ms: int
    ttl_ms: int
