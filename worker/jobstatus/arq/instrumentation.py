"""Wrappers around a worker's functions, start hook and serializers, which make its jobs visible.

arq calls these on its own, and passes on what only they can see: which attempt runs, how its
coroutine returned or raised, what result is stored, and in which trace the job was enqueued.
"""

import asyncio
import contextlib
import logging
import pickle
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from arq.utils import to_unix_ms
from arq.worker import Worker

from jobstatus.arq.hooks import StatusHooks
from jobstatus.arq.names import name_of
from jobstatus.arq.outcomes import CoroutineExit, JobResult, raise_requested_retry
from jobstatus.arq.running_job import RunningJob
from jobstatus.arq.session import Session
from jobstatus.logs import LOG_CONTEXT
from jobstatus.publishing.attempt import Attempt
from jobstatus.reporting.report import CURRENT_REPORT
from jobstatus.tracing import TRACE_FIELD, tracer

_log = logging.getLogger("jobstatus")


class Instrumentation:
    """The wrappers of one worker, and the jobs that the worker is running.

    Attributes:
        jobs: The running jobs, by job id.
        session: The worker's session; None while the worker is not running.
        plain_serializer: The worker's own serializer, which is not wrapped; None: arq's default.
        plain_deserializer: Likewise its deserializer.
    """

    def __init__(self, worker: Worker, hooks: StatusHooks) -> None:
        """Wrap the start hook and the serializers of a worker.

        Args:
            worker: The worker.
            hooks: The application's functions that decide what is shown.
        """
        self.jobs: dict[str, RunningJob] = {}
        self.plain_serializer = worker.job_serializer
        self.plain_deserializer = worker.job_deserializer
        self._worker = worker
        self._hooks = hooks
        self.session: Session | None = None
        self._tracer = tracer("jobstatus-worker")
        if self._tracer is not None:
            worker.job_deserializer = self._deserialize_job
        worker.job_serializer = self._serialize_result
        if worker.on_job_start is not None:
            hook: Any = self._wrap_start_hook(worker.on_job_start)
            worker.on_job_start = hook

    def _deserialize_job(self, data: bytes) -> Any:
        """Deserialize a job, and remember in which trace it was enqueued."""
        fields = (self.plain_deserializer or pickle.loads)(data)
        job = self._job_of_this_task()
        if job is not None and isinstance(fields, dict):
            job.trace_headers = fields.get(TRACE_FIELD, {})
        return fields

    def _serialize_result(self, data: dict[str, Any]) -> bytes:
        """Serialize a result as arq would, and remember what it contains."""
        job = self._job_of_this_task()
        if job is not None and "s" in data:
            name = name_of(self._hooks.name, data["f"], data["a"], data["k"])
            job.result = JobResult(name, data["t"], data["et"], data["s"], data["r"])
        return (self.plain_serializer or pickle.dumps)(data)

    def _job_of_this_task(self) -> RunningJob | None:
        """Return the job that arq is running in this task."""
        return self.jobs.get(LOG_CONTEXT.get().get("job_id", ""))

    def _wrap_start_hook(self, hook: Any) -> Callable[[dict[Any, Any]], Coroutine[Any, Any, None]]:
        """Return a hook that marks its job as begun before it calls `hook`."""

        async def run(ctx: dict[Any, Any]) -> None:
            if (job := self.jobs.get(ctx.get("job_id", ""))) is not None:
                job.begin()
            await hook(ctx)

        return run

    def wrap_coroutine(self, function: Any) -> Callable[..., Coroutine[Any, Any, Any]]:
        """Return the function's coroutine, which runs with a report of its attempt."""
        coroutine = function.coroutine
        worker = self._worker
        timeout = worker.job_timeout_s if function.timeout_s is None else function.timeout_s
        max_tries = worker.max_tries if function.max_tries is None else function.max_tries

        async def run(ctx: dict[Any, Any], *args: Any, **kwargs: Any) -> Any:
            job = self.jobs.get(ctx.get("job_id", ""))
            if job is None:  # the application calls the function itself, as in its tests
                return await coroutine(ctx, *args, **kwargs)
            with self._span(job, ctx, function.name):
                name = name_of(self._hooks.name, function.name, args, kwargs)
                attempt = self._begin_attempt(job, ctx, name, timeout)
                if attempt is None:
                    return await coroutine(ctx, *args, **kwargs)
                return await run_attempt(job, attempt, ctx, *args, **kwargs)

        async def run_attempt(
            job: RunningJob, attempt: Attempt, ctx: dict[Any, Any], *args: Any, **kwargs: Any
        ) -> Any:
            error: BaseException | None = None
            reported = None
            try:
                result = await coroutine(ctx, *args, **kwargs)
                reported = attempt.report.outcome or self._hooks.outcome_of(function.name, result)
                raise_requested_retry(
                    reported,
                    attempt=ctx["job_try"],
                    max_tries=max_tries,
                    retries_jobs=worker.retry_jobs,
                )
            except BaseException as raised:
                error = raised
                raise
            else:
                if self._stores_results() and attempt.report.result is None:
                    attempt.report.result = result
                return result
            finally:
                job.coroutine = CoroutineExit(
                    error=error,
                    is_cancelled=_is_cancelled(),
                    is_aborting=ctx["job_id"] in worker.aborting_tasks,
                    attempt=ctx["job_try"],
                    max_tries=max_tries,
                    timeout=timeout,
                    seconds=time.monotonic() - job.claimed_at,
                    reported=reported or attempt.report.outcome,
                    errors=self._hooks.errors,
                )

        return run

    def _begin_attempt(
        self, job: RunningJob, ctx: dict[Any, Any], name: str, timeout: float | None
    ) -> Attempt | None:
        """Publish the job as in progress; return None if that was not possible."""
        session = self.session
        if session is None:
            return None
        try:
            created_ms = to_unix_ms(ctx["enqueue_time"])
            attempt = session.publisher.attempt(
                ctx["job_id"], name, created_ms, ctx["job_try"], timeout or None
            )
        except Exception:  # the job must run, with or without its status
            _log.exception("job %s: its status can't be published", ctx["job_id"])
            return None
        job.begin()
        job.attempt = attempt
        attempt.span = job.span
        CURRENT_REPORT.set(attempt.report)
        session.publisher.begin(attempt)
        session.on_attempt_begun()
        return attempt

    def _stores_results(self) -> bool:
        """Whether the values that jobs return are stored as their results."""
        return self.session is not None and self.session.publisher.settings.results

    @contextlib.contextmanager
    def _span(self, job: RunningJob, ctx: dict[Any, Any], name: str) -> Iterator[None]:
        """Run a block in the span of the attempt, in the trace in which the job was enqueued."""
        if self._tracer is None:
            yield
            return
        attributes = {"job_id": ctx["job_id"], "job_name": name, "job_attempt": ctx["job_try"]}
        with self._tracer.span(name, "CONSUMER", job.trace_headers, **attributes) as job.span:
            yield


def _is_cancelled() -> bool:
    """Return whether the cancellation of the present task has been requested."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
