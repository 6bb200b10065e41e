"""The client for asyncio. The jobs that are watched have a task for each 100 of them."""

import asyncio
import contextlib
import inspect
import random as random_module
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, Self, overload
from uuid import UUID

import httpx

from jobstatus.details import JobDetails
from jobstatus.status import JobState, JobStatus
from jobstatus_client.channel import Channel
from jobstatus_client.client import CONNECT_SECONDS
from jobstatus_client.core import Core, Seconds, list_query, ssl_context
from jobstatus_client.errors import SilenceError, UnavailableError
from jobstatus_client.exchange import (
    Answer,
    Authorize,
    Command,
    Flow,
    InterruptedFlow,
    JobId,
    Open,
    Read,
    Send,
    Sleep,
    T,
    uuids_of,
)
from jobstatus_client.jobs import OnChange, Until, WatchedJob
from jobstatus_client.list_feed import ListFeed
from jobstatus_client.models import JobCounts, JobList, ListEvent
from jobstatus_client.pacing import Clock, Random

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
            verify=ssl_context(is_needed=self._core.needs_tls),
        )
        self._credential_lock = asyncio.Lock()
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
        states: Iterable[JobState | str] = (),
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
        ids = ids if isinstance(ids, str | UUID) else list(ids)
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
            changes = self._core.changes(jobs)
            while not changes.is_over:
                changed.clear()
                statuses = changes.take()
                for status in statuses:
                    yield status
                if not statuses:
                    await changed.wait()

    async def follow(
        self, states: Iterable[JobState | str] = (), name: str | None = None
    ) -> AsyncIterator[ListEvent]:
        """Iterate over what happens to a list, as `Client.follow`."""
        feed, runner = ListFeed(self._core, states, name), _Runner(self)
        try:
            while True:
                for event in await runner.run(feed.next()):
                    yield event
        finally:
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
        return await _Runner(self).run(flow)

    def _start(self, channel: Channel) -> None:
        runner = _Runner(self)
        task = asyncio.create_task(runner.run(channel.run()), name="jobstatus-client")
        channel.interrupt = lambda: runner.interrupt(task)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _authorize(self, rejected: str | None) -> str | None:
        """Return the credential; call the function for it, once for all tasks."""
        async with self._credential_lock:
            core = self._core
            if core.ask is not None and core.credential in {None, rejected}:
                found = core.ask()
                core.credential = await found if inspect.isawaitable(found) else found
            return core.credential


class _Runner:
    """Carries out the commands of flows, in one task."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._is_executing = False
        self._is_interrupted = False
        self._response: httpx.Response | None = None
        self._chunks: AsyncIterator[bytes]

    async def run(self, flow: Flow[T]) -> T:
        """Run a flow to its end, and return its value."""
        reply: Any = None
        error: Exception | None = None
        try:
            while True:
                command = flow.send(reply) if error is None else flow.throw(error)
                reply, error = None, None
                self._is_executing = True
                try:
                    reply = await self._execute(command)
                except (TimeoutError, httpx.TimeoutException):
                    error = SilenceError(f"{self._client.url} does not answer in time.")
                except (httpx.TransportError, OSError) as failure:
                    error = UnavailableError(f"{self._client.url} can't be reached: {failure}")
                except asyncio.CancelledError:
                    task = asyncio.current_task()
                    if not self._is_interrupted or task is None or task.uncancel() > 0:
                        raise
                    error = InterruptedFlow()
                except Exception as failure:  # of the function that returns credentials
                    error = failure
                self._is_executing = self._is_interrupted = False
                if error is not None:
                    await self.close_response()
        except StopIteration as end:
            value: T = end.value
            return value
        finally:
            flow.close()

    def interrupt(self, task: "asyncio.Task[None]") -> None:
        """End the present command of the task with `InterruptedFlow`."""
        if self._is_executing and not self._is_interrupted:
            self._is_interrupted = True
            task.cancel()

    async def close_response(self) -> None:
        """Close the open stream, if there is one."""
        if self._response is not None:
            response, self._response = self._response, None
            await response.aclose()

    async def _execute(self, command: Command) -> Any:
        match command:
            case Open(_, _, timeout):
                await self.close_response()
                async with asyncio.timeout(timeout):
                    response = await self._client._http.send(self._request(command), stream=True)
                    if response.status_code != httpx.codes.OK:
                        await response.aread()
                        return Answer(response.status_code, response.headers, response.content)
                self._response, self._chunks = response, response.aiter_bytes()
                return Answer(response.status_code, response.headers)
            case Send(_, _, timeout):
                async with asyncio.timeout(timeout):
                    response = await self._client._http.send(self._request(command))
                return Answer(response.status_code, response.headers, response.content)
            case Read(timeout):
                async with asyncio.timeout(timeout):
                    return await anext(self._chunks, b"")
            case Authorize(rejected):
                return await self._client._authorize(rejected)
            case Sleep(seconds):
                return await asyncio.sleep(seconds)

    def _request(self, command: Send) -> httpx.Request:
        timeout = httpx.Timeout(None, connect=CONNECT_SECONDS)
        http = self._client._http
        return http.build_request("GET", command.path, headers=command.headers, timeout=timeout)
