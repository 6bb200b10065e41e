"""A channel: up to 100 jobs that are watched with one request at a time."""

import logging
import math
from collections.abc import Callable, Sequence
from typing import Final
from uuid import UUID

import msgspec

from jobstatus.details import JobDetails
from jobstatus_client.errors import (
    BufferedStreamError,
    RequestError,
    SilenceError,
    UnavailableError,
)
from jobstatus_client.event_stream import EventStream, Requests
from jobstatus_client.exchange import (
    Authorize,
    Flow,
    InterruptedFlow,
    Send,
    Sleep,
    decoder,
    retry_after,
)
from jobstatus_client.jobs import STALE_SECONDS, WatchedJob
from jobstatus_client.models import JobList
from jobstatus_client.pacing import Backoff

MAX_JOBS: Final = 100
"""The limit of the API for one request."""

ANSWER_SECONDS: Final = 15.0
"""A poll without an answer for so long is lost."""

_LONG_POLL_SECONDS: Final = 25
GATHER_SECONDS: Final = 0.25
_LOG_AFTER_SECONDS: Final = 5.0

_decode_details = decoder(JobDetails)
_decode_list = decoder(JobList)
_log = logging.getLogger("jobstatus_client")


class Channel:
    """Watches jobs with one request at a time.

    The request is a stream; a long poll where a proxy holds streams back; a plain poll where the
    service refuses streams.

    Attributes:
        interrupt: Ends the present request or sleep; set by the shell that runs the channel.
    """

    def __init__(self, requests: Requests, on_end: Callable[["Channel"], None]) -> None:
        self.interrupt: Callable[[], None] = lambda: None
        self._requests = requests
        self._on_end = on_end
        self._backoff = Backoff(requests.clock, requests.random)
        self._jobs: dict[UUID, WatchedJob] = {}
        self._unseen: set[UUID] = set()  # jobs of the present request that were not reported yet
        self._requested: frozenset[WatchedJob] = frozenset()
        self._etag = ""
        self._began_at = -math.inf
        self._next_at = -math.inf
        self._reopen_at = math.inf
        self._is_logged = False
        self._is_stream = False
        self._is_authorizing = False

    @property
    def has_room(self) -> bool:
        """Whether another job can be added."""
        return len(self._jobs) < MAX_JOBS or len(self._unsettled()) < MAX_JOBS

    def add(self, job: WatchedJob) -> None:
        """Watch another job.

        A request that has not reported all of its jobs is not ended, so that jobs are seen even
        if others are added all the time.
        """
        self._jobs[job.uuid] = job
        if not self._unseen and not self._is_authorizing:
            self.interrupt()

    def remove(self, uuid: UUID) -> None:
        """Stop watching a job."""
        self._jobs.pop(uuid, None)
        if not self._unsettled():
            self.interrupt()

    def run(self) -> Flow[None]:
        """Watch the jobs until all of them have finished, or were removed."""
        try:
            yield from self._watch()
        finally:
            self._on_end(self)
            for job in self._unsettled():  # what carries out the commands has failed
                job.fail(UnavailableError("The status can't be read any more."))

    def _watch(self) -> Flow[None]:
        while self._unsettled():
            jobs: list[WatchedJob] = []
            self._is_authorizing = False
            try:
                now = self._requests.clock()
                times = (self._next_at, self._requests.not_before, self._began_at + GATHER_SECONDS)
                yield Sleep(max(0.0, max(times) - now))
                self._is_authorizing = True
                yield Authorize()  # this may take longer than a stream may take to begin
                self._is_authorizing = False
                jobs = self._unsettled()[:MAX_JOBS]
                if jobs:
                    self._begin(jobs)
                    yield from self._exchange(jobs)
            except InterruptedFlow:
                if not self._backoff.has_failed_for(0):
                    self._next_at = -math.inf
            except Exception as error:  # also of the function that returns credentials
                self._on_error(error, jobs or self._unsettled())

    def _unsettled(self) -> list[WatchedJob]:
        return [job for job in self._jobs.values() if not job.is_settled]

    def _begin(self, jobs: Sequence[WatchedJob]) -> None:
        self._began_at = self._requests.clock()
        self._next_at = -math.inf
        self._reopen_at = math.inf
        requested = frozenset(jobs)
        if requested != self._requested:
            self._etag = ""
        self._requested, self._unseen = requested, {job.uuid for job in jobs}

    def _exchange(self, jobs: Sequence[WatchedJob]) -> Flow[None]:
        query = "&".join(f"id={job.uuid}" for job in jobs) + "&details=1"
        kind = self._requests.fallback.kind
        self._is_stream = kind is None
        try:
            if self._is_stream:
                yield from self._stream(f"/api/jobs/events?{query}")
            else:
                wait = _LONG_POLL_SECONDS if kind == "long poll" and self._etag else 0
                yield from self._poll(f"/api/jobs?{query}", jobs, wait)
        except RequestError as error:
            if error.status != 403 or len(jobs) == 1:  # noqa: PLR2004
                raise
            yield from self._find_forbidden(jobs)
            if not any(job.error for job in jobs):  # so it is not because of the credentials
                self._on_failure(error, jobs)

    def _stream(self, path: str) -> Flow[None]:
        requests, stream = self._requests, EventStream(self._requests)
        try:
            yield from stream.open(path)
            while self._is_wanted():
                for kind, data in (yield from stream.read(self._reopen_at)):
                    if kind == "retry":
                        seconds = requests.fallback.on_retry(int(data) / 1000)
                        self._next_at = requests.clock() + seconds
                        return self._on_success()
                    if kind == "status":
                        self._accept(_decode_details(data))
                requests.fallback.on_stream()
        except SilenceError:
            if requests.clock() < self._reopen_at:
                raise
        finally:
            if stream.has_worked:
                self._on_success()

    def _is_wanted(self) -> bool:
        """Return whether the open stream is for the right jobs, or has not reported all of them."""
        unsettled = self._unsettled()
        is_complete = all(job in self._requested for job in unsettled)
        return bool(unsettled) and (is_complete or bool(self._unseen))

    def _poll(self, path: str, jobs: Sequence[WatchedJob], wait: int) -> Flow[None]:
        requests = self._requests
        headers = {"If-None-Match": self._etag} if self._etag else {}
        if wait:
            path, self._unseen = f"{path}&wait={wait}", set()
        answer = yield from requests.request(Send, path, headers, wait + ANSWER_SECONDS)
        if answer.is_ok:
            self._etag = answer.headers.get("ETag", "")
            for status in _decode_list(answer.body).jobs:
                self._accept(status)
        elif answer.status == 304 and headers:  # noqa: PLR2004
            for job in jobs:
                job.reconnect()
        else:
            raise UnavailableError(f"A poll was answered with status {answer.status}.")
        self._on_success()
        now = requests.clock()
        if not (
            wait and now - self._began_at > 1
        ):  # a wait that has waited is followed by the next one
            self._next_at = now + requests.fallback.poll_interval(retry_after(answer.headers))
        self._unseen = set()

    def _accept(self, status: JobDetails) -> None:
        job = self._jobs.get(status.id)
        self._unseen.discard(status.id)
        if job is not None and not job.accept(status):
            # A stream does not repeat it: so open another one later.
            self._reopen_at = min(self._reopen_at, self._requests.clock() + STALE_SECONDS)

    def _find_forbidden(self, jobs: Sequence[WatchedJob]) -> Flow[None]:
        """Find the jobs that the credential is not good for."""
        for job in jobs:
            try:
                path = f"/api/jobs/{job.uuid}/details"
                answer = yield from self._requests.request(Send, path, {}, ANSWER_SECONDS)
                self._accept(_decode_details(answer.body))
            except RequestError as error:
                if not error.is_refusal:
                    raise
                job.fail(error)

    def _on_error(self, error: Exception, jobs: Sequence[WatchedJob]) -> None:
        if isinstance(error, BufferedStreamError):
            self._requests.fallback.on_buffered_stream()
        elif isinstance(error, RequestError) and error.is_refusal:
            for job in jobs:
                job.fail(error)
        else:
            self._on_failure(error, jobs)

    def _on_success(self) -> None:
        self._backoff.reset()
        self._is_logged = False

    def _on_failure(self, error: Exception, jobs: Sequence[WatchedJob]) -> None:
        """Plan the next request after one that has failed, and may succeed later."""
        fallback, clock = self._requests.fallback, self._requests.clock
        self._unseen = set()
        if isinstance(error, msgspec.DecodeError):
            error = UnavailableError("Something else than the service has answered.")
        if not self._is_stream:
            fallback.on_failed_poll()
        elif isinstance(error, RequestError):
            fallback.on_refused_stream()
        seconds = self._backoff.next(error)
        if self._backoff.has_failed_for(_LOG_AFTER_SECONDS) and not self._is_logged:
            self._is_logged = True
            _log.warning("the status of jobs can't be read, trying again: %s", error)
        self._next_at = clock() + seconds
        if isinstance(error, RequestError) and error.retry_after:
            self._requests.not_before = max(self._requests.not_before, self._next_at)
        for job in jobs:
            job.disconnect(error)
