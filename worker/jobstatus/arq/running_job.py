"""The state of a job while a worker is running it."""

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from typing import Any

from jobstatus.arq.outcomes import CoroutineExit, JobResult
from jobstatus.arq.renewal import Claim
from jobstatus.publishing.attempt import Attempt


@dataclass
class RunningJob:
    """A job from its claim until its outcome is committed.

    Attributes:
        score: The job's score in the queue, in ms since the epoch.
        read_limit: The time limit for reading the job from Redis.
        claimed_at: When the worker started to run the job, on the monotonic clock.
        has_begun: Whether a hook or the job's coroutine has been called. Before that, the job can
            be read again after an outage.
        attempt: The published attempt, once the coroutine has been called.
        coroutine: How the coroutine returned or raised.
        result: The result that arq is about to store.
        trace_headers: The headers that name the trace in which the job was enqueued.
        span: The span of the attempt, if traces are on.
        claim: The claim on the job, once its outcome is being committed.
    """

    score: int
    read_limit: asyncio.Timeout | None = None
    claimed_at: float = field(default_factory=time.monotonic)
    has_begun: bool = False
    attempt: Attempt | None = None
    coroutine: CoroutineExit | None = None
    result: JobResult | None = None
    trace_headers: dict[str, str] = field(default_factory=dict)
    span: Any = None
    claim: Claim | None = None

    def begin(self) -> None:
        """Note that the job has been read from Redis, and lift the time limit for that."""
        if not self.has_begun:
            self.has_begun = True
            if self.read_limit is not None:
                with contextlib.suppress(RuntimeError):  # it has just expired: arq retries the job
                    self.read_limit.reschedule(None)
