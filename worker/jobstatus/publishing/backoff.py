"""Growing delays between attempts at something that fails."""

from typing import Final

OUTAGE_RETRY_SECONDS: Final = (0.05, 0.5)
"""Seconds until the next try while Redis is unavailable: after the first failure, and at most."""

REFUSAL_RETRY_SECONDS: Final = (0.05, 1.0)
"""Seconds until a refused write is sent again: after the first refusal, and at most."""

_MAX_DOUBLINGS: Final = 10


class Backoff:
    """A delay that doubles with each failure, up to a maximum."""

    __slots__ = ("_first", "_longest", "failures")

    def __init__(self, first: float, longest: float) -> None:
        """Create a delay without failures.

        Args:
            first: Seconds after the first failure.
            longest: Seconds at most.
        """
        self.failures = 0
        self._first = first
        self._longest = longest

    def fail(self) -> float:
        """Count a failure; return the seconds until the next attempt."""
        delay = min(self._longest, self._first * 2.0**self.failures)
        self.failures = min(self.failures + 1, _MAX_DOUBLINGS)
        return delay

    def reset(self) -> None:
        """Forget the failures, after a success."""
        self.failures = 0
