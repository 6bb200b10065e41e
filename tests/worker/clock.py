"""A clock that a test sets."""


class Clock:
    """Replaces the module `time` in a module under test.

    Attributes:
        now: The time on the monotonic clock, in seconds.
    """

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        """Return the time."""
        return self.now
