"""What a read finds: between the module that asks Redis and the one that makes answers."""

import msgspec

from jobstatus.status import Record


class StoredRecord(msgspec.Struct, frozen=True):
    """What stands at one key, and when it was read.

    Attributes:
        record: The record, or None where there is none.
        fault: Why the record can't be read; empty where it can.
        now: Redis's clock, ms since the epoch.
        ttl: ms until the key expires; negative where it doesn't, or isn't there.
    """

    record: Record | None
    error: str
    now_ms: int
    ttl_ms: int
