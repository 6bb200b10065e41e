"""arq's worker, every job of which is visible, and which outlives an outage of Redis.

It takes jobs in its own way (`taking`), wraps the coroutines, to know which attempt runs and how it
ended, and commits each end itself (`ends`). What an end means is decided in `ending`.
"""

import asyncio
import contextlib
import logging
import pickle
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Any

from arq.connections import ArqRedis
from arq.utils import to_ms, to_unix_ms
from arq.worker import Retry, Worker
from redis.exceptions import RedisError, ResponseError

from jobstatus.arq.claims import Claims
from jobstatus.arq.completion import COMMAND_TIMEOUT_SECONDS, Completion
from jobstatus.arq.connection import is_same_redis, publisher_for_pool, sync_client_for_pool
from jobstatus.arq.job_tracing import attempt_span, with_trace_context
from jobstatus.arq.outage import Outage, is_transient
from jobstatus.arq.outcomes import CoroutineEnd, JobResult, finished, interrupted, not_run, retrying
from jobstatus.arq.pool import StatusRedis, create_pool
from jobstatus.arq.queue import PrimaryMonitor
from jobstatus.arq.renewal import Renewal
from jobstatus.arq.running_job import RunningJob
from jobstatus.arq.threads import carry_context_into_threads
from jobstatus.arq.transactions import attempt_commands, unrun_commands
from jobstatus.logs import LOG_CONTEXT
from jobstatus.publishing.publisher import Publisher
from jobstatus.reporting.current import current_job
from jobstatus.reporting.report import CURRENT_REPORT, Outcome
from jobstatus.settings import PublisherSettings
from jobstatus.storage.write import SCRIPT
from jobstatus.tracing import tracer

_log = logging.getLogger("jobstatus")


class StatusWorker(Worker):
    """`arq.Worker` that publishes the status of its jobs.

    Takes what `arq.Worker` takes, and:

    Args:
        status: Where and for how long status is kept; None: as the environment says.

    Attributes:
        publisher: Who publishes; None while it doesn't run.
        polled_at: When it last looked into the queue, or was made, seconds since the epoch.
    """

    def __init__(self, *args: Any, status: PublisherSettings | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._status = status or PublisherSettings.from_env()
        self.publisher: Publisher | None = None
        self._completion: Completion | None = None
        self.polled_at = time.time()
        self._looked_at = time.monotonic()
        self._queue_client: Any = None
        self._queue_client_lock = threading.Lock()
        self._primary: PrimaryMonitor | None = None
        self._outage = Outage()
        self._jobs: dict[str, RunningJob] = {}
        self._endings: set[asyncio.Task[None]] = set()
        self._crashes: list[BaseException] = []
        self._claims = Claims(self.queue_name, self.in_progress_timeout_s, self._status.claim_lease)
        self._renewal: Renewal | None = None
        self._traces = tracer("jobstatus-worker")
        if self._traces is not None:
            self.job_deserializer = with_trace_context(self.job_deserializer, self._current)
        self._plain_serializer = self.job_serializer
        self.job_serializer = self._serialize
        if self.on_job_start is not None:
            hook: Any = self._marking(self.on_job_start)
            self.on_job_start = hook
        self.functions = {
            name: replace(function, coroutine=self._visible(function))
            for name, function in self.functions.items()
        }

    def run(self) -> None:
        """Run the worker until it is stopped, then close everything."""
        try:
            super().run()
        finally:
            if self._renewal is not None:
                self._renewal.stop()
            if self.publisher is not None:  # something ended the event loop before `close`
                self._hand_back()
                self.publisher.close()

    async def main(self) -> None:
        """Connect, then work as arq does."""
        if self._pool is None:
            self._pool = await create_pool(
                self.redis_settings,
                job_deserializer=self.job_deserializer,
                job_serializer=self._plain_serializer,
                default_queue_name=self.queue_name,
                expires_extra_ms=self.expires_extra_ms,
                status=self._status,
            )
        self._primary = PrimaryMonitor(self._pool)
        self._looked_at = time.monotonic()
        self.publisher = publisher_for_pool(self._pool, self._status)
        if type(self._pool) is ArqRedis:  # a class of the user's own stays what it is
            self._pool = StatusRedis.over(self._pool, self._status, self.publisher)
        shares = is_same_redis(self._pool, self._status)
        await self._start_renewal()
        self._completion = Completion(
            self._pool,
            self.publisher,
            self._outage,
            is_same_redis=shares,
            lease=self._claims.lease,
        )
        carry_context_into_threads(self.loop)
        if shares:  # the first end is to be in arq's transaction already
            with contextlib.suppress(ResponseError):  # who may not load it may not write status
                await self._pool.script_load(SCRIPT)
        await super().main()

    async def _start_renewal(self) -> None:
        """Renew the claims of this worker's jobs from now on, if it may."""
        if not await Renewal.is_possible(self.pool):
            self._claims.keep_for_long()
            _log.warning(
                "this worker's user of Redis may not renew claims of jobs (EVALSHA, SCRIPT LOAD): "
                "the job of a worker that is killed is run again after %g s",
                self._claims.lease,
            )
            return
        self._renewal = Renewal(
            self._claims.held, self.queue_client, self._claims.lease, self._outage.note
        )
        self._renewal.start()

    @property
    def is_waiting_for_redis(self) -> bool:
        """Whether the queue's Redis was unavailable when it was last asked."""
        return self._outage.is_on

    @property
    def refusals(self) -> Counter[str]:
        """How often Redis has refused arq's own commands for now, by error code."""
        return self._outage.refusals

    def queue_client(self) -> Any:
        """A client of the queue's Redis for other threads; None while it doesn't run."""
        with self._queue_client_lock:
            if self._queue_client is None and self._pool is not None:
                self._queue_client = sync_client_for_pool(self._pool, self._status)
            return self._queue_client

    async def close(self) -> None:
        """Stop as arq does, but in bounded time and whole, whatever fails on the way.

        Raises:
            Exception: the first that a job's hooks, or `on_shutdown`, raised.
        """
        if self._completion is not None:
            self._completion.stops_at = time.monotonic()
        if not self._handle_signals:
            self.handle_sig(signal.SIGUSR1)
        if self._pool is None:
            return
        ends = await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        # A job that was cancelled while its end was being committed leaves that to itself.
        await asyncio.gather(*self._endings, return_exceptions=True)
        try:
            await self._leave()
            if self.on_shutdown:
                await self.on_shutdown(self.ctx)
        finally:
            if self._renewal is not None:
                await asyncio.to_thread(self._renewal.stop)
                self._renewal = None
            self._hand_back()
            if self.publisher is not None:
                await asyncio.to_thread(self.publisher.close)
                self.publisher = None
            await self._pool.aclose(close_connection_pool=True)
            self._pool = None
            client, self._queue_client = self._queue_client, None
            if client is not None:
                client.close()
        for end in ends:
            if isinstance(end, Exception) and not is_transient(end):
                raise end

    async def _leave(self) -> None:
        """Take back what says that this worker is there."""
        try:
            async with asyncio.timeout(1):
                await self._claims.release(self.pool)
                await self.pool.delete(self.health_check_key)
        except (RedisError, OSError) as error:
            _log.warning("the health check's key was left to expire: %s", error)

    def _hand_back(self) -> None:
        """Show the attempts whose end arq will never hear of: it runs them again, in its time."""
        jobs, self._jobs = self._jobs, {}
        for job in jobs.values():
            if job.attempt is not None and self.publisher is not None:
                crash = self._crashes[0] if self._crashes else None
                outcome = interrupted(job.attempt.number, crash, self._claims.lease)
                self.publisher.end(job.attempt, outcome)

    # ── taking jobs ──────────────────────────────────────────────────────────────────────────

    async def _poll_iteration(self) -> None:
        """Look into the queue; while Redis is unavailable, wait."""
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT_SECONDS):
                if self._primary is not None:
                    await self._primary.check()
                if self._outage.is_on:
                    seconds = time.monotonic() - self._outage.since
                    await self._recover(claims_may_be_gone=seconds > self._claims.lease / 2)
                if self._renewal is not None and self._renewal.has_missing_claims:
                    self._renewal.has_missing_claims = False
                    missing = filter(self._runs_here, self._claims.missing())
                    await self._claims.reclaim(self.pool, list(missing))
                await super()._poll_iteration()
        except (RedisError, OSError) as error:
            if any(error is crash for crash in self._crashes) or not is_transient(error):
                raise
            await self._outage.wait(error)
        else:
            self.polled_at, self._looked_at = time.time(), time.monotonic()
            if self._outage.end() and self.publisher is not None:
                self.publisher.refresh()

    async def _recover(self, *, claims_may_be_gone: bool) -> None:
        """Redis is available again, perhaps without the last claims: set them again."""
        self._looked_at = time.monotonic()
        if self._primary is not None:
            self._primary.back(claims_may_be_gone=claims_may_be_gone)
        await self._claims.reclaim(self.pool, [i for i in self._jobs if self._runs_here(i)])
        if self._completion is not None:
            await self._completion.repeat()

    async def run_cron(self, n: datetime, delay: float, num_windows: int = 2) -> None:
        """Enqueue the cron jobs that are due; those that Redis refuses, at the next look."""
        due = [(job, job.next_run) for job in self.cron_jobs if job.unique or job.job_id]
        try:
            await super().run_cron(n, delay, num_windows)
        except BaseException:  # a time-out comes as a cancellation
            for job, next_run in due:  # enqueuing one twice under its id does nothing
                job.next_run = next_run
            raise

    async def start_jobs(self, job_ids: list[bytes]) -> None:
        """Take as many jobs as there are places for, in one round trip, and start them."""
        if time.monotonic() - self._looked_at > self._claims.lease / 2:
            # Redis was frozen, or this process was: claims may have expired meanwhile.
            await self._recover(claims_may_be_gone=True)
        if self._primary is not None and self._primary.is_new:
            return
        waiting = (job_id for job_id in map(bytes.decode, job_ids) if not self._runs_here(job_id))
        while batch := list(islice(waiting, max(0, self.max_jobs - self.job_counter))):
            for job_id, score in (await self._claims.take(self.pool, batch)).items():
                await self.sem.acquire()
                self.job_counter += 1
                task = self.loop.create_task(self.run_job(job_id, score))
                task.add_done_callback(lambda _: self._release_sem_dec_counter_on_complete())
                self.tasks[job_id] = task

    def _runs_here(self, job_id: str) -> bool:
        task = self.tasks.get(job_id)
        return task is not None and not task.done()

    async def run_job(self, job_id: str, score: int) -> None:
        """Run a job as arq does; if Redis goes away before it has begun, once Redis is back."""
        since = time.monotonic()
        LOG_CONTEXT.set({"job_id": job_id})
        while True:
            self._claims.extend(job_id)
            try:
                # Reading the job is bounded; from there on, `begin` lifts the limit.
                async with asyncio.timeout(COMMAND_TIMEOUT_SECONDS) as limit:
                    job = self._jobs[job_id] = RunningJob(score, limit, since)
                    await super().run_job(job_id, score)
            except asyncio.CancelledError:
                raise
            except BaseException as error:
                stops = self._completion is None or self._completion.stops_at is not None
                if is_transient(error) and not job.begun and not stops:
                    await self._outage.wait(error)
                    continue
                if not (is_transient(error) and stops):
                    self._crashes.append(error)  # a hook's own; arq's and ours are waited out
                raise
            else:
                return

    # ── running them ─────────────────────────────────────────────────────────────────────────

    def _marking(self, hook: Any) -> Callable[[dict[Any, Any]], Coroutine[Any, Any, None]]:
        """The hook, which marks its job as begun: from there on it is not simply taken again."""

        async def run(ctx: dict[Any, Any]) -> None:
            if (job := self._jobs.get(ctx["job_id"])) is not None:
                job.begin()
            await hook(ctx)

        return run

    def _visible(self, function: Any) -> Callable[..., Coroutine[Any, Any, Any]]:
        """The function's coroutine, inside the report of its attempt."""
        coroutine = function.coroutine
        timeout = self.job_timeout_s if function.timeout_s is None else function.timeout_s
        max_tries = self.max_tries if function.max_tries is None else function.max_tries

        async def run(ctx: dict[Any, Any], *args: Any, **kwargs: Any) -> Any:
            job = self._jobs.get(ctx["job_id"])
            if job is None:
                return await coroutine(ctx, *args, **kwargs)
            with attempt_span(self._traces, job, ctx, function.name):
                return await visible(job, ctx, *args, **kwargs)

        async def visible(job: RunningJob, ctx: dict[Any, Any], *args: Any, **kwargs: Any) -> Any:
            if not self._begin(job, ctx, function.name, timeout):
                return await coroutine(ctx, *args, **kwargs)
            error: BaseException | None = None
            try:
                return await coroutine(ctx, *args, **kwargs)
            except BaseException as raised:
                error = raised
                raise
            finally:
                job.ended = CoroutineEnd(
                    error=error,
                    aborting=ctx["job_id"] in self.aborting_tasks,
                    attempt=ctx["job_try"],
                    max_tries=max_tries,
                    timeout=timeout,
                    seconds=time.monotonic() - job.since,
                    explicit=current_job().outcome,
                )

        return run

    def _current(self) -> RunningJob | None:
        """The job that this context reads."""
        return self._jobs.get(LOG_CONTEXT.get().get("job_id", ""))

    def _begin(self, job: RunningJob, ctx: dict[Any, Any], name: str, limit: float | None) -> bool:
        """Show the job as in progress; whether that could be done."""
        if self.publisher is None:
            return False
        try:
            created = to_unix_ms(ctx["enqueue_time"])
            attempt = self.publisher.attempt(
                ctx["job_id"], name, created, ctx["job_try"], limit or None
            )
        except Exception:  # whatever it is, the job must run
            _log.exception("job %s: its status can't be told", ctx["job_id"])
            return False
        job.begin()
        job.attempt = attempt
        attempt.span = job.span
        CURRENT_REPORT.set(attempt.report)
        self.publisher.begin(attempt)
        return True

    def _serialize(self, data: dict[str, Any]) -> bytes:
        """Serialize a result as arq would, and remember what it says."""
        job = self._jobs.get(data.get("id", ""))
        if job is not None and "s" in data:
            job.result = JobResult(data["f"], data["t"], data["et"], data["s"], data["r"])
        return (self._plain_serializer or pickle.dumps)(data)

    # ── ending them ──────────────────────────────────────────────────────────────────────────

    def finish_job(
        self,
        job_id: str,
        finish: bool,
        result_data: bytes | None,
        result_timeout_s: float | None,
        keep_result_forever: bool,
        incr_score: int | None,
        keep_in_progress: float | None,
    ) -> Coroutine[Any, Any, None]:
        """Commit the end of an attempt, its status with it."""
        if self._completion is None:  # not run by `main`
            return super().finish_job(
                job_id,
                finish,
                result_data,
                result_timeout_s,
                keep_result_forever,
                incr_score,
                keep_in_progress,
            )
        job = self._pop(job_id)
        commands = attempt_commands(
            job_id,
            self.queue_name,
            finish=finish,
            result=result_data,
            keep_result_ms=None if keep_result_forever else to_ms(result_timeout_s),
            next_score=job.score + incr_score if incr_score else None,
            keep_in_progress_ms=to_ms(keep_in_progress),
        )
        outcome = partial(self._outcome, job_id, job, finish=finish)
        size = len(result_data or b"")
        return self._kept(
            job_id, job, self._completion.commit(job_id, job, commands, outcome, size)
        )

    def _pop(self, job_id: str) -> RunningJob:
        """The job, which is about to end."""
        job = self._jobs.pop(job_id, RunningJob(0))
        job.begin()
        job.claim = self._claims.held.get(job_id)
        if job.claim is not None:
            job.claim.is_ending = True
        return job

    def _kept(
        self, job_id: str, job: RunningJob, ending: Coroutine[Any, Any, None]
    ) -> Coroutine[Any, Any, None]:
        """The same, as a task that `close` waits for: what awaits it may be cancelled.

        The claim is renewed until it is done, however long Redis is unavailable.
        """
        task = self.loop.create_task(ending)
        self._endings.add(task)

        def done(_: asyncio.Task[None]) -> None:
            self._endings.discard(task)
            if self._claims.held.get(job_id) is job.claim:
                self._claims.held.pop(job_id, None)

        task.add_done_callback(done)
        return _joined(task)

    def _outcome(self, job_id: str, job: RunningJob, *, finish: bool) -> Outcome | None:
        """What is to be shown of an attempt that arq ends, if anything."""
        if job.ended is not None:
            delay = _delay(job.ended)
            return finished(job.ended, job.result) if finish else retrying(job.ended, delay)
        if not finish or job.result is None or self.publisher is None:
            return None  # it is as pending as it was
        # It was cancelled before the first step of its coroutine.
        result = job.result
        job.attempt = self.publisher.attempt(
            job_id, result.function, result.enqueued, result.attempt, None
        )
        return not_run(result)

    def finish_failed_job(
        self, job_id: str, result_data: bytes | None
    ) -> Coroutine[Any, Any, None]:
        """Commit the end of a job that arq gives up without running it, its status with it."""
        if self._completion is None:  # not run by `main`
            return super().finish_failed_job(job_id, result_data)
        job = self._pop(job_id)
        return self._kept(job_id, job, self._give_up(job_id, job, result_data, self._completion))

    async def _give_up(
        self, job_id: str, job: RunningJob, result_data: bytes | None, ends: Completion
    ) -> None:
        if not (self.keep_result_forever or self.keep_result_s):
            result_data = None
        if job.result is not None and self.publisher is not None:
            created = job.result.enqueued or None
            name = job.result.function if created else ""
            job.attempt = self.publisher.attempt(job_id, name, created, job.result.attempt, None)
            if created is None and await ends.was_finished_elsewhere(job_id, job.attempt):
                job.attempt, result_data = None, None
        commands = unrun_commands(
            job_id,
            self.queue_name,
            result=result_data,
            keep_result_ms=None if self.keep_result_forever else to_ms(self.keep_result_s),
        )
        result = job.result
        outcome = None if result is None else partial(not_run, result)
        await ends.commit(job_id, job, commands, outcome, len(result_data or b""))


async def _joined(task: asyncio.Task[None]) -> None:
    await asyncio.shield(task)


def _delay(ended: CoroutineEnd) -> float | None:
    """Seconds until arq runs the job again, as its `Retry` says."""
    score = ended.error.defer_score if isinstance(ended.error, Retry) else None
    return score / 1000 if score else None
