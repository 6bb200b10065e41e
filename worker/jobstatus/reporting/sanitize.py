"""Checks of values from job code. Nothing here raises: a report never fails its job."""

import logging
import math
from datetime import timedelta
from typing import Any, Final

from jobstatus.status import REASON_LIMIT, one_line, raise_interrupt

MAX_DURATION_SECONDS: Final = 315_360_000.0
"""The longest duration that is used for anything: ten years."""

_log = logging.getLogger("jobstatus")


def log_ignored_error(what: str, error: BaseException) -> None:
    """Log an error that job code has caused and that is otherwise ignored."""
    _log.warning("%s: %s: %s", what, type(error).__name__, one_line(error, REASON_LIMIT))


def clamp_percent(percent: float) -> float | None:
    """Return the nearest value from 0 to 100; None for NaN."""
    if 0.0 <= percent <= 100.0:  # noqa: PLR2004
        return percent
    return None if math.isnan(percent) else min(100.0, max(0.0, percent))


def step_count(total: Any) -> int | None:
    """Return a number of loop steps; None if `total` is None or not a number."""
    try:
        return None if total is None else int(total)
    except BaseException as error:
        raise_interrupt(error)
        log_ignored_error("a loop's total is not a number and is ignored", error)
        return None


def delay_seconds(delay: Any) -> float | None:
    """Return a delay in seconds; None if it is negative or not a duration."""
    try:
        value = delay.total_seconds() if isinstance(delay, timedelta) else float(delay)
    except BaseException as error:
        raise_interrupt(error)
        return None
    return min(value, MAX_DURATION_SECONDS) if value >= 0 else None
