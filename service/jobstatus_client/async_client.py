"""The client for asyncio. The jobs that are watched have a task for each 100 of them."""

import asyncio
import contextlib
import inspect
import random as random_module
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
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
from jobstatus_client.task_runner import TaskRunner

AsyncCredentials = str | Callable[[], str] | Callable[[], Awaitable[str]]


class AsyncClient:
    """Reads the status of jobs, and waits for them, in one event loop; otherwise as `Client`.

    Args:
        url: The address of the service; by default that in `JOBSTATUS_URL`.
        credentials: As in `Client`; a function may be asynchronous.
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
        credentials: AsyncCredentials | None = None,
        *,
        timeout: Seconds = 10.0,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Clock = time.monotonic,
        random: Random = random_module.random,
    ) -> None:
        self._core = Core(url, credentials, timeout, clock, random)
        self.url = self._core.url
        self._core.start = self._start
        self._http = httpx.AsyncClient(
            base_url=self.url,
            transport=transport,
            limits=httpx.Limits(max_connections=None),
            verify=ssl_context(self.url),
        )
        self._credential_lock = asyncio.Lock()
        self._following: set[TaskRunner] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End all waits, loops and connections, for good."""
        self._core.close()
        for runner in self._following:
            runner.interrupt()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._http.aclose()

    async def get(self, job_id: JobId) -> JobStatus:
        """Return the status of a job, as `Client.get`."""
        return await self._run(self._core.status(job_id))

    async def details(self, job_id: JobId) -> JobDetails:
        """Return the status of a job with its times, as `Client.details`."""
        return await self._run(self._core.details(job_id))

    async def result(self, job_id: JobId) -> Any:
        """Return the result of a finished job, as `Client.result`."""
        return await self._run(self._core.result(job_id))

    async def list(
        self,
        states: str | Iterable[JobState | str] = (),
        name: str | None = None,
        *,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> JobList:
        """Return a page of the list of jobs, as `Client.list`."""
        return await self._run(self._core.page(list_query(states, name, limit, cursor)))

    async def counts(self) -> JobCounts:
        """Return the number of jobs in each state. It needs an API key."""
        return await self._run(self._core.counts())

    @overload
    async def wait(  # type: ignore[overload-overlap]
        self,
        ids: JobId,
        *,
        until: Until = ...,
        timeout: Seconds | None = ...,
        unknown: Seconds = ...,
        on_change: OnChange | None = ...,
    ) -> JobDetails: ...
    @overload
    async def wait(
        self,
        ids: Iterable[JobId],
        *,
        until: Until = ...,
        timeout: Seconds | None = ...,
        unknown: Seconds = ...,
        on_change: OnChange | None = ...,
    ) -> Sequence[JobDetails]: ...
    async def wait(
        self,
        ids: JobId | Iterable[JobId],
        *,
        until: Until = "done",
        timeout: Seconds | None = None,
        unknown: Seconds = 120.0,
        on_change: OnChange | None = None,
    ) -> JobDetails | Sequence[JobDetails]:
        """Wait until a job has finished, or several have, as `Client.wait`.

        Cancelling the wait ends it, and does not abort the job.
        """
        ids = listed(ids)
        with self._watched(ids) as (jobs, changed):
            wait = self._core.wait(jobs, ids, until, timeout, unknown, on_change)
            while not wait.is_over():
                changed.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait.seconds_left()):
                        await changed.wait()
            return wait.result()

    async def watch(self, ids: JobId | Iterable[JobId]) -> AsyncIterator[JobDetails]:
        """Iterate over the statuses of jobs, as `Client.watch`."""
        with self._watched(ids) as (jobs, changed):
            changes = Changes(jobs)
            while not changes.is_over:
                changed.clear()
                statuses = changes.take()
                for status in statuses:
                    yield status
                if not statuses:
                    await changed.wait()

    async def follow(
        self, states: str | Iterable[JobState | str] = (), name: str | None = None
    ) -> AsyncIterator[ListEvent]:
        """Iterate over what happens to a list, as `Client.follow`."""
        feed, runner = ListFeed(self._core, states, name), TaskRunner(self._http, self._authorize)
        self._following.add(runner)
        try:
            while True:
                for event in await runner.run(feed.next()):
                    yield event
        finally:
            self._following.discard(runner)
            await runner.close_response()

    @contextlib.contextmanager
    def _watched(
        self, ids: JobId | Iterable[JobId]
    ) -> Iterator[tuple[Sequence[WatchedJob], asyncio.Event]]:
        changed = asyncio.Event()
        jobs = self._core.watch(uuids_of(ids), changed.set)
        try:
            yield jobs, changed
        finally:
            self._core.unwatch(jobs, changed.set)

    async def _run(self, flow: Flow[T]) -> T:
        return await TaskRunner(self._http, self._authorize).run(flow)

    def _start(self, channel: Channel) -> None:
        runner = TaskRunner(self._http, self._authorize)

        async def watch() -> None:
            try:
                await runner.run(channel.run())
            finally:
                await runner.close_response()

        task = asyncio.create_task(watch(), name="jobstatus-client")
        channel.interrupt = runner.interrupt
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _authorize(self, rejected: str | None) -> str | None:
        """Return the credential; call the function for it, once for all tasks."""
        async with self._credential_lock:
            core = self._core
            if core.ask is not None and core.credential in {None, rejected}:
                found = core.ask()
                core.credential = checked(await found if inspect.isawaitable(found) else found)
            return core.credential
