"""The backlog: final states and pending jobs that wait until Redis accepts them.

It is bounded, and each entry is one `Write` of some 400 bytes: a long outage costs little memory.
The results of jobs are bounded by their size.
"""

from collections import deque
from collections.abc import Iterable
from typing import Final

from jobstatus.status import JobState
from jobstatus.storage.write import Write

_MAX_RESULT_BYTES: Final = 64 * 2**20
"""Bytes that the results in the backlog may have in all."""

_RESULT_DROPPED: Final = (
    "Redis was unavailable when the job finished, and too many results were waiting to be stored"
)


class Backlog:
    """Writes in the order in which they were added; `pending` records before final states.

    Attributes:
        dropped: How many final states were dropped because the backlog was full.
    """

    def __init__(self, limit: int) -> None:
        """Create an empty backlog for at most `limit` writes."""
        self.dropped = 0
        self._limit = limit
        self._result_bytes = 0
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
        for each in writes:
            write = each
            if write.result is not None:
                if self._result_bytes + write.result_bytes > _MAX_RESULT_BYTES:
                    write = write.without_result(_RESULT_DROPPED)
                else:
                    self._result_bytes += write.result_bytes
            self._queue_of(write).append(write)
        excess = max(0, len(self) - self._limit)
        dropped = self._remove(self._final, min(excess, len(self._final)))
        for _ in range(excess - len(dropped)):
            self._pending.popleft()
        self.dropped += len(dropped)
        return dropped

    def put_back(self, writes: Iterable[Write]) -> None:
        """Put writes that `take` has just returned back to the front."""
        for write in reversed(list(writes)):
            self._result_bytes += write.result_bytes
            self._queue_of(write).appendleft(write)

    def take(self, maximum: int) -> list[Write]:
        """Remove and return the first writes, at most `maximum`."""
        taken: list[Write] = []
        for queue in (self._pending, self._final):
            taken += self._remove(queue, min(len(queue), maximum - len(taken)))
        return taken

    def _remove(self, queue: deque[Write], count: int) -> list[Write]:
        removed = [queue.popleft() for _ in range(count)]
        self._result_bytes -= sum(write.result_bytes for write in removed)
        return removed

    def _queue_of(self, write: Write) -> deque[Write]:
        return self._pending if write.record.state is JobState.PENDING else self._final
