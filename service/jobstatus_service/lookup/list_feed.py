"""List feeds: the first page of a list and its changes, shared by all who watch the same list.

While somebody watches, a feed reads the index at a rate that does not depend on how many do. What
it finds in one reading becomes one piece of text, which is sent to every watcher as it is.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Iterator
from typing import Final

import msgspec

from jobstatus.status import JobState
from jobstatus_service.lookup.cursor import ListFilter
from jobstatus_service.lookup.listing import Listing
from jobstatus_service.lookup.response import StatusResponse
from jobstatus_service.lookup.statuses import Statuses
from jobstatus_service.lookup.watchers import Watcher
from jobstatus_service.storage.link import UnavailableError

READ_INTERVAL_SECONDS: Final = 0.25
"""Seconds between two readings of a list."""

COUNTS_INTERVAL_SECONDS: Final = 1.0
"""Seconds between two `counts` events at least."""

PAGE_SIZE: Final = 50
"""Jobs of the page that a feed follows."""

_MAX_READING_SHARE: Final = 0.1
"""The share of the time that all feeds of a process spend on reading, at most; beyond that each
is read less often."""

_MAX_KEPT_PIECES: Final = 40
"""Pieces that a slow watcher can catch up on. One that is later gets the whole list again."""

_log = logging.getLogger("jobstatus.service")


class ListFeed:
    """The newest page of one list, and what has changed in it.

    Attributes:
        version: The number of the last piece; 0 before the first reading.
        watchers: Who watches.
    """

    def __init__(
        self, statuses: Statuses, listing: Listing, wanted: ListFilter, feeds: "ListFeeds"
    ) -> None:
        self._feeds = feeds
        self.version = 0
        self.watchers: set[Watcher] = set()
        self._statuses = statuses
        self._listing = listing
        self._wanted = wanted
        self._pieces: deque[bytes] = deque(maxlen=_MAX_KEPT_PIECES)
        self._jobs: dict[str, StatusResponse] = {}
        self._counts: dict[JobState, int] = {}
        self._counts_at = float("-inf")
        self._first: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._list = 0, b""

    async def start(self) -> None:
        """Wait for the first reading.

        Raises:
            UnavailableError: Redis does not answer in time.
        """
        if not self.version:
            if self._first is None or self._first.done():
                self._first = asyncio.get_running_loop().create_task(self._read())
            await asyncio.shield(self._first)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._keep_reading())

    def close(self) -> None:
        """Stop reading."""
        for task in (self._first, self._task):
            if task is not None:
                task.cancel()

    def since(self, version: int) -> bytes:
        """Return the events after a version; the whole list if there are too many, or for 0."""
        missing = self.version - version
        if version and missing <= len(self._pieces):
            return b"".join(list(self._pieces)[len(self._pieces) - missing :])
        if self._list[0] != self.version:
            bodies = b",".join(each.details_body() for each in self._jobs.values())
            page = b'event: list\ndata: {"jobs":[%b]}\n\n' % bodies
            self._list = self.version, page + _counts_event(self._counts)
        return self._list[1]

    async def _keep_reading(self) -> None:
        seconds = 0.0
        while True:
            # However many lists are followed, reading them takes a small share of the time.
            pause = seconds * len(self._feeds.feeds) / _MAX_READING_SHARE
            await asyncio.sleep(max(READ_INTERVAL_SECONDS, pause))
            began_at = time.monotonic()
            try:
                await self._read()
                seconds = time.monotonic() - began_at
            except UnavailableError:
                continue  # the link logs it; the watchers keep what they have
            except Exception:
                _log.exception("a list can't be read because of a bug, retrying")

    async def _read(self) -> None:
        page = await self._listing.page(self._wanted, PAGE_SIZE)
        now = time.monotonic()
        counts = self._counts
        if now - self._counts_at >= COUNTS_INTERVAL_SECONDS:
            counts = await self._listing.counts(self._wanted.prefix)
            self._counts_at = now
        jobs = {_id_of(response): response for response in page.jobs}
        changed = [
            response
            for job_id, response in jobs.items()
            if _differs(self._jobs.get(job_id), response)
        ]
        changed += await self._changed_among_departed(jobs)
        piece = b"".join(
            b"event: status\nid: %b\ndata: %b\n\n" % (response.etag, response.details_body())
            for response in reversed(changed)  # the newest last, as if each had come by itself
        )
        if counts != self._counts:
            piece += _counts_event(counts)
        self._jobs, self._counts = jobs, counts
        if piece or not self.version:
            self.version += 1
            self._pieces.append(piece)
            for watcher in self.watchers:
                watcher.wake()

    async def _changed_among_departed(
        self, jobs: dict[str, StatusResponse]
    ) -> list[StatusResponse]:
        """Return the new responses about jobs that have left the page because they have changed."""
        departed = [job_id for job_id in self._jobs if job_id not in jobs]
        keys = [self._statuses.key_of_text(self._wanted.prefix, job_id) for job_id in departed]
        found = await asyncio.gather(*map(self._statuses.get, keys))
        return [
            response
            for job_id, (response, _) in zip(departed, found, strict=True)
            if _differs(self._jobs[job_id], response)
        ]


class ListFeeds:
    """The feeds that are watched, by their filters. Belongs to one event loop."""

    def __init__(self, statuses: Statuses, listing: Listing) -> None:
        self.feeds: dict[ListFilter, ListFeed] = {}
        self._statuses = statuses
        self._listing = listing

    @contextlib.contextmanager
    def watch(self, wanted: ListFilter, watcher: Watcher) -> Iterator[ListFeed]:
        """Have a watcher watch a list during the block."""
        feed = self.feeds.get(wanted)
        if feed is None:
            feed = self.feeds[wanted] = ListFeed(self._statuses, self._listing, wanted, self)
        feed.watchers.add(watcher)
        try:
            yield feed
        finally:
            feed.watchers.discard(watcher)
            if not feed.watchers:
                feed.close()
                if self.feeds.get(wanted) is feed:
                    del self.feeds[wanted]


class _Id(msgspec.Struct, frozen=True):
    id: str


def _id_of(response: StatusResponse) -> str:
    return msgspec.json.decode(response.body, type=_Id).id


def _differs(before: StatusResponse | None, response: StatusResponse) -> bool:
    return before is None or before.etag != response.etag


def _counts_event(counts: dict[JobState, int]) -> bytes:
    return b"event: counts\ndata: %b\n\n" % msgspec.json.encode(counts)
