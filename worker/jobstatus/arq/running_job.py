"""What the worker knows of a job while it has it."""

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from typing import Any

from jobstatus.arq.outcomes import CoroutineEnd, JobResult
from jobstatus.arq.renewal import Claim
from jobstatus.publishing.attempt import Attempt


@dataclass
class RunningJob:
    """What the worker knows of a job while `run_job` has it.

    Attributes:
        score: The job's score in the queue, ms since the epoch.
        limit: Bounds the time for reading it.
        since: When it was taken, by `time.monotonic()`.
        begun: Whether more was done with it than reading it: a hook or the job has run.
        attempt: Its attempt, once its coroutine has begun.
        ended: How its coroutine ended.
        result: What arq is about to keep.
        carrier: Headers that name the trace in which it was enqueued.
        span: The attempt's, where there are traces.
        claim: The claim on it, while its outcome is being committed.
    """

    score: int
    limit: asyncio.Timeout | None = None
    since: float = field(default_factory=time.monotonic)
    begun: bool = False
    attempt: Attempt | None = None
    ended: CoroutineEnd | None = None
    result: JobResult | None = None
    carrier: dict[str, str] = field(default_factory=dict)
    span: Any = None
    claim: Claim | None = None

    def begin(self) -> None:
        """It is read; from here on it may take its time, and is not simply taken again."""
        if not self.begun:
            self.begun = True
            if self.limit is not None:
                with contextlib.suppress(RuntimeError):  # it has just run out: arq retries the job
                    self.limit.reschedule(None)
