"""What job code hands in, made usable. Nothing here raises: a report never fails its job."""

import logging
import math
from datetime import timedelta
from typing import Any, Final

from jobstatus.status import REASON_LIMIT, one_line, raise_interrupt

MAX_DURATION_SECONDS: Final = 315_360_000.0
"""Seconds that anything is waited for, or kept, at most: ten years."""

_log = logging.getLogger("jobstatus")


def log_ignored_error(what: str, error: BaseException) -> None:
    """Say in the log what job code has handed in that is of no use."""
    _log.warning("%s: %s: %s", what, type(error).__name__, one_line(error, REASON_LIMIT))


def clamp_fraction(fraction: float) -> float | None:
    """The nearest of 0..1; None for NaN."""
    if 0.0 <= fraction <= 1.0:
        return fraction
    return None if math.isnan(fraction) else min(1.0, max(0.0, fraction))


def step_count(total: Any) -> int | None:
    """A number of steps, if it is one."""
    try:
        return None if total is None else int(total)
    except BaseException as error:
        raise_interrupt(error)
        log_ignored_error("total can't be read", error)
        return None


def delay_seconds(delay: Any) -> float | None:
    """A delay in seconds, if it is one."""
    try:
        value = delay.total_seconds() if isinstance(delay, timedelta) else float(delay)
    except BaseException as error:
        raise_interrupt(error)
        return None
    return min(value, MAX_DURATION_SECONDS) if value >= 0 else None
