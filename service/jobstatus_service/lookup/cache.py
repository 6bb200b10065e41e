"""The near cache: replies that stand until Redis says that the job changed."""

import time
from collections import OrderedDict
from typing import Final

from jobstatus_service.lookup.response import StatusResponse

_REMEMBERED: Final = 100_000
"""Jobs whose rhythm is kept at most while no reply about them is."""


class ResponseCache:
    """Replies by key, within a budget; the least recently used go first.

    It knows nothing of doubt: whoever asks it must know that changes are being told.

    Attributes:
        replies: What may be served, unless its time is up. The last ones were used last.
        size: Bytes that they take, about.
        evicted: How many had to go for lack of room.
    """

    def __init__(self, budget: int) -> None:
        """An empty cache that holds at most `budget` bytes."""
        self.responses: OrderedDict[str, StatusResponse] = OrderedDict()
        self.size = 0
        self.evictions = 0
        self._budget = budget
        self._intervals: dict[str, float] = {}

    def put(self, key: str, response: StatusResponse) -> None:
        """Keep a reply, in the place of an older one."""
        self._pop(key)
        self._intervals.pop(key, None)
        self.responses[key] = response
        self.size += response.size
        while self.size > self._budget:
            _, oldest = self.responses.popitem(last=False)
            self.size -= oldest.size
            self.evictions += 1

    def drop(self, key: str) -> None:
        """Forget a reply, since the job has changed; its rhythm is remembered."""
        response = self._pop(key)
        if response is None:
            return
        since = time.monotonic() - response.changed_at
        if len(self._intervals) >= _REMEMBERED:
            self._intervals.clear()
        if since < float("inf"):
            self._intervals[key] = (
                (response.change_interval + since) / 2 if response.change_interval else since
            )

    def change_interval(self, key: str) -> float:
        """Seconds between two changes of a job, as far as they were seen; 0: they were not."""
        response = self.responses.get(key)
        return response.change_interval if response else self._intervals.get(key, 0.0)

    def clear(self) -> None:
        """Forget everything."""
        self.responses.clear()
        self._intervals.clear()
        self.size = 0

    def _pop(self, key: str) -> StatusResponse | None:
        response = self.responses.pop(key, None)
        if response is not None:
            self.size -= response.size
        return response
