"""Growing delays between attempts at something that fails."""

_MAX_DOUBLINGS = 10


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
