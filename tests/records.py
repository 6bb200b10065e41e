"""Records as they stand in Redis."""

from typing import Any

from jobstatus import job_uuid
from jobstatus.status import Record


def key(job_id: str) -> str:
    return f"job:{job_uuid(job_id)}"


def read(redis: Any, job_id: str) -> Record | None:
    fields = redis.hgetall(key(job_id))
    return Record.from_fields(fields) if fields else None
