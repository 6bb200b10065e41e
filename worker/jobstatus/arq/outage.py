"""Outages of the queue's Redis: which errors mean one, and waiting until Redis is available."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from jobstatus.arq.loop_monitor import LoopMonitor
from jobstatus.storage.refusals import RefusalLog, error_text, is_permanent, refusal_of

T = TypeVar("T")

COMMAND_TIMEOUT_SECONDS: Final = 10.0
"""Seconds that one poll of the queue, or one commit, may take before it is tried again."""

OUTAGE_ERRORS: Final = (OSError, RedisConnectionError, RedisTimeoutError)
"""The errors that are raised when Redis is unavailable, too slow or still loading its data."""

_TIMEOUTS: Final = (TimeoutError, RedisTimeoutError)

_RETRY_SECONDS: Final = 0.3
"""Seconds between two attempts to reach Redis while it is unavailable."""

_log = logging.getLogger("jobstatus")


class TransientRefusalError(OSError):
    """Redis has answered with an error, and may accept the same command later."""


def is_transient(error: BaseException) -> bool:
    """Return whether the same command may succeed later: an outage, or a transient refusal."""
    return isinstance(error, OUTAGE_ERRORS) or _is_transient_refusal(error)


def raise_if_transient(error: BaseException) -> None:
    """Raise `TransientRefusalError` if `error` is a transient refusal; otherwise do nothing.

    Raises:
        TransientRefusalError: Redis may accept the same command later.
    """
    if isinstance(error, ResponseError) and _is_transient_refusal(error):
        raise TransientRefusalError(error_text(error)) from error


def _is_transient_refusal(error: BaseException) -> bool:
    return isinstance(error, ResponseError) and not is_permanent(error)


_OLD_CONNECTION_SECONDS: Final = 3.0
"""Seconds after an outage in which a lost connection is not a new outage yet."""


class Outage:
    """Whether the queue's Redis is unavailable. Its start and its end are logged once each.

    Attributes:
        is_active: Whether the last command failed because Redis was unavailable.
        started_at: When the last outage began, on the monotonic clock.
        refusals: How often Redis has refused arq's own commands, by error code.
    """

    def __init__(self, loop: LoopMonitor) -> None:
        """Create it; `loop` tells an outage from an event loop that is blocked."""
        self.is_active = False
        self._loop = loop
        self.started_at = 0.0
        self._ended_at = float("-inf")
        self.refusals: Counter[str] = Counter()
        self._renewal_refusals = RefusalLog(
            "Redis refuses to renew claims, this is tried again", self.refusals
        )

    async def retry(
        self, command: Callable[[], Awaitable[T]], must_give_up: Callable[[], bool]
    ) -> T:
        """Return what `command` returns, waiting for the end of an outage if necessary.

        Args:
            command: Sends commands to Redis. One call may take `COMMAND_TIMEOUT_SECONDS`.
            must_give_up: Whether to raise the error of an outage instead of waiting.

        Raises:
            RedisError, OSError: The error isn't transient, or `must_give_up` returned True.
        """
        while True:
            try:
                async with asyncio.timeout(COMMAND_TIMEOUT_SECONDS):
                    return await command()
            except (RedisError, OSError) as error:
                if not is_transient(error) or must_give_up():
                    raise
                await self.wait(error)

    async def wait(self, error: BaseException) -> None:
        """Note that Redis is unavailable because of `error`, and wait before the next attempt."""
        if isinstance(error, _TIMEOUTS) and self._was_loop_blocked():
            await asyncio.sleep(0)
            return
        if self._may_be_old_connection(error):
            await asyncio.sleep(_RETRY_SECONDS)
            return
        is_refusal = isinstance(error, TransientRefusalError)
        refusal = refusal_of(error.__cause__ if is_refusal else error)
        problem, message = "is unavailable", f"{type(error).__name__}: {error}"
        if refusal is not None:
            problem, message = "refuses commands", refusal.message
            self.refusals[refusal.code] += 1
        if not self.is_active:
            self.is_active = True
            self.started_at = time.monotonic()
            _log.warning(
                "the queue's Redis %s, no jobs are claimed meanwhile: %s", problem, message
            )
        await asyncio.sleep(_RETRY_SECONDS)

    def _may_be_old_connection(self, error: BaseException) -> bool:
        """Whether the pool may have used a connection from before an outage that has just ended."""
        is_lost = isinstance(error, RedisConnectionError) and not isinstance(error, _TIMEOUTS)
        return is_lost and time.monotonic() - self._ended_at < _OLD_CONNECTION_SECONDS

    def _was_loop_blocked(self) -> bool:
        """Whether the event loop was blocked during the command that has just timed out."""
        since = asyncio.get_running_loop().time() - COMMAND_TIMEOUT_SECONDS
        return self._loop.was_blocked(since)

    def count_renewal_refusal(self, error: BaseException) -> None:
        """Count an error with which Redis refused to renew claims; log each code once a minute."""
        if (refusal := refusal_of(error)) is not None:
            self._renewal_refusals.add(refusal)

    def finish(self) -> bool:
        """Note that Redis is available; return whether it was unavailable until now."""
        was_active, self.is_active = self.is_active, False
        if was_active:
            self._ended_at = time.monotonic()
            _log.warning("the queue's Redis is available again")
        return was_active
