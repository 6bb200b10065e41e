"""How each of arq's paths out of a job reads as an outcome. Pure; the paths are arq 0.28's."""

import asyncio
from typing import Any

import msgspec
from arq.jobs import SerializationError
from arq.worker import JobExecutionFailed, Retry

from jobstatus.publishing.job_context import describe
from jobstatus.reporting.report import Outcome
from jobstatus.status import JobState


class JobResult(msgspec.Struct, frozen=True):
    """What arq is about to keep as the result of a job.

    Attributes:
        function: The function's name; `<unknown>` where the job couldn't be read.
        attempt: arq's `job_try`.
        enqueued: When the job was enqueued, ms since the epoch; 0 where that is not known.
        success: Whether arq calls it a success.
        value: The return value, or the exception, or arq's words for it.
    """

    function: str
    attempt: int
    enqueued: int
    success: bool
    value: Any


class CoroutineEnd(msgspec.Struct, frozen=True):
    """How the coroutine of an attempt ended.

    Attributes:
        error: What it raised, if anything.
        aborting: Whether arq was aborting the job at that moment.
        attempt: arq's `job_try`.
        max_tries: How many attempts arq allows.
        timeout: Seconds that arq allows for one attempt; None for no limit.
        seconds: For how long the worker has had it.
        explicit: What the job said of its end, if anything.
    """

    error: BaseException | None
    aborting: bool
    attempt: int
    max_tries: int
    timeout: float | None
    seconds: float
    explicit: Outcome | None


def finished(ended: CoroutineEnd, result: JobResult | None) -> Outcome:
    """The outcome of an attempt after which arq doesn't run the job again.

    Args:
        ended: How the coroutine ended.
        result: What arq keeps; None where it keeps no results.
    """
    error = ended.error
    if isinstance(error, asyncio.CancelledError):
        if ended.aborting:
            return Outcome(JobState.ABORTED, "aborted while it ran")
        # arq cancels what is over only to abort it or because its time is up; without retries
        # also when the worker stops.
        if result is not None:
            stopped = isinstance(result.value, asyncio.CancelledError)
        else:
            stopped = ended.timeout is None or ended.seconds < ended.timeout
        if ended.timeout is None or stopped:
            return Outcome(JobState.FAILED, "cancelled: its worker is shutting down")
        return Outcome(JobState.FAILED, f"timed out after {ended.timeout:g} s")
    if error is not None:
        return _explicit(ended, JobState.FAILED, JobState.ABORTED) or Outcome(
            JobState.FAILED, describe(error)
        )
    if result is not None and not result.success:
        # The coroutine returned, yet arq keeps a failure: the value can't be serialized.
        return Outcome(JobState.FAILED, _words(result.value))
    return _explicit(ended, *JobState) or Outcome(JobState.SUCCEEDED)


def _explicit(ended: CoroutineEnd, *allowed: JobState) -> Outcome | None:
    """What the job said of its end, where that can be true of a job that isn't run again."""
    explicit = ended.explicit
    if explicit is None or explicit.state not in allowed or explicit.state is JobState.RETRYING:
        return None
    return explicit


def retrying(ended: CoroutineEnd, delay: float | None) -> Outcome:
    """The outcome of an attempt after which arq runs the job again.

    Args:
        ended: How the coroutine ended.
        delay: Seconds until then; None for as soon as a worker is free.
    """
    which = f"attempt {ended.attempt} of {ended.max_tries}"
    when = "next at once" if delay is None else f"next in {delay:g} s"
    return Outcome(JobState.RETRYING, f"{which} {_cause(ended)}; {when}", delay)


def interrupted(attempt: int, error: BaseException | None, within: float) -> Outcome:
    """The outcome of an attempt whose worker stopped, and couldn't tell arq how it ended.

    Args:
        attempt: arq's `job_try`.
        error: What stopped the worker, if it was an error.
        within: Seconds until arq takes the attempt for lost, at most.
    """
    cause = f"{describe(error)} stopped its worker" if error else "its worker stopped"
    reason = f"attempt {attempt} was cut short: {cause}; next within {within:g} s"
    return Outcome(JobState.RETRYING, reason, within)


def _cause(ended: CoroutineEnd) -> str:
    if isinstance(ended.error, asyncio.CancelledError):
        return "was cut short: its worker is shutting down"
    if ended.explicit is not None and ended.explicit.reason:
        return f"failed: {ended.explicit.reason}"
    error = ended.error
    cause = error and (error.__cause__ or error.__context__)
    if cause is not None:
        return f"failed: {describe(cause)}"
    if isinstance(error, Retry) or error is None:
        return "asked to be run again"
    return f"failed: {describe(error)}"


def not_run(result: JobResult) -> Outcome:
    """The outcome of a job that is over without having been run (again)."""
    if isinstance(result.value, asyncio.CancelledError):
        return Outcome(JobState.ABORTED, "aborted before it started")
    if isinstance(result.value, TimeoutError):
        return Outcome(JobState.FAILED, "timed out before it started")
    return Outcome(JobState.FAILED, _words(result.value))


def _words(value: object) -> str:
    if isinstance(value, SerializationError) and value.__cause__ is not None:
        return f"{value}: {describe(value.__cause__)}"
    if isinstance(value, JobExecutionFailed):
        return str(value)
    return describe(value) if isinstance(value, BaseException) else str(value)
