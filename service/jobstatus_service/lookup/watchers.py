"""Who waits for a job to change: long polls and event streams, all woken by the same reply."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Literal, Protocol

from litestar.types import Receive

from jobstatus_service.lookup.response import StatusResponse
from jobstatus_service.settings import ServiceSettings

WatcherKind = Literal["wait", "stream"]


class Owner(Protocol):
    """Who watches: the API key of the request."""

    @property
    def name(self) -> str:
        """By which name its waits and streams are limited."""


class TooManyWatchersError(Exception):
    """There are as many waits and streams as may be.

    Attributes:
        is_theirs: Whether it is the API key's own limit, not that of the process.
    """

    def __init__(self, *, is_theirs: bool) -> None:
        super().__init__("too many waits and streams are open")
        self.is_theirs = is_theirs


class WatchedJob:
    """One job that is watched.

    Attributes:
        reply: The newest reply.
        is_dismissed: Whether everybody is being sent away.
        is_stale: Whether the job is known, or feared, to have changed since.
        told: When the last change was told, on the monotonic clock.
        watches: Who watches.
    """

    __slots__ = ("_event", "_event_of", "is_dismissed", "is_stale", "response", "told", "watchers")

    def __init__(self, response: StatusResponse) -> None:
        self.response = response
        self.is_stale = self.is_dismissed = False
        self.told = time.monotonic()
        self.watchers: set[Watcher] = set()
        self._event = b""
        self._event_of: StatusResponse | None = None

    @property
    def event(self) -> bytes:
        """The newest reply as a server-sent event, made once for all streams."""
        response = self.response
        if self._event_of is not response:
            self._event = b"event: status\nid: %b\ndata: %b\n\n" % (response.etag, response.body)
            self._event_of = response
        return self._event


class Watcher:
    """One wait or stream.

    Attributes:
        topic: What it watches.
        owner: Whose API key the request has.
        is_gone: Whether the client has gone away.
        is_revoked: Whether the API key isn't valid any more.
    """

    __slots__ = ("_loop", "_receiving", "_woken", "is_gone", "is_revoked", "owner", "topic")

    def __init__(self, topic: WatchedJob, owner: Owner, receive: Receive) -> None:
        self.topic = topic
        self.owner = owner
        self.is_gone = self.is_revoked = False
        self._loop = asyncio.get_running_loop()
        self._woken: asyncio.Future[None] | None = None
        self._receiving = self._loop.create_task(self._receive(receive))

    async def sleep(self, seconds: float) -> None:
        """Sleep until something happens, at most for so long."""
        self._woken = self._loop.create_future()
        alarm = self._loop.call_later(max(0.0, seconds), self.wake)
        try:
            await self._woken
        finally:
            self._woken = None
            alarm.cancel()

    @property
    def is_dismissed(self) -> bool:
        """Whether there is nothing to wait for any more: the client or the process goes away."""
        return self.is_gone or self.is_revoked or self.topic.is_dismissed

    def wake(self) -> None:
        """Something has happened."""
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    def close(self) -> None:
        """Watch no more."""
        self._receiving.cancel()

    async def _receive(self, receive: Receive) -> None:
        message: Any = {}
        while message.get("type") != "http.disconnect":
            message = await receive()
        self.is_gone = True
        self.wake()


class Watchers:
    """All that is watched.

    Attributes:
        topics: The jobs, by key.
        is_draining: Whether everybody is being sent away.
        open: How many waits and streams there are.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self.jobs: dict[str, WatchedJob] = {}
        self.is_draining = False
        self.open: Counter[WatcherKind] = Counter()
        self._settings = settings
        self._by_name: Counter[str] = Counter()

    @contextlib.contextmanager
    def admit(self, owner: Owner, kind: WatcherKind) -> Iterator[None]:
        """Room for one more.

        Raises:
            TooManyError: there is none.
        """
        name = owner.name
        if self._by_name[name] >= self._settings.max_watchers_per_key:
            raise TooManyWatchersError(is_theirs=True)
        if self.open.total() >= self._settings.max_watchers:
            raise TooManyWatchersError(is_theirs=False)
        self._by_name[name] += 1
        self.open[kind] += 1
        try:
            yield
        finally:
            self.open[kind] -= 1
            self._by_name[name] -= 1
            if not self._by_name[name]:
                del self._by_name[name]

    @contextlib.contextmanager
    def watch(
        self, key: str, owner: Owner, response: StatusResponse, receive: Receive
    ) -> Iterator[Watcher]:
        """Watch a job of which `response` is the current one."""
        topic = self.jobs.get(key)
        if topic is None:
            topic = self.jobs[key] = WatchedJob(response)
            topic.is_dismissed = self.is_draining
        watch = Watcher(topic, owner, receive)
        topic.watchers.add(watch)
        try:
            yield watch
        finally:
            watch.close()
            topic.watchers.discard(watch)
            if not topic.watchers and self.jobs.get(key) is topic:
                del self.jobs[key]

    def stale(self, key: str) -> bool:
        """The job has changed; whether anybody watches it."""
        topic = self.jobs.get(key)
        if topic is None:
            return False
        if not topic.is_stale:
            topic.is_stale = True
            topic.told = time.monotonic()
        return True

    def publish(self, key: str, response: StatusResponse) -> None:
        """Tell everybody who watches the job what stands now."""
        topic = self.jobs.get(key)
        if topic is None:
            return
        if not topic.is_stale:
            topic.told = time.monotonic()  # nobody told: a lease lapsed, or it was looked up
        topic.is_stale = False
        changed = topic.response.etag != response.etag
        topic.response = response
        if changed:
            self._wake(topic)

    def revoke(self, is_valid: Callable[[Any], bool]) -> None:
        """End the waits and streams of API keys that aren't valid any more."""
        for topic in self.jobs.values():
            for watch in topic.watchers:
                if not is_valid(watch.owner):
                    watch.is_revoked = True
                    watch.wake()

    def drain(self) -> None:
        """Send everybody away."""
        self.is_draining = True
        for topic in self.jobs.values():
            topic.is_dismissed = True
            self._wake(topic)

    @staticmethod
    def _wake(topic: WatchedJob) -> None:
        for watch in topic.watchers:
            watch.wake()
