"""Redis that is away: what says so, and waiting until it is back."""

import asyncio
import logging
from typing import Final

from redis.exceptions import BusyLoadingError, OutOfMemoryError, ReadOnlyError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from jobstatus.store import will_pass

OUTAGE: Final = (
    BusyLoadingError,
    OSError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisConnectionError,
    RedisTimeoutError,
)
"""What passes when Redis is well again: it is away, slow, loading, full, or a replica now."""

_PAUSE: Final = 0.3
"""Seconds between two tries while Redis is away."""

_log = logging.getLogger("jobstatus")


class NotNowError(OSError):
    """Redis answers, but can't do this now."""


def is_passing(error: BaseException) -> bool:
    """Whether Redis is away, or says that it can't now."""
    return isinstance(error, OUTAGE) or (isinstance(error, ResponseError) and will_pass(error))


def raise_passing(error: BaseException) -> None:
    """Raise what stands for an outage, if `error` is Redis's word for one.

    Raises:
        NotNowError: it is.
    """
    if isinstance(error, ResponseError) and will_pass(error):
        raise NotNowError(str(error)) from error


class Outage:
    """Whether Redis is away; says so in the log once, when it goes and when it is back.

    Attributes:
        is_on: Whether it is, or was when it was last asked.
    """

    def __init__(self) -> None:
        self.is_on = False

    async def wait(self, error: BaseException) -> None:
        """Redis is away, `error` says; wait a little."""
        if not self.is_on:
            self.is_on = True
            _log.warning("Redis is away, the worker waits: %s: %s", type(error).__name__, error)
        await asyncio.sleep(_PAUSE)

    def end(self) -> bool:
        """Redis answers; whether it was away."""
        was_on, self.is_on = self.is_on, False
        if was_on:
            _log.warning("Redis is back")
        return was_on
