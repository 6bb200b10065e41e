"""The request rate of an API key: a token bucket for each key.

https://en.wikipedia.org/wiki/Token_bucket. Each process counts by itself, so that the limit costs
no round trip: a key gets the rate times the number of processes, and less than that where requests
are not evenly distributed over them.
"""

import math
import time

from jobstatus_service.settings import ServiceSettings


class RateLimit:
    """The token buckets: a request takes one token, and tokens are refilled at the rate."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._rate = settings.rate
        self._burst = float(settings.burst or max(1, math.ceil(2 * settings.rate)))
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, name: str, now: float | None = None) -> int:
        """Take a token; return 0, or whole seconds until there is one if the bucket is empty.

        Args:
            name: The name of the API key.
            now: The time on the monotonic clock, if the caller has read it already.
        """
        now = time.monotonic() if now is None else now
        tokens, refilled_at = self._buckets.get(name, (self._burst, now))
        tokens = min(self._burst, tokens + (now - refilled_at) * self._rate)
        if tokens < 1:
            self._buckets[name] = tokens, now
            return max(1, math.ceil((1 - tokens) / self._rate))
        self._buckets[name] = tokens - 1, now
        return 0


def rate_limit_of(settings: ServiceSettings) -> RateLimit | None:
    """Return the limit of the settings; None if they have no limit."""
    return RateLimit(settings) if settings.rate else None
