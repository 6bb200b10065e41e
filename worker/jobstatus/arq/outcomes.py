"""The outcome of an attempt, for each path that a job takes through arq. Pure functions."""

import asyncio
import re
from typing import Any, Final

import msgspec
from arq.jobs import SerializationError
from arq.worker import JobExecutionFailed, Retry

from jobstatus.reporting.error_text import ErrorText
from jobstatus.reporting.report import Outcome
from jobstatus.status import JobState
from jobstatus.storage.write import Run

_MAX_TRIES_EXCEEDED: Final = re.compile(r"max \d+ retries exceeded")
"""arq's error text for a job that has no attempts left."""

_ATTEMPT: Final = re.compile(r"attempt \d+ of \d+ (.*); [^;]*", re.DOTALL)
"""The reason of an attempt after which arq runs the job again, made by `retrying_outcome`."""


class JobResult(msgspec.Struct, frozen=True):
    """The result of a job that arq is about to store.

    Attributes:
        function: The function's name; `<unknown>` if the job couldn't be decoded.
        attempt: arq's `job_try`.
        enqueued: When the job was enqueued, in ms since the epoch; 0 if that is not known.
        success: Whether arq considers the job successful.
        value: The return value, the exception, or arq's error text.
    """

    function: str
    attempt: int
    enqueued: int
    success: bool
    value: Any


class CoroutineExit(msgspec.Struct, frozen=True):
    """How the coroutine of an attempt returned or raised.

    Attributes:
        error: The exception that it raised, if any.
        is_cancelled: Whether arq has cancelled it; otherwise a `CancelledError` is the job's own.
        is_aborting: Whether arq was aborting the job at that moment.
        attempt: arq's `job_try`.
        max_tries: How many attempts arq allows.
        timeout: Seconds that arq allows for one attempt; None: no limit.
        seconds: How long ago the worker claimed the job.
        reported: The outcome that the job itself reported, or the application's hook.
        errors: Describes exceptions.
    """

    error: BaseException | None
    is_cancelled: bool
    is_aborting: bool
    attempt: int
    max_tries: int
    timeout: float | None
    seconds: float
    reported: Outcome | None
    errors: ErrorText


def raise_requested_retry(
    reported: Outcome | None, *, attempt: int, max_tries: int, retries_jobs: bool
) -> None:
    """Make arq run a job again that has called `report.retry()` and then returned.

    arq decides by exceptions only. Without one it would consider the job successful.

    Args:
        reported: The outcome that the job has reported, if any.
        attempt: arq's `job_try`.
        max_tries: How many attempts arq allows.
        retries_jobs: The worker's setting `retry_jobs`.

    Raises:
        Retry: The job is run again, after the delay that it has reported.
        JobExecutionFailed: The job may not run again; the text contains the reported reason.
    """
    if reported is None or reported.state is not JobState.RETRYING:
        return
    if retries_jobs and attempt < max_tries:
        raise Retry(reported.delay)
    if retries_jobs:
        raise JobExecutionFailed(_exhausted_reason(attempt, _what_failed(reported.reason)))
    what = _what_failed(reported.reason)
    raise JobExecutionFailed(
        f"attempt {attempt} of {max_tries} {what}; this worker does not retry jobs"
    )


def _what_failed(reason: str) -> str:
    return f"failed: {reason}" if reason else "asked to be run again"


def _exhausted_reason(attempts: int, what: str) -> str:
    """Return the reason of a job after its last attempt.

    Args:
        attempts: The number of attempts.
        what: What the last attempt did: `failed: …`, or another verb.
    """
    cause = what.removeprefix("failed: ")
    tries = "1 attempt" if attempts == 1 else f"{attempts} attempts"
    return f"failed after {tries}: {cause if cause != what else f'the last one {what}'}"


def finished_outcome(coroutine: CoroutineExit, result: JobResult | None) -> Outcome:
    """Return the outcome of an attempt after which arq doesn't run the job again.

    Args:
        coroutine: How the coroutine returned or raised.
        result: The result that arq stores; None if it stores none.
    """
    error = coroutine.error
    if isinstance(error, asyncio.CancelledError) and coroutine.is_cancelled:
        return _cancelled_outcome(coroutine, result)
    if error is not None:
        reported = coroutine.reported
        is_retry = reported is not None and reported.state is JobState.RETRYING
        if is_retry and isinstance(error, JobExecutionFailed):  # by `raise_requested_retry`
            return Outcome(JobState.FAILED, str(error))
        return _reported_outcome(coroutine, JobState.FAILED, JobState.ABORTED) or Outcome(
            JobState.FAILED, coroutine.errors.of(error)
        )
    if result is not None and not result.success:
        # The coroutine returned, but arq stores a failure: the value can't be serialized.
        return Outcome(JobState.FAILED, _failure_reason(result.value, coroutine.errors))
    return _reported_outcome(coroutine, *JobState) or Outcome(JobState.SUCCEEDED)


def _cancelled_outcome(coroutine: CoroutineExit, result: JobResult | None) -> Outcome:
    """Return the outcome of a cancelled attempt that isn't followed by another one.

    arq cancels such an attempt to abort it or because of its timeout; if the worker doesn't retry
    jobs, also because the worker stops.
    """
    if coroutine.is_aborting:
        return Outcome(JobState.ABORTED, "aborted while it ran")
    timeout = coroutine.timeout
    if result is not None:
        has_timed_out = not isinstance(result.value, asyncio.CancelledError)
    else:
        has_timed_out = timeout is not None and coroutine.seconds >= timeout
    if timeout is None or not has_timed_out:
        return Outcome(JobState.FAILED, "cancelled: its worker is shutting down")
    return Outcome(JobState.FAILED, f"timed out after {timeout:g} s")


def _reported_outcome(coroutine: CoroutineExit, *allowed: JobState) -> Outcome | None:
    """Return the outcome that the job reported, if it can be true of a job that isn't retried."""
    reported = coroutine.reported
    if reported is None or reported.state not in allowed or reported.state is JobState.RETRYING:
        return None
    return reported


def retrying_outcome(coroutine: CoroutineExit) -> Outcome:
    """Return the outcome of an attempt after which arq runs the job again."""
    score = coroutine.error.defer_score if isinstance(coroutine.error, Retry) else None
    delay = score / 1000 if score else None
    which = f"attempt {coroutine.attempt} of {coroutine.max_tries}"
    when = "next at once" if delay is None else f"next in {delay:g} s"
    if coroutine.attempt >= coroutine.max_tries:
        # arq puts the job into the queue once more, and only then notices that it may not run.
        when = "no attempts are left"
    return Outcome(JobState.RETRYING, f"{which} {_retry_cause(coroutine)}; {when}", delay)


def _retry_cause(coroutine: CoroutineExit) -> str:
    error = coroutine.error
    if isinstance(error, asyncio.CancelledError) and coroutine.is_cancelled:
        return "was cut short: its worker is shutting down"
    if coroutine.reported is not None and coroutine.reported.reason:
        return f"failed: {coroutine.reported.reason}"
    cause = error and (error.__cause__ or error.__context__)
    if cause is not None:
        return f"failed: {coroutine.errors.of(cause)}".removesuffix(": ")
    if isinstance(error, Retry) or error is None:
        return "asked to be run again"
    return f"failed: {coroutine.errors.of(error)}".removesuffix(": ")


def interrupted_outcome(
    attempt: int, error: BaseException | None, retry_within_seconds: float, errors: ErrorText
) -> Outcome:
    """Return the outcome of an attempt whose worker stopped before it could commit a result.

    Args:
        attempt: arq's `job_try`.
        error: The error that stopped the worker, if any.
        retry_within_seconds: Seconds after which the claim on the job has expired, at most.
        errors: Describes exceptions.
    """
    shown = errors.of(error) if error else ""
    cause = f"{shown} stopped its worker" if shown else "its worker stopped"
    reason = f"attempt {attempt} was cut short: {cause}; next within {retry_within_seconds:g} s"
    return Outcome(JobState.RETRYING, reason, retry_within_seconds)


def is_exhausted(result: JobResult) -> bool:
    """Return whether arq gives up a job because it has no attempts left."""
    return bool(_MAX_TRIES_EXCEEDED.fullmatch(str(result.value)))


def exhausted_outcome(max_tries: int, last: Run | None) -> Outcome:
    """Return the outcome of a job that has no attempts left.

    Args:
        max_tries: The number of attempts that the worker allows.
        last: The stored run of the job, which contains what became of the last attempt.
    """
    attempts = max_tries if last is None or not last.attempt else last.attempt
    attempt = None if last is None else _ATTEMPT.fullmatch(last.reason)
    if attempt is not None:
        return Outcome(JobState.FAILED, _exhausted_reason(attempts, attempt[1]))
    if last is not None and last.state == JobState.IN_PROGRESS:
        return Outcome(
            JobState.FAILED, _exhausted_reason(attempts, "stopped without a report of its end")
        )
    tries = "1 attempt is" if attempts == 1 else f"{attempts} attempts are"
    return Outcome(JobState.FAILED, f"no attempts are left: {tries} allowed")


def unrun_outcome(result: JobResult, errors: ErrorText) -> Outcome:
    """Return the outcome of a job that arq gives up without running it (again)."""
    if isinstance(result.value, asyncio.CancelledError):
        return Outcome(JobState.ABORTED, "aborted before it started")
    if isinstance(result.value, TimeoutError):
        return Outcome(JobState.FAILED, "timed out before it started")
    return Outcome(JobState.FAILED, _failure_reason(result.value, errors))


def _failure_reason(value: object, errors: ErrorText) -> str:
    if isinstance(value, SerializationError) and value.__cause__ is not None:
        return f"{value}: {errors.of(value.__cause__)}".removesuffix(": ")
    if isinstance(value, JobExecutionFailed):
        return str(value)
    return errors.of(value) if isinstance(value, BaseException) else str(value)
