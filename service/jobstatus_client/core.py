"""What both clients share: requests with credentials, the watched jobs, and the operations."""

import inspect
import math
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any, Final
from urllib.parse import urlencode
from uuid import UUID

import msgspec

from jobstatus.details import JobDetails
from jobstatus.errors import JobStatusError
from jobstatus.status import JobState, JobStatus
from jobstatus_client.channel import ANSWER_SECONDS, Channel
from jobstatus_client.connection import checked, key_of_environment, service_url
from jobstatus_client.errors import (
    ClientClosedError,
    RequestError,
    UnavailableError,
)
from jobstatus_client.exchange import (
    Answer,
    Authorize,
    Flow,
    JobId,
    Send,
    Sleep,
    T,
    decoder,
    error_of,
    uuid_of,
)
from jobstatus_client.jobs import OnChange, Until, Wait, WatchedJob
from jobstatus_client.models import JobCounts, JobList
from jobstatus_client.pacing import Backoff, Clock, Fallback, Random

Seconds = timedelta | float

_ACCEPTED: Final = frozenset({200, 204, 304})
_MAX_REMEMBERED: Final = 1_000
_MAX_REMEMBERED_BYTES: Final = 16_384


def seconds_of(time: Seconds) -> float:
    """Return a time in seconds."""
    if not isinstance(time, int | float | timedelta):
        raise TypeError(f"a time must be seconds or a timedelta, not {type(time).__name__}")
    return time.total_seconds() if isinstance(time, timedelta) else float(time)


class Core:
    """The state and the decisions of a client, without input and output.

    Attributes:
        url: The address of the service.
        credential: What is sent in `Authorization`; None for nothing, or before it is known.
        ask: The function that returns the credential, also after a 401; None if there is none.
        start: Runs a channel; set by the shell.
    """

    def __init__(
        self,
        url: str | None,
        credentials: str | Callable[[], Any] | None,
        timeout: Seconds,
        clock: Clock,
        random: Random,
    ) -> None:
        self.url = service_url(url)
        self.clock = clock
        self.random = random
        self.fallback = Fallback(clock, random)
        self.not_before = -math.inf
        credentials = credentials or key_of_environment()
        self.ask = credentials if callable(credentials) else None
        self.credential = None if callable(credentials) else checked(credentials)
        self._pid = os.getpid()
        self.start: Callable[[Channel], None] = lambda _: None
        self._timeout = seconds_of(timeout)
        self._jobs: dict[UUID, WatchedJob] = {}
        self._channels: dict[UUID, Channel] = {}
        self._newest_channel: Channel | None = None
        self._answers: OrderedDict[str, tuple[str, bytes]] = OrderedDict()
        self._is_closed = False

    def request(
        self, kind: type[Send], path: str, headers: dict[str, str], timeout: float
    ) -> Flow[Answer]:
        """Send a request with the credential; after a 401 once more with a new one.

        Raises:
            RequestError: The status is another one than 200, 204 or 304.
        """
        rejected, has_refreshed = None, False
        while True:
            credential = yield Authorize(rejected)
            authorization = {"Authorization": f"Bearer {credential}"} if credential else {}
            answer: Answer = yield kind(path, headers | authorization, timeout)
            if answer.status in _ACCEPTED:
                return answer
            is_expired = answer.status == 401 and self.ask  # noqa: PLR2004
            if not is_expired or has_refreshed:
                raise error_of(answer)
            rejected, has_refreshed = credential, True

    def _fetch(self, path: str, decode: Callable[[bytes], T]) -> Flow[T]:
        """Get a resource; try again, for the timeout, while the service is unavailable."""
        self.check_open()
        backoff, give_up_at = Backoff(self.clock, self.random), self.clock() + self._timeout
        while True:
            etag, body = self._answers.get(path, ("", b""))
            try:
                headers = {"If-None-Match": etag} if etag else {}
                timeout = max(min(ANSWER_SECONDS, give_up_at - self.clock()), 0.1)
                answer = yield from self.request(Send, path, headers, timeout)
                if answer.is_ok:
                    body = answer.body
                    self._remember(path, answer)
                return decode(body)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                failure: JobStatusError = UnavailableError(
                    f"The answer is not from jobstatus: {error}"
                )
            except UnavailableError as error:
                failure = error
            except RequestError as error:
                if not error.is_transient:
                    raise
                failure = error
            seconds = backoff.next(failure)
            if self.clock() + seconds > give_up_at:
                raise failure
            yield Sleep(seconds)

    def status(self, job_id: JobId) -> Flow[JobStatus]:
        """Get the status of a job."""
        return self._fetch(f"/api/jobs/{uuid_of(job_id)}", decoder(JobStatus))

    def details(self, job_id: JobId) -> Flow[JobDetails]:
        """Get the details of a job."""
        return self._fetch(f"/api/jobs/{uuid_of(job_id)}/details", decoder(JobDetails))

    def result(self, job_id: JobId) -> Flow[Any]:
        """Get the result of a job."""
        return self._fetch(f"/api/jobs/{uuid_of(job_id)}/result", msgspec.json.decode)

    def page(self, query: str) -> Flow[JobList]:
        """Get a page of the list of jobs."""
        return self._fetch(f"/api/jobs?{query}", decoder(JobList))

    def counts(self) -> Flow[JobCounts]:
        """Get the number of jobs in each state."""
        return self._fetch("/api/jobs/counts", decoder(JobCounts))

    def watch(self, uuids: Iterable[UUID], listener: Callable[[], None]) -> list[WatchedJob]:
        """Begin to watch jobs; the listener is called after each change. End it with `unwatch`."""
        self.check_open()
        uuids = list(uuids)
        jobs: dict[UUID, WatchedJob] = {}
        try:
            for uuid in dict.fromkeys(uuids):
                job = self._jobs.get(uuid)
                if job is None or job.is_settled:
                    # What is known of a job that has finished may be an earlier run of it.
                    self._leave_channel(uuid)
                    job = self._jobs[uuid] = WatchedJob(uuid, self.clock)
                job.listeners.append(listener)
                jobs[uuid] = job
                if uuid not in self._channels:
                    self._join_channel(job)
        except BaseException:  # such as of a thread that can't be started
            self.unwatch(jobs.values(), listener)
            raise
        return [jobs[uuid] for uuid in uuids]

    def unwatch(self, jobs: Iterable[WatchedJob], listener: Callable[[], None]) -> None:
        """End what `watch` has begun."""
        for job in set(jobs):
            job.listeners.remove(listener)
            if not job.listeners and self._jobs.get(job.uuid) is job:
                del self._jobs[job.uuid]
                self._leave_channel(job.uuid)

    def wait(
        self,
        jobs: Sequence[WatchedJob],
        ids: JobId | Iterable[JobId],
        until: Until,
        timeout: Seconds | None,
        unknown: Seconds,
        on_change: OnChange | None,
    ) -> Wait:
        """Return what decides when a wait for watched jobs is over."""
        if inspect.iscoroutinefunction(on_change):
            raise TypeError("on_change must be a plain function, not a coroutine function")
        if until not in {"done", "any-done"}:
            raise ValueError(f"until must be 'done' or 'any-done', not {until!r}")
        seconds = None if timeout is None else seconds_of(timeout)
        return Wait(jobs, ids, until, seconds, seconds_of(unknown), on_change, self.clock)

    def close(self) -> None:
        """End everything that is watched."""
        self._is_closed = True
        for job in list(self._jobs.values()):
            job.fail(ClientClosedError("The client was closed."))
            self._leave_channel(job.uuid)
        self._jobs.clear()

    def check_open(self) -> None:
        """Raise an error if the client was closed.

        Raises:
            ClientClosedError: It was.
        """
        if self._is_closed:
            raise ClientClosedError("The client was closed.")
        if os.getpid() != self._pid:
            raise ClientClosedError("The client was made before a fork: make one in each process.")

    def _join_channel(self, job: WatchedJob) -> None:
        channel = self._newest_channel
        if channel is None or not channel.has_room:
            channels = set(self._channels.values())
            channel = next((each for each in channels if each.has_room), None)
        if channel is None:
            channel = Channel(self, self._on_end)
            self.start(channel)
        self._newest_channel = channel
        self._channels[job.uuid] = channel
        channel.add(job)

    def _leave_channel(self, uuid: UUID) -> None:
        channel = self._channels.pop(uuid, None)
        if channel is not None:
            channel.remove(uuid)

    def _on_end(self, channel: Channel) -> None:
        if self._newest_channel is channel:
            self._newest_channel = None
        self._channels = {
            uuid: each for uuid, each in self._channels.items() if each is not channel
        }

    def _remember(self, path: str, answer: Answer) -> None:
        etag = answer.headers.get("ETag", "")
        if etag and len(answer.body) <= _MAX_REMEMBERED_BYTES:
            self._answers[path] = (etag, answer.body)
            self._answers.move_to_end(path)
            if len(self._answers) > _MAX_REMEMBERED:
                self._answers.popitem(last=False)


def list_query(
    states: str | Iterable[JobState | str],
    name: str | None,
    limit: int | None = None,
    cursor: str | None = None,
) -> str:
    """Return the query of a list; `states` is a state, or several."""
    states = [states] if isinstance(states, str) else states
    parameters = [("state", str(state)) for state in states]
    parameters += [
        (key, str(value))
        for key, value in (("name", name), ("limit", limit), ("cursor", cursor))
        if value
    ]
    return urlencode(parameters)
