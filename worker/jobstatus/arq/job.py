"""What the worker knows of a job while it has it."""

import time
from dataclasses import dataclass, field

from jobstatus.arq.ending import Ended, Result
from jobstatus.attempt import Attempt


@dataclass
class Job:
    """What the worker knows of a job while `run_job` has it.

    Attributes:
        score: The job's score in the queue, ms since the epoch.
        since: When it was taken, by `time.monotonic()`.
        begun: Whether more was done with it than reading it: a hook or the job has run.
        attempt: Its attempt, once its coroutine has begun.
        ended: How its coroutine ended.
        result: What arq is about to keep.
    """

    score: int
    since: float = field(default_factory=time.monotonic)
    begun: bool = False
    attempt: Attempt | None = None
    ended: Ended | None = None
    result: Result | None = None
