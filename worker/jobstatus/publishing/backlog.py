"""Final states and pending jobs that wait to be written: bounded, and small in memory.

Each is one `Write` and nothing else, some 400 bytes, so that a long outage of Redis costs little.
"""

from collections import deque
from collections.abc import Iterable

from jobstatus.status import JobState
from jobstatus.storage.store import Write


class Backlog:
    """Writes in the order in which they came in; `pending` records before final states.

    Attributes:
        dropped: How many final states were dropped for lack of room.
    """

    def __init__(self, limit: int) -> None:
        """An empty backlog that holds at most `limit` writes."""
        self.dropped = 0
        self._limit = limit
        self._pending: deque[Write] = deque()
        self._final: deque[Write] = deque()

    def __len__(self) -> int:
        return len(self._pending) + len(self._final)

    @property
    def final_states(self) -> int:
        """How many of them are final states."""
        return len(self._final)

    def add(self, writes: Iterable[Write]) -> list[Write]:
        """Add writes; the final states that were dropped, the oldest ones, to make room."""
        for write in writes:
            self._queue_of(write).append(write)
        excess = max(0, len(self) - self._limit)
        dropped = [self._final.popleft() for _ in range(min(excess, len(self._final)))]
        for _ in range(excess - len(dropped)):
            self._pending.popleft()
        self.dropped += len(dropped)
        return dropped

    def put_back(self, writes: Iterable[Write]) -> None:
        """Put writes back in front, which `take` has just given away."""
        for write in reversed(list(writes)):
            self._queue_of(write).appendleft(write)

    def take(self, most: int) -> list[Write]:
        """Take the first writes away, at most so many."""
        taken: list[Write] = []
        for queue in (self._pending, self._final):
            while queue and len(taken) < most:
                taken.append(queue.popleft())
        return taken

    def _queue_of(self, write: Write) -> deque[Write]:
        return self._pending if write.record.state is JobState.PENDING else self._final
