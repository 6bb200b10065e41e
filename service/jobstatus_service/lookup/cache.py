"""The near cache: replies that stand until Redis says that the job changed."""

import time
from collections import OrderedDict
from typing import Final

from jobstatus_service.lookup.response import Reply

_REMEMBERED: Final = 100_000
"""Jobs whose rhythm is kept at most while no reply about them is."""


class NearCache:
    """Replies by key, within a budget; the least recently used go first.

    It knows nothing of doubt: whoever asks it must know that changes are being told.

    Attributes:
        replies: What may be served, unless its time is up. The last ones were used last.
        size: Bytes that they take, about.
        evicted: How many had to go for lack of room.
    """

    def __init__(self, budget: int) -> None:
        """An empty cache that holds at most `budget` bytes."""
        self.replies: OrderedDict[str, Reply] = OrderedDict()
        self.size = 0
        self.evicted = 0
        self._budget = budget
        self._intervals: dict[str, float] = {}

    def put(self, key: str, reply: Reply) -> None:
        """Keep a reply, in the place of an older one."""
        self._pop(key)
        self._intervals.pop(key, None)
        self.replies[key] = reply
        self.size += reply.size
        while self.size > self._budget:
            _, oldest = self.replies.popitem(last=False)
            self.size -= oldest.size
            self.evicted += 1

    def drop(self, key: str) -> None:
        """Forget a reply, since the job has changed; its rhythm is remembered."""
        reply = self._pop(key)
        if reply is None:
            return
        since = time.monotonic() - reply.changed
        if len(self._intervals) >= _REMEMBERED:
            self._intervals.clear()
        if since < float("inf"):
            self._intervals[key] = (reply.interval + since) / 2 if reply.interval else since

    def interval(self, key: str) -> float:
        """Seconds between two changes of a job, as far as they were seen; 0: they were not."""
        reply = self.replies.get(key)
        return reply.interval if reply else self._intervals.get(key, 0.0)

    def clear(self) -> None:
        """Forget everything."""
        self.replies.clear()
        self._intervals.clear()
        self.size = 0

    def _pop(self, key: str) -> Reply | None:
        reply = self.replies.pop(key, None)
        if reply is not None:
            self.size -= reply.size
        return reply
