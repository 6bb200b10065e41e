"""The transactions with which arq 0.28 finishes an attempt, with the status as a part of them.

arq builds these inside `Worker.finish_job` and `Worker.finish_failed_job`, where nothing can be
added, so they are built here again. Comments name every difference from arq's own commands.
"""

import logging
from collections.abc import Awaitable, Callable
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

from jobstatus.arq.outage import raise_if_transient
from jobstatus.storage.write import Write

FINISHED_TOKEN: Final = b"kept"
"""The value of an in-progress key that is kept after its job has finished, as for cron jobs."""

Commands = Callable[[Any], None]
"""Adds arq's commands to a pipeline."""

_log = logging.getLogger("jobstatus")


class CommitResult(Enum):
    """What a transaction did."""

    WITH_STATUS = auto()
    """arq's commands and the status were executed."""
    WITHOUT_STATUS = auto()
    """Only arq's commands were executed."""
    SUPERSEDED = auto()
    """Nothing was executed: another worker has claimed the job, or a later attempt has begun."""
    GONE = auto()
    """Nothing was executed: the job has finished already, perhaps by this same transaction."""


_Check = Callable[[Any], Awaitable[CommitResult | None]]
"""Watches keys and reads them; returns a result if the transaction must not be executed."""


def attempt_commands(
    job_id: str,
    queue: str,
    *,
    is_finished: bool,
    result: bytes | None,
    keep_result_ms: int | None,
    next_score: int | None,
    keep_in_progress_ms: int | None,
) -> Commands:
    """Return the commands that arq sends after an attempt.

    Args:
        job_id: The job.
        queue: The queue's key.
        is_finished: Whether the job has finished; otherwise it is run again.
        result: The result to store, if any.
        keep_result_ms: For how long to store it; None: without a limit.
        next_score: The score in the queue of the next attempt; None: unchanged. arq increments
            the score instead, which would defer twice when the transaction is sent twice.
        keep_in_progress_ms: For how long no worker may run this job id; None: no time.
    """

    def add(pipe: Any) -> None:
        deleted = []
        if keep_in_progress_ms is None:
            deleted.append(in_progress_key_prefix + job_id)
        else:
            # arq only sets the key's expiry. The new value releases the claim: no renewal
            # matches it.
            pipe.set(in_progress_key_prefix + job_id, FINISHED_TOKEN, px=keep_in_progress_ms)
        if is_finished:
            if result:
                pipe.set(result_key_prefix + job_id, result, px=keep_result_ms)
            deleted += [retry_key_prefix + job_id, job_key_prefix + job_id]
            pipe.zrem(abort_jobs_ss, job_id)
            pipe.zrem(queue, job_id)
        elif next_score is not None:
            pipe.zadd(queue, {job_id: next_score}, xx=True)
        if deleted:
            pipe.delete(*deleted)

    return add


def unrun_commands(
    job_id: str, queue: str, *, result: bytes | None, keep_result_ms: int | None
) -> Commands:
    """Return the commands that arq sends for a job that it gives up without running it.

    Args:
        job_id: The job.
        queue: The queue's key.
        result: The result to store, if any.
        keep_result_ms: For how long to store it; None: without a limit. (arq sends 0 ms in that
            case, which Redis refuses, and arq's worker stops.)
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
    queue: str,
    score: int,
    is_claim_valid: bool = True,
    attempt: int | None = None,
    token: bytes = b"",
) -> CommitResult:
    """Execute one transaction. Executing it twice does no harm.

    If Redis refuses the status, arq's commands are executed without it: no job waits for its
    status.

    Args:
        pool: arq's pool.
        commands: arq's commands.
        write: The status, if it is stored in the same Redis.
        job_id: The job.
        queue: The queue's key.
        score: The job's score in the queue when this worker claimed it.
        is_claim_valid: Whether no other worker can have claimed the job meanwhile. If not, the
            transaction first checks that, and whether a later attempt has begun or finished.
        attempt: The attempt's number; None if it has none.
        token: The value of the job's in-progress key while this worker's claim is valid.

    Raises:
        RedisError, OSError: Redis is unavailable, or refuses arq's commands.
    """

    async def check(pipe: Any) -> CommitResult | None:
        await pipe.watch(retry_key_prefix + job_id, job_key_prefix + job_id)
        claimed_by = await pipe.get(in_progress_key_prefix + job_id)
        # FINISHED_TOKEN may come from this very transaction, if the reply to it was lost.
        if claimed_by not in {None, token, FINISHED_TOKEN}:
            return CommitResult.SUPERSEDED
        latest_attempt = await pipe.get(retry_key_prefix + job_id)
        if attempt is not None and latest_attempt:
            return None if int(latest_attempt) == attempt else CommitResult.SUPERSEDED
        # arq lets the counter of attempts expire after a day. The job itself is in the queue until
        # it has finished; if it was enqueued again since then, it has another score.
        stored_score = await pipe.zscore(queue, job_id)
        is_same_run = stored_score is not None and int(stored_score) == score
        return None if is_same_run else CommitResult.GONE

    return await _execute(pool, commands, write, None if is_claim_valid else check)


async def commit_again(
    pool: ArqRedis, commands: Commands, write: Write | None, *, job_id: str, token: bytes
) -> CommitResult:
    """Execute a transaction again if Redis has lost it.

    It was lost if the job's in-progress key exists again and still has the claim's `token`.

    Raises:
        RedisError, OSError: Redis is unavailable, or refuses arq's commands.
    """

    async def check(pipe: Any) -> CommitResult | None:
        await pipe.watch(in_progress_key_prefix + job_id)
        claimed_by = await pipe.get(in_progress_key_prefix + job_id)
        return None if claimed_by == token else CommitResult.SUPERSEDED

    return await _execute(pool, commands, write, check)


async def _execute(
    pool: ArqRedis, commands: Commands, write: Write | None, check: _Check | None
) -> CommitResult:
    """Execute a transaction unless `check` forbids it or a key that it watches has changed."""
    async with pool.pipeline(transaction=True) as pipe:
        if check is not None:
            obstacle = await check(pipe)
            if obstacle is not None:
                return obstacle
            untyped: Any = pipe
            untyped.multi()
        commands(pipe)
        if write is not None:
            pipe.execute_command(*write.command())
        try:
            replies = await pipe.execute(raise_on_error=False)
        except WatchError:
            return CommitResult.SUPERSEDED
        except ResponseError as error:
            if write is None:
                raise_if_transient(error)
                raise
            _log.debug("%s was refused in arq's transaction: %s", write.key, error)
            return await _execute(pool, commands, None, check)
    status_reply = replies.pop() if write is not None else None
    for reply in replies:
        if isinstance(reply, Exception):
            raise_if_transient(reply)
            raise reply
    if write is None or isinstance(status_reply, Exception):
        return CommitResult.WITHOUT_STATUS
    return CommitResult.WITH_STATUS
