"""arq's worker, which publishes the status of its jobs and survives outages of Redis.

Each part of the work has a module of its own: `claims` and `renewal` claim jobs, `instrumentation`
wraps their coroutines, `outcomes` decides what an attempt's outcome is, `completion` commits it,
`outage` and `primary_monitor` watch the queue's Redis.
"""

import asyncio
import logging
import signal
import time
from collections import Counter
from collections.abc import Coroutine
from datetime import datetime
from inspect import Signature, signature
from itertools import islice
from typing import Any

from arq.utils import to_ms
from arq.worker import Worker
from redis.exceptions import RedisError

from jobstatus.arq.claims import Claims
from jobstatus.arq.functions import TrackedFunctions
from jobstatus.arq.hooks import StatusHooks, StatusOutcome
from jobstatus.arq.instrumentation import Instrumentation
from jobstatus.arq.loop_monitor import LoopMonitor
from jobstatus.arq.names import StatusName
from jobstatus.arq.outage import (
    COMMAND_TIMEOUT_SECONDS,
    Outage,
    is_transient,
)
from jobstatus.arq.pool import create_pool
from jobstatus.arq.queue_settings import do_not_retry, redis_settings
from jobstatus.arq.running_job import RunningJob
from jobstatus.arq.session import Session
from jobstatus.arq.threads import carry_context_into_threads
from jobstatus.arq.transactions import attempt_commands
from jobstatus.logs import LOG_CONTEXT
from jobstatus.publishing.publisher import Publisher
from jobstatus.reporting.error_text import StatusError
from jobstatus.settings import PublisherSettings

_log = logging.getLogger("jobstatus")


class StatusWorker(Worker):
    """`arq.Worker` that publishes the status of its jobs.

    It takes the arguments of `arq.Worker`; without `redis_settings` and `redis_pool` its queue is
    where `jobstatus.arq.redis_settings` says. And:

    Args:
        status: Where and for how long the status is stored; None: from the environment.
        status_outcome: Returns the outcome of an attempt from its function's name and the value
            that it returned; None, or a hook that returns None: the attempt has succeeded.
        status_name: Returns the name under which a job is shown, from its function's name,
            arguments and keyword arguments; None: the function's name.
        status_error: Returns the message to store of an exception, such as one without secrets; if
            it returns None, only the exception's type is stored. None: the exception's own text.

    Attributes:
        has_connected: Whether it has reached the queue's Redis.
        polled_at: When the queue was last polled, in seconds since the epoch; before the first
            poll, when the worker was created.
    """

    def __init__(
        self,
        *args: Any,
        status: PublisherSettings | None = None,
        status_outcome: StatusOutcome | None = None,
        status_name: StatusName | None = None,
        status_error: StatusError | None = None,
        **kwargs: Any,
    ) -> None:
        if kwargs.get("redis_settings") is None and kwargs.get("redis_pool") is None:
            kwargs["redis_settings"] = redis_settings()
        _ensure_event_loop()
        super().__init__(*args, **kwargs)
        self._complete_arq_025()
        self._status_settings = status or PublisherSettings.from_env()
        self._hooks = StatusHooks(
            outcome=status_outcome,
            name=status_name,
            error=status_error,
            error_detail=self._status_settings.error_detail,
        )
        self.has_connected = False
        self.polled_at = time.time()
        self._monotonic_polled_at = time.monotonic()
        self._instrumentation = Instrumentation(self, self._hooks)
        self._jobs = self._instrumentation.jobs
        self.functions = TrackedFunctions(self.functions, self._instrumentation.wrap_coroutine)
        self._claims = Claims(
            self.queue_name, self.in_progress_timeout_s, self._status_settings.claim_lease
        )
        self._loop_monitor = LoopMonitor(self.loop)
        self._outage = Outage(self._loop_monitor)
        self._session: Session | None = None
        self._crashes: list[BaseException] = []

    def _complete_arq_025(self) -> None:
        """Add what `arq.Worker` has since 0.26: a count of its jobs that never blocks a poll."""
        if not hasattr(self, "max_jobs"):
            self.max_jobs: int = self.sem._value  # noqa: SLF001
            self.sem = asyncio.BoundedSemaphore(self.max_jobs + 1)
            self.job_counter: int = 0

    def _release_sem_dec_counter_on_complete(self) -> None:  # as in arq 0.26
        self.job_counter -= 1
        self.sem.release()

    # ── starting ─────────────────────────────────────────────────────────────────────────────

    def run(self) -> None:
        """Run the worker until it is stopped, then close everything."""
        try:
            super().run()
        finally:
            self._claims.stop_renewal()
            if self._session is not None:  # the event loop was stopped before `close`
                self._session.publish_interrupted_attempts(self._crash)
                self._session.publisher.close()

    async def main(self) -> None:
        """Connect to Redis, then work as arq does. It may be called again before `close`."""
        if self._session is None:
            await self._connect()
        self._monotonic_polled_at = time.monotonic()
        await super().main()

    async def _connect(self) -> None:
        if self._pool is None:
            self._pool = await create_pool(
                self.redis_settings,
                job_deserializer=self.job_deserializer,
                job_serializer=self._instrumentation.plain_serializer,
                default_queue_name=self.queue_name,
                expires_extra_ms=self.expires_extra_ms,
                status=self._status_settings,
                status_name=self._hooks.status_name,
            )
            do_not_retry(self._pool, self.redis_settings)
        self._session = Session(
            self._pool,
            self._status_settings,
            queue=self.queue_name,
            jobs=self._jobs,
            claims=self._claims,
            outage=self._outage,
            hooks=self._hooks,
            deserializer=self._instrumentation.plain_deserializer,
        )
        self._pool = self._session.pool
        self._instrumentation.session = self._session
        await self._session.start(self.queue_client, handles_signals=self._handle_signals)
        carry_context_into_threads(self.loop)
        self._loop_monitor.start()
        self.has_connected = True

    # ── state for the metrics ────────────────────────────────────────────────────────────────

    @property
    def publisher(self) -> Publisher | None:
        """Publishes the status; None while the worker is not running."""
        return None if self._session is None else self._session.publisher

    @property
    def is_waiting_for_redis(self) -> bool:
        """Whether the last command to the queue's Redis failed because it is unavailable."""
        return self._outage.is_active

    @property
    def refusals(self) -> Counter[str]:
        """How often Redis has refused arq's own commands, by error code."""
        return self._outage.refusals

    def queue_client(self) -> Any:
        """Return a synchronous client of the queue's Redis for other threads.

        Returns:
            The client, the same one for all threads; None while the worker is not running.
        """
        return None if self._session is None else self._session.queue_client.get()

    # ── polling the queue ────────────────────────────────────────────────────────────────────

    async def _poll_iteration(self) -> None:
        """Poll the queue once and start the jobs that are due; wait if Redis is unavailable."""
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT_SECONDS):
                if self._session is not None:
                    await self._session.primary.check()
                if self._outage.is_active:
                    seconds = time.monotonic() - self._outage.started_at
                    await self._recover(claims_may_be_gone=seconds > self._claims.lease / 2)
                await self._claims.restore_missing(self.pool, self._is_running)
                await super()._poll_iteration()
        except (RedisError, OSError) as error:
            is_crash = any(error is crash for crash in self._crashes)
            if is_crash or not is_transient(error):
                raise
            await self._outage.wait(error)
        else:
            self.polled_at, self._monotonic_polled_at = time.time(), time.monotonic()
            has_recovered = self._outage.finish()
            if self._session is not None:
                if has_recovered:
                    self._session.publisher.refresh()
                self._session.waiting_jobs.scan_soon()

    async def _recover(self, *, claims_may_be_gone: bool) -> None:
        """Restore what Redis may have lost during an outage: claims, and committed outcomes."""
        self._monotonic_polled_at = time.monotonic()
        if self._session is not None:
            self._session.primary.mark_available(claims_may_be_gone=claims_may_be_gone)
        await self._claims.restore(self.pool, [i for i in self._jobs if self._is_running(i)])
        if self._session is not None:
            await self._session.completion.commit_lost()

    async def run_cron(self, n: datetime, delay: float, num_windows: int = 2) -> None:
        """Enqueue the cron jobs that are due; if Redis refuses them, the next poll tries again."""
        due = [(job, job.next_run) for job in self.cron_jobs if job.unique or job.job_id]
        try:
            await super().run_cron(n, delay, num_windows)
        except BaseException:  # including the cancellation by a timeout
            for job, next_run in due:  # enqueuing the same id twice does nothing
                job.next_run = next_run
            raise

    async def start_jobs(self, job_ids: list[bytes]) -> None:
        """Claim as many jobs as may run at once, in one round trip, and start them."""
        if time.monotonic() - self._monotonic_polled_at > self._claims.lease / 2:
            # Redis or this process was frozen: claims may have expired meanwhile.
            await self._recover(claims_may_be_gone=True)
        if self._session is not None and self._session.primary.is_quiet_time:
            return
        waiting = (job_id for job_id in map(bytes.decode, job_ids) if not self._is_running(job_id))
        while batch := list(islice(waiting, max(0, self.max_jobs - self.job_counter))):
            for job_id, score in (await self._claims.claim(self.pool, batch)).items():
                await self.sem.acquire()
                self.job_counter += 1
                task = self.loop.create_task(self.run_job(job_id, score))
                task.add_done_callback(lambda _: self._release_sem_dec_counter_on_complete())
                self.tasks[job_id] = task

    def _is_running(self, job_id: str) -> bool:
        task = self.tasks.get(job_id)
        return task is not None and not task.done()

    # ── running and finishing jobs ───────────────────────────────────────────────────────────

    async def run_job(self, job_id: str, score: int) -> None:
        """Run a job as arq does; if an outage prevents it from beginning, run it after that."""
        claimed_at = time.monotonic()
        LOG_CONTEXT.set({"job_id": job_id})
        while True:
            self._claims.restart_time_limit(job_id)
            try:
                # Reading the job has a time limit; `RunningJob.begin` lifts it.
                async with asyncio.timeout(COMMAND_TIMEOUT_SECONDS) as limit:
                    job = self._jobs[job_id] = RunningJob(score, limit, claimed_at)
                    await super().run_job(job_id, score)
                    return
            except asyncio.CancelledError:
                raise
            except BaseException as error:
                is_outage = is_transient(error)
                if is_outage and self._is_stopping:
                    raise  # `close` ignores it
                if not is_outage or job.has_begun:
                    # A hook has raised it, or it exits the process. (If an outage affects a job
                    # that has begun, `completion` waits for Redis.)
                    self._crashes.append(error)
                    raise
                await self._outage.wait(error)

    @property
    def _is_stopping(self) -> bool:
        return self._session is None or self._session.completion.stopping_since is not None

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
        """Commit the outcome of an attempt together with its status."""
        if self._session is None:  # the job was not run by `main`
            return super().finish_job(
                job_id,
                finish,
                result_data,
                result_timeout_s,
                keep_result_forever,
                incr_score,
                keep_in_progress,
            )
        job = self._pop_job(job_id)
        commands = attempt_commands(
            job_id,
            self.queue_name,
            is_finished=finish,
            result=result_data,
            keep_result_ms=None if keep_result_forever else to_ms(result_timeout_s),
            next_score=job.score + incr_score if incr_score else None,
            keep_in_progress_ms=to_ms(keep_in_progress),
        )
        return self._session.completion.finish_attempt(
            job_id, job, commands, is_finished=finish, result_bytes=len(result_data or b"")
        )

    def finish_failed_job(
        self, job_id: str, result_data: bytes | None
    ) -> Coroutine[Any, Any, None]:
        """Commit the failure of a job that arq gives up without running it, with its status."""
        if self._session is None:  # the job was not run by `main`
            return super().finish_failed_job(job_id, result_data)
        is_kept = self.keep_result_forever or self.keep_result_s
        return self._session.completion.give_up_unrun(
            job_id,
            self._pop_job(job_id),
            result_data if is_kept else None,
            None if self.keep_result_forever else to_ms(self.keep_result_s),
        )

    def _pop_job(self, job_id: str) -> RunningJob:
        job = self._jobs.pop(job_id, RunningJob(0))
        job.begin()
        return job

    # ── stopping ─────────────────────────────────────────────────────────────────────────────

    async def close(self) -> None:
        """Stop as arq does, but in bounded time, and release everything even after an error.

        Raises:
            Exception: The first one that a hook of a job raised, or that `on_shutdown` raised.
        """
        if self._session is not None:
            self._session.completion.stopping_since = time.monotonic()
        if not self._handle_signals:
            self.handle_sig(signal.SIGUSR1)
        if self._pool is None:
            return
        results = await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        if self._session is not None:  # a job's task may be cancelled before its commit is done
            await self._session.completion.wait()
        try:
            await self._delete_own_keys()
            if self.on_shutdown:
                await self.on_shutdown(self.ctx)
        finally:
            await self._close_session()
        for result in results:
            if isinstance(result, Exception) and not is_transient(result):
                raise result

    async def _delete_own_keys(self) -> None:
        """Delete the in-progress keys of uncertain claims and the key of the health check."""
        try:
            async with asyncio.timeout(1):
                await self._claims.release_uncertain(self.pool)
                await self.pool.delete(self.health_check_key)
        except (RedisError, OSError) as error:
            _log.warning("the health check's key was not deleted, it will expire: %s", error)

    @property
    def _crash(self) -> BaseException | None:
        """The first error of a hook, or an exit of the process by a job, if there was one."""
        return self._crashes[0] if self._crashes else None

    async def _close_session(self) -> None:
        self._loop_monitor.stop()
        if self._session is None:  # the pool was given to a worker that never ran
            await self.pool.aclose(close_connection_pool=True)
        else:
            await self._session.close(self._crash)
        self._pool = self._session = self._instrumentation.session = None


def _ensure_event_loop() -> None:
    """Create an event loop if this thread has none, as arq does since 0.28."""
    try:
        asyncio.get_event_loop()
    except RuntimeError:
        asyncio.set_event_loop(asyncio.new_event_loop())


def _signature() -> Signature:
    """Return arq's parameters and those of the status, by which settings are selected."""
    own = [
        p for p in signature(StatusWorker.__init__).parameters.values() if p.kind == p.KEYWORD_ONLY
    ]
    return Signature([*signature(Worker).parameters.values(), *own])


StatusWorker.__signature__ = _signature()  # type: ignore[attr-defined]
