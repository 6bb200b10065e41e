"""The backlog: final states and pending jobs that wait until Redis accepts them.

It is bounded, and each entry is one `Write` of some 400 bytes: a long outage costs little memory.
"""

from collections import deque
from collections.abc import Iterable

from jobstatus.status import JobState
from jobstatus.storage.write import Write


class Backlog:
    """Writes in the order in which they were added; `pending` records before final states.

    Attributes:
        dropped: How many final states were dropped because the backlog was full.
    """

    def __init__(self, limit: int) -> None:
        """Create an empty backlog for at most `limit` writes."""
        self.dropped = 0
        self._limit = limit
        self._pending: deque[Write] = deque()
        self._final: deque[Write] = deque()

    def __len__(self) -> int:
        return len(self._pending) + len(self._final)

    @property
    def final_states(self) -> int:
        """The number of final states in the backlog."""
        return len(self._final)

    def add(self, writes: Iterable[Write]) -> list[Write]:
        """Add writes; return the oldest final states, which were dropped to make room."""
        for write in writes:
            self._queue_of(write).append(write)
        excess = max(0, len(self) - self._limit)
        dropped = [self._final.popleft() for _ in range(min(excess, len(self._final)))]
        for _ in range(excess - len(dropped)):
            self._pending.popleft()
        self.dropped += len(dropped)
        return dropped

    def put_back(self, writes: Iterable[Write]) -> None:
        """Put writes that `take` has just returned back to the front."""
        for write in reversed(list(writes)):
            self._queue_of(write).appendleft(write)

    def take(self, maximum: int) -> list[Write]:
        """Remove and return the first writes, at most `maximum`."""
        taken: list[Write] = []
        for queue in (self._pending, self._final):
            while queue and len(taken) < maximum:
                taken.append(queue.popleft())
        return taken

    def _queue_of(self, write: Write) -> deque[Write]:
        return self._pending if write.record.state is JobState.PENDING else self._final
