"""Read the records that are stored in Redis."""

from typing import Any

from jobstatus import job_uuid
from jobstatus.status import Record


def key(job_id: str) -> str:
    """Return the key of a job's record, with the default prefix."""
    return f"job:{job_uuid(job_id)}"


def read(redis: Any, job_id: str) -> Record | None:
    """Return the record of a job; None if there is none."""
    fields = redis.hgetall(key(job_id))
    return Record.from_fields(fields) if fields else None
