"""The client for synchronous code. The jobs that are watched have a thread for each 100 of them."""

import contextlib
import random as random_module
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Self, overload

import httpx

from jobstatus.details import JobDetails
from jobstatus.status import JobState, JobStatus
from jobstatus_client.channel import Channel
from jobstatus_client.connection import checked, ssl_context
from jobstatus_client.core import Core, Seconds, list_query
from jobstatus_client.exchange import Flow, JobId, T, listed, uuids_of
from jobstatus_client.jobs import Changes, OnChange, Until, WatchedJob
from jobstatus_client.list_feed import ListFeed
from jobstatus_client.models import JobCounts, JobList, ListEvent
from jobstatus_client.pacing import Clock, Random
from jobstatus_client.thread_runner import ThreadRunner

Credentials = str | Callable[[], str]


class Client:
    """Reads the status of jobs, and waits for them. It may be used by several threads.

    Args:
        url: The address of the service; by default that in `JOBSTATUS_URL`.
        credentials: An API key or a job token, or a function that returns one and is called again
            when the service has rejected it; by default what is in `JOBSTATUS_KEY`, or in the
            file that `JOBSTATUS_KEY_FILE` names.
        timeout: Seconds for which a single request is repeated while the service is unavailable.
        transport: What sends requests, instead of the network.
        clock: Tells the time in seconds, and never goes back.
        random: Makes jitter, from 0 up to 1.

    Raises:
        SettingsError: There is no URL.
    """

    def __init__(
        self,
        url: str | None = None,
        credentials: Credentials | None = None,
        *,
        timeout: Seconds = 10.0,
        transport: httpx.BaseTransport | None = None,
        clock: Clock = time.monotonic,
        random: Random = random_module.random,
    ) -> None:
        self._core = Core(url, credentials, timeout, clock, random)
        self.url = self._core.url
        self._core.start = self._start
        self._transport = transport
        self._http = self._new_http(transport)
        self._lock = threading.RLock()
        self._following: set[ThreadRunner] = set()
        self._credential_lock = threading.Lock()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all waits, loops and connections, for good."""
        with self._lock:
            self._core.close()
        for runner in list(self._following):
            runner.interrupt()
        self._http.close()

    def get(self, job_id: JobId) -> JobStatus:
        """Return the status of a job. `job_id` is any id of it, such as that of arq.

        Raises:
            RequestError: The service has rejected the request.
            UnavailableError: The service can't be reached.
        """
        return self._run(self._core.status(job_id))

    def details(self, job_id: JobId) -> JobDetails:
        """Return the status of a job with its times, attempt, worker and estimated end."""
        return self._run(self._core.details(job_id))

    def result(self, job_id: JobId) -> Any:
        """Return the result of a finished job.

        Raises:
            RequestError: With the status 404 if there is none, 410 if it was dropped.
        """
        return self._run(self._core.result(job_id))

    def list(
        self,
        states: str | Iterable[JobState | str] = (),
        name: str | None = None,
        *,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> JobList:
        """Return a page of the list of jobs, newest first. It needs an API key.

        Args:
            states: The state to list, or several; none for all.
            name: The name of the jobs.
            limit: How many jobs the page has at most, 1 to 200 (50).
            cursor: `next` of the page before.
        """
        return self._run(self._core.page(list_query(states, name, limit, cursor)))

    def counts(self) -> JobCounts:
        """Return the number of jobs in each state. It needs an API key."""
        return self._run(self._core.counts())

    @overload
    def wait(  # type: ignore[overload-overlap]
        self,
        ids: JobId,
        *,
        until: Until = ...,
        timeout: Seconds | None = ...,
        unknown: Seconds = ...,
        on_change: OnChange | None = ...,
    ) -> JobDetails: ...
    @overload
    def wait(
        self,
        ids: Iterable[JobId],
        *,
        until: Until = ...,
        timeout: Seconds | None = ...,
        unknown: Seconds = ...,
        on_change: OnChange | None = ...,
    ) -> Sequence[JobDetails]: ...
    def wait(
        self,
        ids: JobId | Iterable[JobId],
        *,
        until: Until = "done",
        timeout: Seconds | None = None,
        unknown: Seconds = 120.0,
        on_change: OnChange | None = None,
    ) -> JobDetails | Sequence[JobDetails]:
        """Wait until a job has finished, or several have; `failed` and `aborted` end the wait, too.

        An outage of the service or of Redis does not end it. Ending the wait aborts no job.

        Args:
            ids: The id of a job, or the ids of several.
            until: `done`: all have finished; `any-done`: one has.
            timeout: Seconds for which to wait; None for no limit.
            unknown: Seconds for which a job may be `unknown`: it has not been enqueued yet, its
                status has expired, or its worker has died.
            on_change: Called with the status of each job, at first and after each change.

        Returns:
            The details of the job; of all jobs in the order of `ids`.

        Raises:
            WaitTimeoutError: The time is up, or a job has been `unknown` for too long.
            RequestError: The credentials are not accepted.
        """
        ids = listed(ids)
        with self._watched(ids) as (jobs, changed):
            wait = self._core.wait(jobs, ids, until, timeout, unknown, on_change)
            while True:
                changed.clear()
                if wait.is_over():
                    return wait.result()
                changed.wait(wait.seconds_left())

    def watch(self, ids: JobId | Iterable[JobId]) -> Iterator[JobDetails]:
        """Iterate over the statuses of jobs: first the current one of each, then each change.

        It ends when all have finished. A slow loop skips statuses: the next one of a job is
        always the newest.

        Raises:
            RequestError: The credentials are not accepted.
        """
        with self._watched(ids) as (jobs, changed):
            changes = Changes(jobs)
            while not changes.is_over:
                changed.clear()
                statuses = changes.take()
                yield from statuses
                if not statuses:
                    changed.wait()

    def follow(
        self, states: str | Iterable[JobState | str] = (), name: str | None = None
    ) -> Iterator[ListEvent]:
        """Iterate over what happens to the newest 50 jobs of a list, without an end.

        Raises:
            RequestError: The credentials or the filters are not accepted.
        """
        feed, runner = ListFeed(self._core, states, name), self._runner(self._new_http())
        self._following.add(runner)
        try:
            with runner.closing():
                while True:
                    yield from runner.run(feed.next())
        finally:
            self._following.discard(runner)

    @contextlib.contextmanager
    def _watched(
        self, ids: JobId | Iterable[JobId]
    ) -> Iterator[tuple[Sequence[WatchedJob], threading.Event]]:
        changed = threading.Event()
        with self._lock:
            jobs = self._core.watch(uuids_of(ids), changed.set)
        try:
            yield jobs, changed
        finally:
            with self._lock:
                self._core.unwatch(jobs, changed.set)

    def _run(self, flow: Flow[T]) -> T:
        return self._runner(self._http).run(flow)

    def _runner(self, http: httpx.Client) -> ThreadRunner:
        return ThreadRunner(http, self._lock, self._authorize)

    def _new_http(self, transport: httpx.BaseTransport | None = None) -> httpx.Client:
        if transport is None and self._transport is not None:
            transport = _SharedTransport(self._transport)
        verify = ssl_context(self.url)
        return httpx.Client(base_url=self.url, transport=transport, verify=verify)

    def _start(self, channel: Channel) -> None:
        runner = self._runner(self._new_http())
        channel.interrupt = runner.interrupt

        def watch() -> None:
            with runner.closing():
                runner.run(channel.run())

        threading.Thread(target=watch, name="jobstatus-client", daemon=True).start()

    def _authorize(self, rejected: str | None) -> str | None:
        """Return the credential; call the function for it, once for all threads."""
        with self._credential_lock:
            core = self._core
            if core.ask is not None and core.credential in {None, rejected}:
                core.credential = checked(core.ask())
            return core.credential


class _SharedTransport(httpx.BaseTransport):
    """A transport that stays open when one of those that share it is closed."""

    def __init__(self, transport: httpx.BaseTransport) -> None:
        self._transport = transport

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return self._transport.handle_request(request)
