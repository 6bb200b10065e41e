"""Lists of a tenant's jobs, newest first, and their counts.

Unfinished jobs are ordered by when they were created, finished ones by when they finished. A page
is made in rounds (`list_round`), each of which reads one snapshot of the index.
"""

import asyncio
import time
from typing import Final

import msgspec

from jobstatus.status import JobState
from jobstatus_service.lookup.cursor import Cursor, ListFilter
from jobstatus_service.lookup.list_round import MAX_EXAMINED, Round
from jobstatus_service.lookup.response import StatusResponse
from jobstatus_service.lookup.statuses import Statuses

_COUNTS_SECONDS: Final = 1.0
"""Seconds for which counts are served again."""


class Page(msgspec.Struct, frozen=True):
    """A page of a list.

    Attributes:
        jobs: The jobs' responses, newest first.
        next: Where the list goes on; None at its end.
    """

    jobs: list[StatusResponse]
    next: Cursor | None


class Listing:
    """The lists and counts of all tenants. Belongs to one event loop."""

    def __init__(self, statuses: Statuses) -> None:
        self._statuses = statuses
        self._index = statuses.index
        self._counts: dict[str, tuple[float, asyncio.Task[dict[JobState, int]]]] = {}

    async def page(self, wanted: ListFilter, limit: int, cursor: Cursor | None = None) -> Page:
        """Return a page of a list.

        It may have fewer jobs than `limit` although the list goes on.

        Args:
            wanted: Which jobs it contains.
            limit: How many jobs it has at most.
            cursor: Where it begins; None: with the newest job.

        Raises:
            UnavailableError: Redis does not answer in time.
        """
        jobs: list[StatusResponse] = []
        examined = 0
        while True:
            round_ = Round(self._statuses, wanted, limit - len(jobs), cursor)
            jobs += await round_.run()
            examined += round_.examined
            cursor = round_.next
            if cursor is None or len(jobs) >= limit or examined >= MAX_EXAMINED:
                return Page(jobs, cursor)

    async def counts(self, prefix: str) -> dict[JobState, int]:
        """Return how many jobs a tenant has in each stored state; at most a second old.

        Raises:
            UnavailableError: Redis does not answer in time.
        """
        now = time.monotonic()
        self._counts = {
            key: (made_at, task)
            for key, (made_at, task) in self._counts.items()
            if now - made_at < _COUNTS_SECONDS and not _has_failed(task)
        }
        if prefix not in self._counts:
            task = asyncio.get_running_loop().create_task(self._index.counts(prefix))
            self._counts[prefix] = now, task
        return await asyncio.shield(self._counts[prefix][1])


def _has_failed(task: "asyncio.Task[dict[JobState, int]]") -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)
