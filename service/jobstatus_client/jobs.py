"""Jobs that are watched, and what decides when a wait for them is over."""

import math
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Final, Literal
from uuid import UUID

from jobstatus.details import JobDetails, UnknownCause
from jobstatus.status import JobState
from jobstatus_client.errors import WaitTimeoutError
from jobstatus_client.exchange import JobId
from jobstatus_client.pacing import Clock

STALE_SECONDS: Final = 5.0
"""Replicas of the service differ for at most 2 s: after this time the older status is true."""

_LONG_SECONDS: Final = 86_400.0 * 365
"""A wait for longer is one without a limit; more than `threading.TIMEOUT_MAX` is an error."""

Until = Literal["done", "any-done"]
OnChange = Callable[[JobDetails], object]


class WatchedJob:
    """A job that is watched.

    Attributes:
        uuid: Its UUID.
        status: The newest status; None until the first answer.
        error: Why the job can't be watched; None while it can.
        is_connected: False from a lost connection until the next answer.
        problem: Why the connection was lost; None while there is one.
        listeners: Called after each change of the other attributes.
    """

    def __init__(self, uuid: UUID, clock: Clock) -> None:
        self.uuid = uuid
        self.status: JobDetails | None = None
        self.error: Exception | None = None
        self.is_connected = True
        self.problem: Exception | None = None
        self.listeners: list[Callable[[], None]] = []
        self._clock = clock
        self._accepted_at = 0.0
        self._known: JobDetails | None = None  # the last status that was not `unknown`

    @property
    def is_finished(self) -> bool:
        """Whether its last state is final."""
        return self.status is not None and self.status.state.is_final

    @property
    def is_settled(self) -> bool:
        """Whether there is nothing to ask for: it has finished, or can't be watched."""
        return self.error is not None or self.is_finished

    def accept(self, status: JobDetails) -> bool:
        """Take a status from the service; False: it is older than the last one, and ignored."""
        last, now = self.status, self._clock()
        is_old = self._known is not None and _is_older(status, self._known)
        if is_old and now - self._accepted_at < STALE_SECONDS:
            self._set(last, is_connected=True)
            return False
        self._accepted_at = now
        if status.state is not JobState.UNKNOWN:
            self._known = status
        self._set(last if status == last else status, is_connected=True)
        return True

    def reconnect(self) -> None:
        """Note that the service has confirmed the last status."""
        self._accepted_at = self._clock()
        self._set(self.status, is_connected=True)

    def nothing_known(self) -> JobDetails:
        """Return the status before the first answer."""
        epoch = datetime.fromtimestamp(0, UTC)
        return JobDetails(id=self.uuid, created_at=epoch, updated_at=epoch, state=JobState.UNKNOWN)

    def disconnect(self, problem: Exception) -> None:
        """Note that the connection is lost."""
        self._set(self.status, is_connected=False)
        self.problem = problem

    def fail(self, error: Exception) -> None:
        """Note that the job can't be watched."""
        self.error = error
        self._notify()

    def _set(self, status: JobDetails | None, *, is_connected: bool) -> None:
        is_changed = status is not self.status or is_connected != self.is_connected
        self.status, self.is_connected, self.problem = status, is_connected, None
        if is_changed:
            self._notify()

    def _notify(self) -> None:
        for listener in list(self.listeners):
            listener()


def _is_older(status: JobDetails, last: JobDetails) -> bool:
    """Return whether a status is older than the last one, as that of a replica that is behind.

    A new run of the job is newer than the outcome of the last run.
    """
    if status.state is JobState.UNKNOWN:
        is_absent = status.unknown_cause is UnknownCause.NO_RECORD
        return is_absent or (last.state.is_final and status.created_at <= last.created_at)
    if status.created_at > last.created_at:
        return False
    is_reopened = last.state.is_final and status.state is not last.state
    return is_reopened or status.updated_at < last.updated_at


class Wait:
    """Decides when a wait for jobs is over.

    Args:
        jobs: The jobs.
        ids: Their ids, as the caller has given them.
        until: Whether all of them must have finished, or any.
        timeout: Seconds from now; None for no limit.
        unknown: Seconds for which a job may be `unknown` while the service answers.
        on_change: Called with each status.
        clock: Tells the time.
    """

    def __init__(
        self,
        jobs: Sequence[WatchedJob],
        ids: JobId | Iterable[JobId],
        until: Until,
        timeout: float | None,
        unknown: float,
        on_change: OnChange | None,
        clock: Clock,
    ) -> None:
        self._jobs = jobs
        self._is_single = isinstance(ids, str | UUID)
        self._ids = [ids] if isinstance(ids, str | UUID) else list(ids)
        self._changes = Changes(jobs)
        number = len({job.uuid for job in jobs})
        self._enough = min(number, 1) if until == "any-done" else number
        self._clock = clock
        self._unknown = unknown
        self._on_change = on_change
        self._deadline = None if timeout is None else clock() + timeout
        self._unknown_since: dict[UUID, float] = {}

    def is_over(self) -> bool:
        """Return whether enough jobs have finished.

        Raises:
            WaitTimeoutError: The time is up, or a job has been `unknown` for too long.
            Exception: A job can't be watched.
        """
        for status in self._changes.take():
            if self._on_change is not None:
                self._on_change(status)
        statuses = self._changes.taken
        if sum(status.state.is_final for status in statuses.values()) >= self._enough:
            return True
        now = self._clock()
        if self._deadline is not None and now >= self._deadline:
            raise self._timeout_error(self._not_finished())
        for job, job_id in zip(self._jobs, self._ids, strict=True):
            last = statuses.get(job.uuid)
            if last is None or last.state is not JobState.UNKNOWN:
                self._unknown_since.pop(job.uuid, None)
                continue
            since = self._unknown_since.setdefault(job.uuid, now)
            if now - since >= self._unknown and job.is_connected:
                raise self._timeout_error(f"The job {job_id} has been unknown for too long.")
        return False

    def result(self) -> JobDetails | Sequence[JobDetails]:
        """Return the details of the job, or of all jobs if several ids were given."""
        taken = self._changes.taken
        details = [taken.get(job.uuid) or job.nothing_known() for job in self._jobs]
        return details[0] if self._is_single else details

    def seconds_left(self) -> float | None:
        """Return after how many seconds to call `is_over` without a change; None: never."""
        times = [
            self._unknown_since[job.uuid] + self._unknown
            for job in self._jobs
            if job.uuid in self._unknown_since and job.is_connected
        ]
        times += [] if self._deadline is None else [self._deadline]
        left = max(min(times) - self._clock(), 0.0) if times else math.inf
        return left if left < _LONG_SECONDS else None

    def _not_finished(self) -> str:
        unfinished = {job.uuid: job for job in self._jobs if not job.is_finished}
        problems = [str(job.problem) for job in unfinished.values() if job.problem is not None]
        trouble = f" The last problem: {problems[-1]}" if problems else ""
        if len(self._jobs) == 1:
            return f"The job {self._ids[0]} has not finished in time.{trouble}"
        number = len({job.uuid for job in self._jobs})
        return f"{len(unfinished)} of {number} jobs have not finished in time.{trouble}"

    def _timeout_error(self, message: str) -> WaitTimeoutError:
        return WaitTimeoutError(message, [self._changes.taken.get(job.uuid) for job in self._jobs])


class Changes:
    """The changes of watched jobs that have not been taken yet.

    Attributes:
        taken: The newest statuses that were taken.
    """

    def __init__(self, jobs: Sequence[WatchedJob]) -> None:
        self.taken: dict[UUID, JobDetails] = {}
        self._jobs = jobs

    @property
    def is_over(self) -> bool:
        """Whether all jobs have finished, and all changes were taken."""
        statuses = self.taken.values()
        return len(statuses) == len({job.uuid for job in self._jobs}) and all(
            status.state.is_final for status in statuses
        )

    def take(self) -> list[JobDetails]:
        """Return the newest status of each job that has changed since the last call.

        Raises:
            Exception: A job can't be watched.
        """
        changed = []
        for job in self._jobs:
            if job.error is not None:
                raise job.error
            status = job.status
            if status is not None and self.taken.get(job.uuid) is not status:
                self.taken[job.uuid] = status
                changed.append(status)
        return changed
