"""Watchers: the open long polls and event streams, which are notified of the changes of a job."""

import asyncio
import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, Protocol

from litestar.types import Receive

from jobstatus_service.lookup.response import StatusResponse
from jobstatus_service.lookup.view import View
from jobstatus_service.settings import ServiceSettings

WatcherKind = Literal["long_poll", "stream"]


class Client(Protocol):
    """The authenticated client of a watcher, see `jobstatus_service.http.client`."""

    @property
    def limit_id(self) -> str:
        """What the client's watchers are counted by."""

    @property
    def token_id(self) -> str:
        """What the watchers of its job token are counted by; empty if it has none."""

    @property
    def valid_until(self) -> float:
        """When its job token expires, in seconds since the epoch; infinity if it has none."""


class TooManyWatchersError(Exception):
    """As many long polls and event streams are open as are allowed.

    Attributes:
        is_client_limit: Whether the client's own limit is reached, rather than the process's.
    """

    def __init__(self, *, is_client_limit: bool) -> None:
        whose = "of this client" if is_client_limit else "of this server"
        super().__init__(f"Too many long polls and event streams {whose} are open.")
        self.is_client_limit = is_client_limit


class WatchedJob:
    """A job with at least one watcher.

    Attributes:
        response: The newest response about the job.
        is_stale: Whether the job has changed since then, or may have.
        change_noticed_at: When the last change was noticed, on the monotonic clock.
        watchers: The job's watchers.
    """

    __slots__ = (
        "_events",
        "_events_of",
        "change_noticed_at",
        "is_stale",
        "response",
        "watchers",
    )

    def __init__(self, response: StatusResponse) -> None:
        self.response = response
        self.is_stale = False
        self.change_noticed_at = time.monotonic()
        self.watchers: set[Watcher] = set()
        self._events: dict[View, bytes] = {}
        self._events_of: StatusResponse | None = None

    def event(self, view: View) -> bytes:
        """Return the newest response as a server-sent event, encoded once for each view."""
        response = self.response
        if self._events_of is not response:
            self._events, self._events_of = {}, response
        event = self._events.get(view)
        if event is None:
            event = self._events[view] = response.in_view(view).event()
        return event

    def wake_watchers(self) -> None:
        """Wake all watchers of the job."""
        for watcher in self.watchers:
            if watcher.changed is not None:
                watcher.changed[self] = None
            watcher.wake()


class Watcher:
    """One open long poll or event stream.

    Attributes:
        changed: The jobs that have changed since `take_changed`, if it watches several.
        client: The client that has it open.
        is_disconnected: Whether the client has closed its connection.
        is_revoked: Whether the client's API key or job token is no longer valid.
        is_draining: Whether the process is draining.
    """

    __slots__ = (
        "_loop",
        "_receiving",
        "_woken",
        "changed",
        "client",
        "is_disconnected",
        "is_draining",
        "is_revoked",
    )

    def __init__(
        self, client: Client, receive: Receive, *, is_draining: bool, has_many: bool
    ) -> None:
        self.changed: dict[WatchedJob, None] | None = {} if has_many else None
        self.client = client
        self.is_disconnected = self.is_revoked = False
        self.is_draining = is_draining
        self._loop = asyncio.get_running_loop()
        self._woken: asyncio.Future[None] | None = None
        self._receiving = self._loop.create_task(self._wait_for_disconnect(receive))

    @property
    def must_end(self) -> bool:
        """Whether it must end: client disconnected, key or token invalid, or process draining."""
        return self.is_disconnected or self.is_revoked or self.is_draining

    def take_changed(self) -> list[WatchedJob]:
        """Return the jobs that have changed since the last call."""
        changed, self.changed = self.changed or {}, {}
        return list(changed)

    async def wait(self, seconds: float) -> None:
        """Wait until the watcher is woken, for at most so many seconds."""
        self._woken = self._loop.create_future()
        alarm = self._loop.call_later(max(0.0, seconds), self.wake)
        try:
            await self._woken
        finally:
            self._woken = None
            alarm.cancel()

    def wake(self) -> None:
        """Have `wait` return."""
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    def revoke(self) -> None:
        """Have the watcher end, since its API key or job token is no longer valid."""
        self.is_revoked = True
        self.wake()

    def close(self) -> None:
        """Stop watching."""
        self._receiving.cancel()

    async def _wait_for_disconnect(self, receive: Receive) -> None:
        message: Any = {}
        while message.get("type") != "http.disconnect":
            message = await receive()
        self.is_disconnected = True
        self.wake()


class Watchers:
    """All watchers of the process.

    Attributes:
        jobs: The watched jobs, by record key.
        is_draining: Whether the process is draining, so that all watchers must end.
        open: How many watchers are open, by kind.
        is_valid: Returns whether the API key or job token of a client is still valid.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self.jobs: dict[str, WatchedJob] = {}
        self.is_draining = False
        self.open: Counter[WatcherKind] = Counter()
        self.is_valid: Callable[[Any], bool] = lambda _: True
        self._settings = settings
        self._open_by_client: Counter[str] = Counter()
        self._watchers: set[Watcher] = set()

    @contextlib.contextmanager
    def admit(self, client: Client, kind: WatcherKind) -> Iterator[None]:
        """Count one more watcher as open during the block.

        Raises:
            TooManyWatchersError: As many are open as the client, or the process, may have.
        """
        counted = (client.limit_id, client.token_id) if client.token_id else (client.limit_id,)
        self._check_limits(counted)
        self.open[kind] += 1
        self._open_by_client.update(counted)
        try:
            yield
        finally:
            self.open[kind] -= 1
            for each in counted:
                self._open_by_client[each] -= 1
                if not self._open_by_client[each]:
                    del self._open_by_client[each]

    def _check_limits(self, counted: tuple[str, ...]) -> None:
        limits = (self._settings.max_watchers_per_key, self._settings.max_watchers_per_token)
        for each, limit in zip(counted, limits, strict=False):  # the second one is that of a token
            if self._open_by_client[each] >= limit:
                raise TooManyWatchersError(is_client_limit=True)
        if self.open.total() >= self._settings.max_watchers:
            raise TooManyWatchersError(is_client_limit=False)

    @contextlib.contextmanager
    def watcher(
        self, client: Client, receive: Receive, *, has_many: bool = False
    ) -> Iterator[Watcher]:
        """Make a watcher, which watches nothing yet, for the block.

        It is revoked when the client's job token expires, and at once if the client's key was
        removed since the client was authenticated.

        Args:
            client: The authenticated client.
            receive: As in ASGI; notices that the client disconnects.
            has_many: Whether it is to watch several jobs.
        """
        watcher = Watcher(client, receive, is_draining=self.is_draining, has_many=has_many)
        self._watchers.add(watcher)
        if not self.is_valid(client):
            watcher.revoke()
        expiry: asyncio.TimerHandle | None = None
        if client.valid_until < math.inf:
            seconds = max(0.0, client.valid_until - time.time())
            expiry = asyncio.get_running_loop().call_later(seconds, watcher.revoke)
        try:
            yield watcher
        finally:
            if expiry is not None:
                expiry.cancel()
            watcher.close()
            self._watchers.discard(watcher)

    @contextlib.contextmanager
    def watch(
        self, watcher: Watcher, responses: Mapping[str, StatusResponse]
    ) -> Iterator[list[WatchedJob]]:
        """Have a watcher watch jobs during the block.

        Args:
            watcher: The watcher.
            responses: The current response about each job, by the key of its record.
        """
        jobs: list[WatchedJob] = []
        for key, response in responses.items():
            job = self.jobs.get(key)
            if job is None:
                job = self.jobs[key] = WatchedJob(response)
            job.watchers.add(watcher)
            jobs.append(job)
        try:
            yield jobs
        finally:
            for key, job in zip(responses, jobs, strict=True):
                job.watchers.discard(watcher)
                if not job.watchers and self.jobs.get(key) is job:
                    del self.jobs[key]

    def mark_stale(self, key: str) -> bool:
        """Note that a job has changed; return whether it is watched."""
        job = self.jobs.get(key)
        if job is None:
            return False
        if not job.is_stale:
            job.is_stale = True
            job.change_noticed_at = time.monotonic()
        return True

    def publish(self, key: str, response: StatusResponse) -> None:
        """Wake the watchers of a job if this new response about it differs from the last one."""
        job = self.jobs.get(key)
        if job is None:
            return
        if not job.is_stale:  # no invalidation has arrived: its lease or its TTL has expired
            job.change_noticed_at = time.monotonic()
        job.is_stale = False
        has_changed = job.response.etag != response.etag
        job.response = response
        if has_changed:
            job.wake_watchers()

    def end_revoked(self) -> None:
        """End the watchers of clients whose API key or job token is no longer valid."""
        for watcher in self._watchers:
            if not self.is_valid(watcher.client):
                watcher.revoke()

    def drain(self) -> None:
        """End all watchers, since the process is draining."""
        self.is_draining = True
        for watcher in self._watchers:
            watcher.is_draining = True
            watcher.wake()
