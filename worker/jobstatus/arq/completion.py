"""Committing the end of a job: arq's part and the status together, however long Redis is away."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import msgspec
from arq.connections import ArqRedis
from arq.constants import result_key_prefix
from redis.exceptions import RedisError

from jobstatus.arq.outage import Outage, is_transient
from jobstatus.arq.outcomes import interrupted
from jobstatus.arq.running_job import RunningJob
from jobstatus.arq.transactions import Commands, CommitResult, commit, commit_again
from jobstatus.publishing.attempt import Attempt
from jobstatus.publishing.publisher import Publisher
from jobstatus.reporting.report import Outcome
from jobstatus.status import FINAL_STATES
from jobstatus.storage.write import Run, Write
from jobstatus.tracing import record_write

T = TypeVar("T")

COMMAND_TIMEOUT_SECONDS: Final = 10.0
"""Seconds that one look into the queue, or one commit, may take before it is tried anew."""

_LAST_TRIES: Final = 5.0
"""Seconds for which ends are still tried to be committed when the worker stops."""

_REPEATED: Final = 30.0
"""Seconds for which an end that was committed is kept, to be committed again after an outage."""

_MOST_REPEATED: Final = 1000
"""Ends that are kept so at most."""

_LARGEST: Final = 32 * 2**20
"""Bytes that the results in them may have in all."""

_log = logging.getLogger("jobstatus")


class _Kept(msgspec.Struct, frozen=True):
    """An end that was committed.

    Attributes:
        at: When, on the monotonic clock.
        token: The value of the job's in-progress key until then.
        commands: arq's part.
        write: The status, where it went with it.
        size: Bytes of the result.
    """

    at: float
    token: bytes
    commands: Commands
    write: Write | None
    size: int


class Completion:
    """Commits the ends of a worker's jobs.

    Attributes:
        stops_at: When the worker began to stop, by `time.monotonic()`; None while it works.
    """

    def __init__(
        self,
        pool: ArqRedis,
        publisher: Publisher,
        outage: Outage,
        *,
        is_same_redis: bool,
        lease: float,
    ) -> None:
        """For one run of a worker.

        Args:
            pool: arq's.
            publisher: Writes the status that isn't in arq's transaction.
            outage: Where the worker waits for Redis.
            is_same_redis: Whether the status is kept where the queue is.
            lease: Seconds within which a job is run again whose worker fell silent.
        """
        self.stops_at: float | None = None
        self._pool = pool
        self._publisher = publisher
        self._outage = outage
        self._is_same_redis = is_same_redis
        self._lease = lease
        self._committed: dict[str, _Kept] = {}
        self._size = 0

    async def commit(
        self,
        job_id: str,
        job: RunningJob,
        commands: Commands,
        find_outcome: Callable[[], Outcome | None] | None,
        size: int,
    ) -> None:
        """Commit arq's commands, and the status with them or, where it is elsewhere, after them.

        While Redis is away this waits; that something is sent twice then does no harm.

        Args:
            job_id: The job.
            job: What is known of it.
            commands: arq's part.
            find_outcome: Says what is to be shown, if anything.
            size: Bytes of the result in them.

        Raises:
            RedisError, OSError: the worker stops while Redis is away: the end is lost.
        """
        outcome, write = _status(job_id, job, find_outcome)
        attempt, begun = job.attempt, time.monotonic()
        sent = write if self._is_same_redis else None
        token = job.claim.token if job.claim is not None else b""

        tries = 0

        async def commit_once() -> CommitResult:
            nonlocal tries
            tries += 1
            # The reply to an earlier try may have been lost, and the job be enqueued again.
            return await commit(
                self._pool,
                commands,
                sent,
                job_id=job_id,
                is_sure=tries == 1 and self._is_sure(job),
                attempt=attempt.number if attempt is not None and job.ended else None,
                token=token,
            )

        try:
            done = await self._insist(job_id, commit_once)
        except Exception as error:
            if attempt is not None:
                again = interrupted(attempt.number, error, self._lease)
                self._publisher.end(attempt, again)
            raise
        if done is CommitResult.SUPERSEDED:
            _log.warning("job %s was run again elsewhere: this end is void", job_id)
        elif done is not CommitResult.GONE:
            self._keep(job_id, _Kept(time.monotonic(), token, commands, sent, size))
        if attempt is None or outcome is None:
            return
        if done in {CommitResult.WITHOUT_STATUS, CommitResult.GONE}:
            self._publisher.end(attempt, outcome)
        else:
            self._publisher.release(attempt, outcome)
            if job.span is not None:
                record_write(job.span, outcome.state, time.monotonic() - begun)

    def _keep(self, job_id: str, kept: _Kept) -> None:
        """Keep an end for a while, in the place of an older one of the same job."""
        self._forget(job_id)
        ends = self._committed
        ends[job_id] = kept
        self._size += kept.size
        while ends:
            first = next(iter(ends))
            is_old = ends[first].at < kept.at - _REPEATED
            if not (is_old or len(ends) > _MOST_REPEATED or self._size > _LARGEST):
                break
            self._forget(first)

    def _forget(self, job_id: str) -> None:
        kept = self._committed.pop(job_id, None)
        if kept is not None:
            self._size -= kept.size

    async def repeat(self) -> None:
        """Commit again what a Redis that was away has forgotten of the last ends.

        A replica that was promoted may not have got them; without this their jobs would run again.

        Raises:
            RedisError, OSError: Redis is away again; what is left is tried after that.
        """
        since = time.monotonic() - _REPEATED
        for job_id, kept in list(self._committed.items()):
            if kept.at >= since and kept.token:
                done = await commit_again(
                    self._pool, kept.commands, kept.write, job_id=job_id, token=kept.token
                )
                if done is not CommitResult.SUPERSEDED:
                    _log.warning("job %s: Redis had lost its end, it was committed again", job_id)
                if done is CommitResult.WITHOUT_STATUS and kept.write is not None:
                    self._publisher.publish(kept.write)
            if self._committed.get(job_id) is kept:
                self._forget(job_id)

    async def was_finished_elsewhere(self, job_id: str, attempt: Attempt) -> bool:
        """Whether a job that arq calls expired is none: another worker has just finished it.

        Otherwise finds out which run the job was.
        """
        pool: Any = self._pool

        async def look() -> bool:
            if await pool.exists(result_key_prefix + job_id):
                return True
            if not self._is_same_redis:
                return False  # the publisher finds out
            run = Run.from_fields(await pool.hmget(attempt.key, Run.FIELDS))
            attempt.join(run)
            return run is not None and run.state in FINAL_STATES

        return await self._insist(job_id, look)

    async def _insist(self, job_id: str, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask Redis, if need be again when it is back."""
        begun = time.monotonic()
        while True:
            try:
                async with asyncio.timeout(COMMAND_TIMEOUT_SECONDS):
                    return await ask()
            except (RedisError, OSError) as error:
                if not is_transient(error):
                    raise
                if self._has_given_up(begun):
                    _log.error("job %s: its end was lost, it will be run again", job_id)
                    raise
                await self._outage.wait(error)

    def _is_sure(self, job: RunningJob) -> bool:
        """Whether the claim can't expire before the outcome is committed.

        arq itself lets an attempt whose key has expired finish the job while the next one runs.
        """
        if job.claim is None:
            return False
        margin = min(COMMAND_TIMEOUT_SECONDS, self._lease / 2)
        return time.monotonic() < job.claim.valid_until - margin

    def _has_given_up(self, begun: float) -> bool:
        """Whether the worker stops, and has tried for long enough."""
        return (
            self.stops_at is not None and time.monotonic() > max(begun, self.stops_at) + _LAST_TRIES
        )


def _status(
    job_id: str, job: RunningJob, find_outcome: Callable[[], Outcome | None] | None
) -> tuple[Outcome | None, Write | None]:
    """What is to be shown of a job's end, if anything, and its write."""
    outcome = None
    try:
        outcome = find_outcome() if find_outcome is not None else None
        if job.attempt is not None and outcome is not None:
            return outcome, job.attempt.final_write(outcome)
    except BaseException:  # whatever it is, the job's end must be committed
        _log.exception("job %s: its status can't be published", job_id)
    return outcome, None
