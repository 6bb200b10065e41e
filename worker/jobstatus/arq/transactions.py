"""The transactions by which arq 0.28 ends an attempt, with the status in them.

arq builds these inside `Worker.finish_job` and `Worker.finish_failed_job`, where nothing can be
added, so they are built here again. What differs from arq's is said where it does.
"""

import logging
from collections.abc import Callable
from enum import Enum, auto
from typing import Any, Final

from arq.connections import ArqRedis
from arq.constants import (
    abort_jobs_ss,
    in_progress_key_prefix,
    job_key_prefix,
    result_key_prefix,
    retry_key_prefix,
)
from redis.exceptions import ResponseError, WatchError

from jobstatus.arq.outage import raise_transient
from jobstatus.storage.write import Write

KEPT_AFTER_END: Final = b"kept"
"""The value of an in-progress key that outlives its job, as that of a cron job does."""

Commands = Callable[[Any], None]
"""Adds commands to a pipeline."""

_log = logging.getLogger("jobstatus")


class CommitResult(Enum):
    """What became of a transaction."""

    WITH_STATUS = auto()
    WITHOUT_STATUS = auto()
    SUPERSEDED = auto()
    """Nothing was done: a later attempt at the job is under way."""
    GONE = auto()
    """Nothing was done: the job is over already, perhaps by this very transaction."""


def attempt_commands(
    job_id: str,
    queue: str,
    *,
    finish: bool,
    result: bytes | None,
    keep_result_ms: int | None,
    next_score: int | None,
    keep_in_progress_ms: int | None,
) -> Commands:
    """What arq sends after an attempt.

    Args:
        job_id: The job.
        queue: The queue's key.
        finish: Whether the job is over; otherwise it is run again.
        result: What to keep, if anything.
        keep_result_ms: For how long; None for ever.
        next_score: The score in the queue of the next attempt; None leaves it. arq adds to the
            score instead, which would defer twice when the transaction is sent twice.
        keep_in_progress_ms: For how long nobody may run the id; None: nothing forbids it.
    """

    def add(pipe: Any) -> None:
        gone = []
        if keep_in_progress_ms is None:
            gone.append(in_progress_key_prefix + job_id)
        else:
            # arq only sets the key's expiry. The new value ends the claim: no renewal matches it.
            pipe.set(in_progress_key_prefix + job_id, KEPT_AFTER_END, px=keep_in_progress_ms)
        if finish:
            if result:
                pipe.set(result_key_prefix + job_id, result, px=keep_result_ms)
            gone += [retry_key_prefix + job_id, job_key_prefix + job_id]
            pipe.zrem(abort_jobs_ss, job_id)
            pipe.zrem(queue, job_id)
        elif next_score is not None:
            pipe.zadd(queue, {job_id: next_score}, xx=True)
        if gone:
            pipe.delete(*gone)

    return add


def unrun_commands(
    job_id: str, queue: str, *, result: bytes | None, keep_result_ms: int | None
) -> Commands:
    """What arq sends for a job that it gives up without running it.

    Args:
        job_id: The job.
        queue: The queue's key.
        result: What to keep, if anything.
        keep_result_ms: For how long; None for ever. (arq says 0 ms then, which Redis refuses, and
            its worker stops.)
    """

    def add(pipe: Any) -> None:
        pipe.delete(
            retry_key_prefix + job_id, in_progress_key_prefix + job_id, job_key_prefix + job_id
        )
        pipe.zrem(abort_jobs_ss, job_id)
        pipe.zrem(queue, job_id)
        if result is not None:
            pipe.set(result_key_prefix + job_id, result, px=keep_result_ms)

    return add


async def commit(
    pool: ArqRedis,
    commands: Commands,
    write: Write | None,
    *,
    job_id: str,
    is_sure: bool = True,
    attempt: int | None = None,
    token: bytes = b"",
) -> CommitResult:
    """Run one transaction. Running it again does no harm.

    Where Redis refuses the status, arq's part is committed without it: no job waits for its status.

    Args:
        pool: arq's.
        commands: arq's part.
        write: The status, where it is kept in the same Redis.
        job_id: The job.
        is_sure: Whether no other worker can have claimed the job meanwhile; otherwise that, and
            whether a later attempt has begun or ended, is looked at first.
        attempt: The attempt's number; None where it has none.
        token: The value of the job's in-progress key while it is claimed here.

    Raises:
        RedisError, OSError: whatever arq's own part raises.
    """
    async with pool.pipeline(transaction=True) as pipe:
        if not is_sure:
            void = await _why_void(pipe, job_id, attempt, token)
            if void is not None:
                return void
            _multi(pipe)
        commands(pipe)
        if write is not None:
            pipe.execute_command(*write.command())
        try:
            results = await pipe.execute(raise_on_error=False)
        except WatchError:
            return CommitResult.SUPERSEDED
        except ResponseError as error:
            if write is None:
                raise_transient(error)
                raise
            _log.debug("%s was refused in arq's transaction: %s", write.key, error)
            return await commit(
                pool,
                commands,
                None,
                job_id=job_id,
                is_sure=is_sure,
                attempt=attempt,
                token=token,
            )
    written = results.pop() if write is not None else None
    for result in results:
        if isinstance(result, Exception):
            raise_transient(result)
            raise result
    if write is None or isinstance(written, Exception):
        return CommitResult.WITHOUT_STATUS
    return CommitResult.WITH_STATUS


async def _why_void(
    pipe: Any, job_id: str, attempt: int | None, token: bytes
) -> CommitResult | None:
    """Why the outcome of an attempt must not be committed any more; None where it may be.

    The keys that say so are watched.
    """
    await pipe.watch(retry_key_prefix + job_id, job_key_prefix + job_id)
    # KEPT is what this very transaction may have left, if the reply to it was lost.
    if await pipe.get(in_progress_key_prefix + job_id) not in {None, token, KEPT_AFTER_END}:
        return CommitResult.SUPERSEDED
    if attempt is None:
        return None
    latest = await pipe.get(retry_key_prefix + job_id)
    if latest:
        return None if int(latest) == attempt else CommitResult.SUPERSEDED
    # arq lets the counter expire after a day; the job itself is there until it is over.
    return None if await pipe.exists(job_key_prefix + job_id) else CommitResult.GONE


async def commit_again(
    pool: ArqRedis, commands: Commands, write: Write | None, *, job_id: str, token: bytes
) -> CommitResult:
    """Run a transaction once more, if Redis has forgotten it.

    It has if the job's in-progress key is there again, and still whoever's `token` it was.

    Raises:
        RedisError, OSError: whatever arq's own part raises.
    """
    key = in_progress_key_prefix + job_id
    async with pool.pipeline(transaction=True) as pipe:
        await pipe.watch(key)
        if await pipe.get(key) != token:
            return CommitResult.SUPERSEDED
        _multi(pipe)
        commands(pipe)
        if write is not None:
            pipe.execute_command(*write.command())
        try:
            results = await pipe.execute(raise_on_error=False)
        except WatchError:
            return CommitResult.SUPERSEDED
        except ResponseError as error:
            raise_transient(error)
            raise
    if write is None or isinstance(results[-1], Exception):
        return CommitResult.WITHOUT_STATUS
    return CommitResult.WITH_STATUS


def _multi(pipe: Any) -> None:
    pipe.multi()  # untyped in redis-py
