"""The keys in Redis: of a job's record, of its result, and of the index that lists the jobs.

Every key of a tenant begins with the tenant's prefix. A record is at `prefix:<uuid>`, a result at
`prefix:<uuid>:result`, and the index at `prefix:index:<state>` (see `storage/write.lua`).

One script may only touch keys of one slot of a Redis Cluster. So in a Cluster the jobs are spread
over `SHARDS` shards by the last byte of their UUIDs, and each shard has an index of its own: its
keys begin with `prefix:{xx}:` instead of `prefix:`, where the hash tag `xx` is the shard's number.
"""

from typing import Final

from jobstatus.status import STORED_STATES

SHARDS: Final = 64
"""Shards of a tenant's jobs in a Cluster. Changing it makes all stored records unreachable."""

_UUID_LENGTH: Final = 36

_TAGS: Final = {f"{byte:02x}": f"{{{byte % SHARDS:02x}}}:" for byte in range(256)}
"""What follows the prefix in a Cluster, by the last two digits of the UUID."""


def record_key(prefix: str, job_uuid: str, *, is_cluster: bool = False) -> str:
    """Compose the key of a job's record.

    Args:
        prefix: The tenant's key prefix.
        job_uuid: The job's UUID, hyphenated and in lower case.
        is_cluster: Whether the records are in a Redis Cluster.
    """
    if is_cluster:
        return f"{prefix}:{_TAGS[job_uuid[-2:]]}{job_uuid}"
    return f"{prefix}:{job_uuid}"


def uuid_of_key(key: str) -> str:
    """Return the hyphenated UUID at the end of a record's key."""
    return key[-_UUID_LENGTH:]


def is_record_key(key: str) -> bool:
    """Whether a key of ours is that of a record, rather than of a result or of the index."""
    return key[-13:-12] == key[-18:-17] == "-"


def result_key(record: str) -> str:
    """Compose the key of a job's result from the key of its record."""
    return f"{record}:result"


def shard_starts(prefix: str, *, is_cluster: bool = False) -> list[str]:
    """Return what all keys of each shard begin with; without a Cluster there is one shard."""
    if is_cluster:
        return [f"{prefix}:{{{shard:02x}}}:" for shard in range(SHARDS)]
    return [f"{prefix}:"]


def index_key(shard_start: str, state: str) -> str:
    """Compose the key of the sorted set of a shard's jobs in one state."""
    return f"{shard_start}index:{state}"


def index_keys(record: str) -> tuple[str, ...]:
    """Return all keys of the index that lists the job with this record key."""
    start = record[:-_UUID_LENGTH]
    return (due_key(start), *(index_key(start, state) for state in STORED_STATES))


def due_key(shard_start: str) -> str:
    """Compose the key of the sorted set that says when entries of a shard's index may expire."""
    return f"{shard_start}index:due"
