"""Committing the outcome of a job: arq's commands and the status together.

While Redis is unavailable a commit waits, and is tried again until it succeeds.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

import msgspec
from arq.connections import ArqRedis
from arq.constants import result_key_prefix
from redis.exceptions import RedisError

from jobstatus.arq.claims import Claims
from jobstatus.arq.outage import COMMAND_TIMEOUT_SECONDS, Outage
from jobstatus.arq.outcomes import (
    CoroutineExit,
    JobResult,
    exhausted_outcome,
    finished_outcome,
    interrupted_outcome,
    is_exhausted,
    retrying_outcome,
    unrun_outcome,
)
from jobstatus.arq.recent_commits import CommittedTransaction, RecentCommits
from jobstatus.arq.running_job import RunningJob
from jobstatus.arq.status_reader import StatusReader
from jobstatus.arq.transactions import Commands, CommitResult, commit, unrun_commands
from jobstatus.publishing.attempt import Attempt
from jobstatus.publishing.publisher import Publisher
from jobstatus.reporting.error_text import ErrorText
from jobstatus.reporting.report import Outcome
from jobstatus.status import FINAL_STATES, JobState
from jobstatus.storage.write import Run, Write
from jobstatus.tracing import record_write

T = TypeVar("T")

_SHUTDOWN_SECONDS: Final = 5.0
"""Seconds for which commits are still tried after the worker began to stop."""

_log = logging.getLogger("jobstatus")


class FinalStatus(msgspec.Struct, frozen=True):
    """The outcome of an attempt, as it is to be published.

    Attributes:
        attempt: The attempt.
        outcome: Its outcome.
        write: The write that publishes it; None if it could not be made.
    """

    attempt: Attempt
    outcome: Outcome
    write: Write | None


class Completion:
    """Commits the outcomes of a worker's jobs.

    Attributes:
        stopping_since: When the worker began to stop, on the monotonic clock; None while it works.
    """

    def __init__(
        self,
        pool: ArqRedis,
        publisher: Publisher,
        outage: Outage,
        claims: Claims,
        *,
        queue: str,
        status: StatusReader,
        errors: ErrorText,
    ) -> None:
        """Create it for one run of a worker.

        Args:
            pool: arq's pool.
            publisher: Publishes the status that isn't a part of arq's transaction.
            outage: Waits while Redis is unavailable.
            claims: The worker's claims.
            queue: The queue's key.
            status: Reads the stored status.
            errors: Describes exceptions.
        """
        self.stopping_since: float | None = None
        self._pool = pool
        self._publisher = publisher
        self._outage = outage
        self._claims = claims
        self._queue = queue
        self._stored_status = status
        self._errors = errors
        self._recent_commits = RecentCommits()
        self._tasks: set[asyncio.Task[None]] = set()

    def finish_attempt(
        self,
        job_id: str,
        job: RunningJob,
        commands: Commands,
        *,
        is_finished: bool,
        result_bytes: int,
    ) -> Coroutine[Any, Any, None]:
        """Commit the outcome of an attempt.

        Args:
            job_id: The job.
            job: What is known of it.
            commands: arq's commands.
            is_finished: Whether the job has finished; otherwise it is run again.
            result_bytes: The size of the result in the commands.
        """
        try:
            outcome = self._outcome(job_id, job, is_finished=is_finished)
        except BaseException:  # the job must finish, with or without its status
            _log.exception("job %s: its outcome can't be published", job_id)
            outcome = None
        status = _final_status(job_id, job, outcome)
        return self._in_task(job_id, job, self._commit(job_id, job, commands, status, result_bytes))

    def _outcome(self, job_id: str, job: RunningJob, *, is_finished: bool) -> Outcome | None:
        """Return the outcome of an attempt; None if the job stays `pending`."""
        if job.coroutine is not None:
            if is_finished:
                return self._finished_outcome(job, job.coroutine)
            return retrying_outcome(job.coroutine)
        if not is_finished or job.result is None:
            return None
        # The attempt was cancelled before the first step of its coroutine.
        result = job.result
        job.attempt = self._publisher.attempt(
            job_id, result.function, result.enqueued, result.attempt, None, is_run=False
        )
        return unrun_outcome(result, self._errors)

    def _finished_outcome(self, job: RunningJob, coroutine: CoroutineExit) -> Outcome:
        """Return the outcome of an attempt after which the job has finished; note its result."""
        outcome = finished_outcome(coroutine, job.result)
        if job.attempt is not None:
            job.attempt.encode_result()
            if coroutine.error is not None and outcome.state is JobState.FAILED:
                job.attempt.note_error(coroutine.error, self._errors)
        return outcome

    def give_up_unrun(
        self, job_id: str, job: RunningJob, result: bytes | None, keep_result_ms: int | None
    ) -> Coroutine[Any, Any, None]:
        """Commit the failure of a job that arq gives up without running it (again).

        Args:
            job_id: The job.
            job: What is known of it.
            result: The result to store, if any.
            keep_result_ms: For how long to store it; None: without a limit.
        """
        return self._in_task(job_id, job, self._give_up(job_id, job, result, keep_result_ms))

    async def _give_up(
        self, job_id: str, job: RunningJob, result: bytes | None, keep_result_ms: int | None
    ) -> None:
        status = None
        if job.result is not None:
            created_ms = job.result.enqueued or None
            name = job.result.function if created_ms else ""
            job.attempt = self._publisher.attempt(
                job_id, name, created_ms, job.result.attempt, None, is_run=False
            )
            if created_ms is None and await self._has_finished_elsewhere(job_id, job.attempt):
                job.attempt, result = None, None
            outcome = await self._unrun_outcome(job_id, job, job.result, created_ms)
            status = _final_status(job_id, job, outcome)
        commands = unrun_commands(job_id, self._queue, result=result, keep_result_ms=keep_result_ms)
        await self._commit(job_id, job, commands, status, len(result or b""))

    async def _unrun_outcome(
        self, job_id: str, job: RunningJob, result: JobResult, created_ms: int | None
    ) -> Outcome:
        """Return the outcome of a job that arq gives up without running it (again).

        A job without attempts left has failed in its last attempt, whose cause is in its record.
        """
        if not is_exhausted(result):
            return unrun_outcome(result, self._errors)

        async def read() -> Run | None:
            try:
                (last,) = await self._stored_status.runs([job_id])
            except (RedisError, OSError):
                if self._stored_status.is_same_redis:
                    raise
                return None  # the job does not wait for the Redis of the status
            return last

        last = await self._retry_through_outages(job_id, read)
        if last is None or last.created != created_ms or not last.attempt:
            return exhausted_outcome(result.attempt - 1, None)
        job.attempt = self._publisher.attempt(
            job_id, result.function, created_ms, last.attempt, None, is_run=False
        )
        return exhausted_outcome(result.attempt - 1, last)

    def _in_task(
        self, job_id: str, job: RunningJob, commit_: Coroutine[Any, Any, None]
    ) -> Coroutine[Any, Any, None]:
        """Run a commit in a task of its own, since the task that awaits it may be cancelled.

        The claim is renewed until the commit is done, however long Redis is unavailable.
        """
        job.claim = self._claims.held.get(job_id)
        if job.claim is not None:
            job.claim.is_committing = True
        task = asyncio.get_running_loop().create_task(commit_)
        self._tasks.add(task)

        def release(_: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if self._claims.held.get(job_id) is job.claim:
                self._claims.held.pop(job_id, None)

        task.add_done_callback(release)
        return _wait_shielded(task)

    async def wait(self) -> None:
        """Wait until all commits that have been started are done or have failed."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _commit(
        self,
        job_id: str,
        job: RunningJob,
        commands: Commands,
        status: FinalStatus | None,
        result_bytes: int,
    ) -> None:
        """Commit arq's commands with the status, or before it if that is stored elsewhere.

        While Redis is unavailable this waits. Sending the same transaction twice does no harm.

        Args:
            job_id: The job.
            job: What is known of it.
            commands: arq's commands.
            status: The status to publish, if any.
            result_bytes: The size of the result in the commands.

        Raises:
            RedisError, OSError: The worker stops while Redis is unavailable: the outcome is lost.
        """
        attempt, started_at = job.attempt, time.monotonic()
        is_same_redis = self._stored_status.is_same_redis
        write = status.write if status is not None and is_same_redis else None
        token = job.claim.token if job.claim is not None else b""
        tries = 0

        async def commit_once() -> CommitResult:
            nonlocal tries
            tries += 1
            # An earlier try may have succeeded, with its reply lost, and the job may have been
            # enqueued again since then.
            return await commit(
                self._pool,
                commands,
                write,
                job_id=job_id,
                queue=self._queue,
                score=job.score,
                is_claim_valid=tries == 1 and self._is_claim_valid(job),
                attempt=attempt.number if attempt is not None and job.coroutine else None,
                token=token,
            )

        try:
            result = await self._retry_through_outages(job_id, commit_once)
        except Exception as error:
            if attempt is not None:
                outcome = interrupted_outcome(
                    attempt.number, error, self._claims.lease, self._errors
                )
                self._publisher.end(attempt, outcome)
            raise
        if result is CommitResult.SUPERSEDED:
            _log.warning(
                "job %s: another worker has run it again; the outcome of this run is discarded",
                job_id,
            )
        elif result is not CommitResult.GONE:
            kept_bytes = result_bytes + (write.result_bytes if write is not None else 0)
            transaction = CommittedTransaction(time.monotonic(), token, commands, write, kept_bytes)
            self._recent_commits.add(job_id, transaction)
        if status is None:
            return
        if result in {CommitResult.WITHOUT_STATUS, CommitResult.GONE}:
            self._publisher.end(status.attempt, status.outcome)
        else:
            self._publisher.release(status.attempt, status.outcome)
            if job.span is not None:
                record_write(job.span, status.outcome.state, time.monotonic() - started_at)

    async def commit_lost(self) -> None:
        """Commit again those recent outcomes that a failover of Redis has lost.

        Raises:
            RedisError, OSError: Redis is unavailable again. The next call goes on with the rest.
        """
        await self._recent_commits.commit_lost(self._pool, self._publisher)

    async def _has_finished_elsewhere(self, job_id: str, attempt: Attempt) -> bool:
        """Return whether a job that arq calls expired was in fact just finished by another worker.

        If not, assign the attempt to the run of the stored record.
        """
        pool: Any = self._pool

        async def read() -> bool:
            if await pool.exists(result_key_prefix + job_id):
                return True
            if not self._stored_status.is_same_redis:
                return False  # the publisher assigns the attempt to its run
            (run,) = await self._stored_status.runs([job_id])
            attempt.join(run)
            return run is not None and run.state in FINAL_STATES

        return await self._retry_through_outages(job_id, read)

    async def _retry_through_outages(self, job_id: str, command: Callable[[], Awaitable[T]]) -> T:
        """Return what `command` returns; give up when the worker has been stopping for too long."""
        started_at = time.monotonic()

        def must_give_up() -> bool:
            if self.stopping_since is None:
                return False
            if time.monotonic() <= max(started_at, self.stopping_since) + _SHUTDOWN_SECONDS:
                return False
            _log.error(
                "job %s: its outcome could not be written before the worker stopped; arq will run "
                "the job again",
                job_id,
            )
            return True

        return await self._outage.retry(command, must_give_up)

    def _is_claim_valid(self, job: RunningJob) -> bool:
        """Return whether the claim can't expire before the outcome is committed.

        arq itself lets an attempt whose claim has expired finish the job while the next one runs.
        """
        if job.claim is None:
            return False
        margin = min(COMMAND_TIMEOUT_SECONDS, self._claims.lease / 2)
        return time.monotonic() < job.claim.valid_until - margin


async def _wait_shielded(task: asyncio.Task[None]) -> None:
    await asyncio.shield(task)


def _final_status(job_id: str, job: RunningJob, outcome: Outcome | None) -> FinalStatus | None:
    if job.attempt is None or outcome is None:
        return None
    try:
        write = job.attempt.final_write(outcome)
    except BaseException:  # the job must finish, with or without its status
        _log.exception("job %s: its outcome can't be published", job_id)
        write = None
    return FinalStatus(job.attempt, outcome, write)
