"""The record of a job that is enqueued and waits; the identity of new runs."""

import time
from datetime import datetime
from typing import Final
from uuid import UUID

from jobstatus.keys import record_key
from jobstatus.reporting.sanitize import MAX_DURATION_SECONDS
from jobstatus.settings import PublisherSettings
from jobstatus.status import (
    NAME_LIMIT,
    JobState,
    Record,
    job_uuid_text,
    one_line,
)
from jobstatus.storage.write import Write

_MAX_REMEMBERED_JOBS: Final = 10_000
"""Jobs that may begin within a millisecond; beyond that, a run counts as begun in the next one."""

_last_runs: dict[str, int] = {}
_newest_run_ms = _earliest_run_ms = 0


def now_ms() -> int:
    """Return the time in ms since the epoch, by this machine's clock."""
    return time.time_ns() // 1_000_000


def new_run_ms(key: str) -> int:
    """Return `created` of a run that begins now: the time in ms, once for each job in a process.

    Args:
        key: The key of the job's record.
    """
    global _newest_run_ms, _earliest_run_ms  # noqa: PLW0603
    if len(_last_runs) >= _MAX_REMEMBERED_JOBS:
        _earliest_run_ms = _newest_run_ms + 1
    now = max(now_ms(), _earliest_run_ms)
    if now > _newest_run_ms:
        _last_runs.clear()  # any run that begins now is a later one
    created = _last_runs[key] = max(now, _last_runs.get(key, 0) + 1)
    _newest_run_ms = max(_newest_run_ms, created)
    return created


def ms_until(moment: datetime | None) -> int:
    """Return the ms until `moment`; 0 for None and the past. Naive times are local."""
    return 0 if moment is None else max(0, int(moment.timestamp() * 1000) - now_ms())


def key_of_job(settings: PublisherSettings, job_id: str | UUID) -> str:
    """Return the key of a job's record."""
    uuid = job_uuid_text(job_id)
    return record_key(settings.key_prefix, uuid, is_cluster=settings.is_cluster)


def pending_write(
    settings: PublisherSettings,
    job_id: str | UUID,
    name: str,
    created: int | None,
    expires_ms: int,
) -> Write:
    """Return the write of a job that is enqueued now and waits.

    Args:
        settings: Key prefix and retention.
        job_id: The job's id.
        name: The kind of job.
        created: When it was enqueued, ms since the epoch; None: now, and the write changes
            nothing if a run of the job is unfinished.
        expires_ms: How long it may wait, in ms; the record is kept longer than that.
    """
    key = key_of_job(settings, job_id)
    record = Record(
        name=one_line(name, NAME_LIMIT),
        state=JobState.PENDING,
        created=new_run_ms(key) if created is None else created,
        attempt=0,
    )
    wait_ms = min(max(0, expires_ms), round(1000 * MAX_DURATION_SECONDS))
    now = time.monotonic()
    return Write(
        key,
        record,
        wait_ms + round(1000 * settings.retention),
        began_at=now,
        happened_at=now,
        is_run_known=created is not None,
    )
