"""What a client returns beside `JobStatus` and `JobDetails`."""

from typing import Literal

import msgspec

from jobstatus.details import JobDetails


class JobCounts(msgspec.Struct, frozen=True):
    """The number of jobs in each stored state; a job whose worker has died counts as it was."""

    pending: int = 0
    in_progress: int = 0
    retrying: int = 0
    succeeded: int = 0
    aborted: int = 0
    failed: int = 0


class JobList(msgspec.Struct, frozen=True):
    """A page of the list of jobs, newest first.

    Attributes:
        jobs: The jobs of the page.
        next: The cursor of the next page; None after the last one.
    """

    jobs: tuple[JobDetails, ...]
    next: str | None = None


class ListEvent(msgspec.Struct, frozen=True):
    """What has happened to a list that is followed.

    Attributes:
        kind: `list`: `jobs` is the whole first page, at first and after a lost connection;
            `status`: each of `jobs` is new, or has changed; `counts`: `counts` has changed;
            `lost`: the connection is lost, as `problem` says, and the client tries again.
        jobs: The jobs.
        counts: The number of all jobs of each state.
        problem: Why the connection is lost.
    """

    kind: Literal["list", "status", "counts", "lost"]
    jobs: tuple[JobDetails, ...] = ()
    counts: JobCounts | None = None
    problem: Exception | None = None
