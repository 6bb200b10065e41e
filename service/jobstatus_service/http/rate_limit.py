"""The request rate of a client: a token bucket for each key, and one for each job token.

https://en.wikipedia.org/wiki/Token_bucket. Each process counts by itself, so that the limit costs
no round trip: a client gets the rate times the number of processes, and less than that where
requests are not evenly distributed over them.
"""

import math
import time
from typing import Final

from jobstatus_service.http.client import Client
from jobstatus_service.settings import ServiceSettings

_MIN_BUCKETS_TO_CLEAN: Final = 10_000


class Buckets:
    """Token buckets by what they limit: a request takes one token; they are refilled at a rate."""

    def __init__(self, rate: float, burst: int = 0) -> None:
        """Make full buckets.

        Args:
            rate: Tokens that are refilled per second.
            burst: Tokens in a full bucket; 0 for those of two seconds.
        """
        self._rate = rate
        self._burst = float(burst or max(1, math.ceil(2 * rate)))
        self._buckets: dict[str, tuple[float, float]] = {}
        self._clean_at = _MIN_BUCKETS_TO_CLEAN

    def take(self, name: str, now: float) -> int:
        """Take a token; return 0, or whole seconds until there is one if the bucket is empty.

        Args:
            name: What is limited.
            now: The time on the monotonic clock.
        """
        tokens = self._tokens(*self._buckets.get(name, (self._burst, now)), now)
        if tokens < 1:
            self._buckets[name] = tokens, now
            return max(1, math.ceil((1 - tokens) / self._rate))
        self._buckets[name] = tokens - 1, now
        if len(self._buckets) >= self._clean_at:
            self._remove_full(now)
        return 0

    def _tokens(self, tokens: float, refilled_at: float, now: float) -> float:
        return min(self._burst, tokens + (now - refilled_at) * self._rate)

    def _remove_full(self, now: float) -> None:
        """Remove the buckets that are full again: a new one is full as well."""
        self._buckets = {
            name: bucket
            for name, bucket in self._buckets.items()
            if self._tokens(*bucket, now) < self._burst
        }
        self._clean_at = max(_MIN_BUCKETS_TO_CLEAN, 2 * len(self._buckets))


class RateLimit:
    """The rate limits that the settings define."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._by_client = Buckets(settings.rate, settings.burst) if settings.rate else None
        self._by_token = Buckets(settings.token_rate) if settings.token_rate else None

    def take(self, client: Client, now: float | None = None) -> int:
        """Count a request; return 0, or whole seconds after which it is allowed.

        Args:
            client: The authenticated client.
            now: The time on the monotonic clock, if the caller has read it already.
        """
        now = time.monotonic() if now is None else now
        seconds = 0
        if self._by_token is not None and client.token_id:
            seconds = self._by_token.take(client.token_id, now)
        if self._by_client is not None and not seconds:
            seconds = self._by_client.take(client.limit_id, now)
        return seconds


def rate_limit_of(settings: ServiceSettings) -> RateLimit | None:
    """Return the limits of the settings; None if there are none."""
    return RateLimit(settings) if settings.rate or settings.token_rate else None
