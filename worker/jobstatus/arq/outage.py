"""An unavailable Redis: which errors say so, and waiting until it is available again."""

import asyncio
import logging
import time
from collections import Counter
from typing import Final

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from jobstatus.storage.refusals import error_text, is_permanent, refusal_of

OUTAGE_ERRORS: Final = (OSError, RedisConnectionError, RedisTimeoutError)
"""What is raised when Redis is unavailable, too slow or still loading."""

_PAUSE: Final = 0.3
"""Seconds between two attempts while Redis is unavailable."""

_SAME_REFUSAL_SECONDS: Final = 60.0
"""Seconds within which a kind of refusal is logged once."""

_log = logging.getLogger("jobstatus")


class TransientRefusalError(OSError):
    """Redis answers, but refuses: this may end."""


def is_transient(error: BaseException) -> bool:
    """Whether what failed may succeed later: Redis is unavailable, or refuses for now."""
    return isinstance(error, OUTAGE_ERRORS) or (
        isinstance(error, ResponseError) and not is_permanent(error)
    )


def raise_transient(error: BaseException) -> None:
    """Raise an outage, if `error` is a refusal that may end.

    Raises:
        RefusedForNowError: it is.
    """
    if isinstance(error, ResponseError) and not is_permanent(error):
        raise TransientRefusalError(error_text(error)) from error


class Outage:
    """Whether Redis is unavailable; logs once when that begins, and once when it ends.

    Attributes:
        is_on: Whether it is, or was when it was last asked.
        since: When the last outage began, on the monotonic clock.
        refusals: How often Redis has refused arq's own commands, by error code.
    """

    def __init__(self) -> None:
        self.is_on = False
        self.since = 0.0
        self._logged: dict[str, float] = {}
        self.refusals: Counter[str] = Counter()

    async def wait(self, error: BaseException) -> None:
        """Wait a little, since Redis is unavailable, as `error` says."""
        refused = refusal_of(error.__cause__ if isinstance(error, TransientRefusalError) else error)
        what, message = "is unavailable", f"{type(error).__name__}: {error}"
        if refused is not None:
            what, message = "refuses commands for now", refused.message
            self.refusals[refused.code] += 1
        if not self.is_on:
            self.is_on = True
            self.since = time.monotonic()
            _log.warning("Redis %s, the worker waits: %s", what, message)
        await asyncio.sleep(_PAUSE)

    def note(self, error: BaseException) -> None:
        """Count what Redis has refused in another thread; log one of its kind once a minute."""
        refused = refusal_of(error)
        if refused is None:
            return
        self.refusals[refused.code] += 1
        now = time.monotonic()
        if now - self._logged.get(refused.code, float("-inf")) >= _SAME_REFUSAL_SECONDS:
            self._logged[refused.code] = now
            _log.warning("Redis refuses to renew claims of jobs for now: %s", refused.message)

    def end(self) -> bool:
        """Redis answers; whether it was unavailable."""
        was_on, self.is_on = self.is_on, False
        if was_on:
            _log.warning("Redis is available again")
        return was_on
