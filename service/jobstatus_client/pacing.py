"""When the next request is sent, and whether it opens a stream, waits or polls."""

import math
from collections.abc import Callable
from typing import Final, Literal

from jobstatus_client.errors import RequestError

Clock = Callable[[], float]
"""Returns seconds; never goes back, such as `time.monotonic`."""

Random = Callable[[], float]
"""Returns a number from 0 up to 1, such as `random.random`."""

POLL_SECONDS: Final = 2.0
"""The poll interval where a response has no Retry-After."""

_FIRST_RETRY_SECONDS: Final = 0.5
_SHORT_RETRY_SECONDS: Final = 1.0
_MAX_RETRY_SECONDS: Final = 30.0
_RETRY_SHARE: Final = 1 / 30
_NO_STREAM_AFTER_BUFFERING_SECONDS: Final = 300.0
_MAX_NO_STREAM_SECONDS: Final = 60.0


class Backoff:
    """The time before the next try, after failures.

    It grows with the outage, but is at most a thirtieth of it: what has happened during an outage
    of 30 s is noticed within a second after it. It begins again when, after several answers, a
    connection is lost, or the other way: something has changed.
    """

    def __init__(self, clock: Clock, random: Random) -> None:
        self._clock = clock
        self._random = random
        self._failures = 0
        self._failing_since = 0.0
        self._exponent = 0
        self._alike = 0  # how many of the last failures were of the same kind
        self._was_answered = False

    def reset(self) -> None:
        """Forget failures: something has worked."""
        self._failures = 0

    def has_failed_for(self, seconds: float) -> bool:
        """Return whether nothing has worked for so long."""
        return self._failures > 0 and self._clock() - self._failing_since >= seconds

    def next(self, error: Exception | None = None) -> float:
        """Count a failure; return after how many seconds to try again."""
        now = self._clock()
        is_answered = isinstance(error, RequestError)
        if is_answered != self._was_answered:
            self._exponent = 0 if self._alike > 1 else self._exponent
            self._alike = 0
        if self._failures == 0:
            self._failing_since = now
            self._exponent = self._alike = 0
        grown = max(_SHORT_RETRY_SECONDS, _RETRY_SHARE * (now - self._failing_since))
        ceiling = min(
            _FIRST_RETRY_SECONDS * 2.0 ** min(self._exponent, 9), grown, _MAX_RETRY_SECONDS
        )
        self._failures += 1
        self._exponent += 1
        self._alike += 1
        self._was_answered = is_answered
        asked = error.retry_after if isinstance(error, RequestError) else 0.0
        random = self._random()
        return max(ceiling * (0.5 + random / 2), asked * (1 + random / 4))


class Fallback:
    """What to send instead of opening a stream, and until when; the same in all channels."""

    def __init__(self, clock: Clock, random: Random) -> None:
        self._clock = clock
        self._random = random
        self._kind: Literal["poll", "long poll"] = "poll"
        self._until = -math.inf
        self._refusals = 0
        self._is_short = False

    @property
    def kind(self) -> Literal["poll", "long poll"] | None:
        """What to send now; None: open a stream."""
        return self._kind if self._clock() < self._until else None

    def on_buffered_stream(self) -> None:
        """A proxy holds streams back."""
        self._kind = "long poll"
        self._until = self._clock() + _NO_STREAM_AFTER_BUFFERING_SECONDS

    def on_refused_stream(self) -> None:
        """The service refuses a stream: there may be too many. The next try is later each time."""
        self._pause(min(2.0**self._refusals, _MAX_NO_STREAM_SECONDS))
        self._refusals = min(self._refusals + 1, 6)

    def on_retry(self, seconds: float) -> float:
        """The service ends a stream, and asks to open the next one later: polls go on meanwhile.

        Returns:
            Seconds until the first poll.
        """
        self._pause(min(seconds, _MAX_NO_STREAM_SECONDS))
        self._is_short = True
        return min(seconds, _SHORT_RETRY_SECONDS) * self._random()

    def on_failed_poll(self) -> None:
        """A poll has failed as well, so it is not because of streams."""
        self._refusals = 0
        if self._kind == "poll":
            self._until = -math.inf

    def on_stream(self) -> None:
        """A stream works."""
        self._refusals = 0

    def poll_interval(self, asked: float) -> float:
        """Return the seconds until the next poll; 0 for `asked`: the service asks for nothing."""
        seconds = (asked or POLL_SECONDS) * (1 + self._random() / 4)
        if self._kind == "poll":
            seconds = min(seconds, max(self._until - self._clock(), 0.0))
            if self._is_short:
                seconds = min(seconds, _SHORT_RETRY_SECONDS)
        return seconds

    def _pause(self, seconds: float) -> None:
        if self.kind != "long poll":
            self._kind = "poll"
            self._is_short = False
            self._until = max(self._until, self._clock() + seconds)
