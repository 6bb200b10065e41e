"""Read the records that are stored in Redis."""

from typing import Any

from msgspec.structs import replace

from jobstatus import job_uuid
from jobstatus.keys import record_key
from jobstatus.status import Record, full_reason

ANY_RECORD = "job:????????-????-????-????-????????????"
"""The pattern of the keys of all records with the default prefix."""


def key(job_id: str) -> str:
    """Return the key of a job's record, with the default prefix."""
    return f"job:{job_uuid(job_id)}"


def cluster_key(job_id: str) -> str:
    """Return the key of a job's record in a Redis Cluster, with the default prefix."""
    return record_key("job", str(job_uuid(job_id)), is_cluster=True)


def record_count(redis: Any) -> int:
    """Return how many records are stored, with any prefix."""
    return sum(1 for _ in redis.scan_iter("*:????????-????-????-????-????????????"))


def read(redis: Any, job_id: str) -> Record | None:
    """Return the record of a job, with the reason as pollers see it; None if there is none."""
    fields = redis.hgetall(key(job_id))
    if not fields:
        return None
    record = Record.from_fields(fields)
    return replace(record, reason=full_reason(record.reason))
