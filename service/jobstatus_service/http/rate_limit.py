"""How often one API key may ask: a token bucket for each (https://en.wikipedia.org/wiki/Token_bucket).

Counted in each process by itself, so that it costs no round trip: a key gets as many times the rate
as there are processes, and less than that where they are not evenly loaded.
"""

import math
import time

from jobstatus_service.settings import ServiceSettings


class RateLimit:
    """Tokens by API key: each request takes one, and they grow back."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._rate = settings.rate
        self._burst = float(settings.burst or max(1, math.ceil(2 * settings.rate)))
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, name: str, now: float | None = None) -> int:
        """Take a token of a key; 0, or whole seconds until there will be one.

        Args:
            name: The API key's.
            now: The time on the monotonic clock.
        """
        now = time.monotonic() if now is None else now
        tokens, at = self._buckets.get(name, (self._burst, now))
        tokens = min(self._burst, tokens + (now - at) * self._rate)
        if tokens < 1:
            self._buckets[name] = tokens, now
            return max(1, math.ceil((1 - tokens) / self._rate))
        self._buckets[name] = tokens - 1, now
        return 0


def rate_limit_of(settings: ServiceSettings) -> RateLimit | None:
    """The limit that the settings ask for, if they do."""
    return RateLimit(settings) if settings.rate else None
