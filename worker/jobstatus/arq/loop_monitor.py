"""Noticing that a job blocks the event loop, which looks like a Redis that does not answer."""

import asyncio
import logging
from typing import Final

_INTERVAL_SECONDS: Final = 0.5
"""Seconds between two looks at the clock."""

_BLOCKED_SECONDS: Final = 1.0
"""Seconds by which a look must be late to count as a block."""

_LOGGED_SECONDS: Final = 4.0
"""Seconds by which a look must be late to be logged."""

_log = logging.getLogger("jobstatus")


class LoopMonitor:
    """Notices and logs that the event loop could not run anything else than one callback."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._due_at = 0.0
        self._ended_at = float("-inf")
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Measure from now on."""
        self._due_at = self._loop.time() + _INTERVAL_SECONDS
        self._timer = self._loop.call_at(self._due_at, self._look)

    def stop(self) -> None:
        """Measure no more."""
        if self._timer is not None:
            self._timer.cancel()

    def was_blocked(self, since: float) -> bool:
        """Return whether the loop was blocked for a time that ended after `since`.

        Args:
            since: A time of the loop's clock.
        """
        return self._ended_at >= since

    def _look(self) -> None:
        late = self._loop.time() - self._due_at
        if late > _BLOCKED_SECONDS:
            self._ended_at = self._loop.time()
        if late > _LOGGED_SECONDS:
            _log.warning(
                "a job has blocked the event loop for %.0f s with code that does not await, no "
                "jobs were claimed meanwhile: call such code with asyncio.to_thread",
                late,
            )
        self.start()
