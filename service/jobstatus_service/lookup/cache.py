"""The cache of responses: a job's response is valid until Redis sends an invalidation."""

import time
from collections import OrderedDict
from typing import Final

from jobstatus_service.lookup.response import StatusResponse

MAX_CACHED_SECONDS: Final = 60.0
"""How long a response is served without asking Redis again, even if no invalidation arrives: it
bounds the harm of an invalidation that Redis never sends."""

_MAX_REMEMBERED_INTERVALS: Final = 100_000
"""Jobs whose change interval is remembered while no response about them is cached."""


class ResponseCache:
    """Responses by record key, within a budget; the least recently used are evicted first.

    The cache doesn't know whether invalidations arrive: each response's `verification` says so.

    Attributes:
        responses: The cached responses, the most recently used last. A caller that serves one must
            check that it is still valid.
        size: Their approximate bytes in memory.
        evictions: How many responses were removed for lack of room.
    """

    def __init__(self, budget: int) -> None:
        """Make an empty cache that holds at most `budget` bytes."""
        self.responses: OrderedDict[str, StatusResponse] = OrderedDict()
        self.size = 0
        self.evictions = 0
        self._budget = budget
        self._intervals: dict[str, float] = {}

    def put(self, key: str, response: StatusResponse) -> None:
        """Store a response, replacing an older one."""
        self._pop(key)
        self._intervals.pop(key, None)
        self.responses[key] = response
        self.size += response.size
        while self.size > self._budget:
            _, oldest = self.responses.popitem(last=False)
            self.size -= oldest.size
            self.evictions += 1

    def invalidate(self, key: str) -> None:
        """Remove the response about a job that has changed; remember the job's change interval."""
        response = self._pop(key)
        if response is None:
            return
        interval = time.monotonic() - response.changed_at
        if len(self._intervals) >= _MAX_REMEMBERED_INTERVALS:
            self._intervals.clear()
        if interval < float("inf"):
            self._intervals[key] = (
                (response.change_interval + interval) / 2 if response.change_interval else interval
            )

    def change_interval(self, key: str) -> float:
        """Return the observed seconds between two changes of a job; 0 if unknown."""
        response = self.responses.get(key)
        return response.change_interval if response else self._intervals.get(key, 0.0)

    def clear(self) -> None:
        """Remove all responses and intervals."""
        self.responses.clear()
        self._intervals.clear()
        self.size = 0

    def _pop(self, key: str) -> StatusResponse | None:
        response = self.responses.pop(key, None)
        if response is not None:
            self.size -= response.size
        return response
