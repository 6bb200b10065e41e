"""Checks of values from job code."""

from datetime import timedelta
from typing import Any

import pytest
from tests.hostile_values import RaisingValue

from jobstatus.reporting.sanitize import (
    MAX_DURATION_SECONDS,
    clamp_percent,
    delay_seconds,
    log_ignored_error,
    step_count,
)

INFINITY, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("percent", "clamped"),
    [
        *((0.0, 0.0), (100.0, 100.0), (50.5, 50.5), (-1.0, 0.0), (100.1, 100.0)),
        *((INFINITY, 100.0), (-INFINITY, 0.0), (NAN, None)),
    ],
)
def test_clamp_percent(percent: float, clamped: float | None) -> None:
    """A percentage becomes the nearest value from 0 to 100."""
    assert clamp_percent(percent) == clamped


@pytest.mark.parametrize(
    ("total", "count"),
    [
        *((None, None), (5, 5), (2.9, 2), ("7", 7), ("many", None), (NAN, None)),
        *(([], None), (RaisingValue(), None)),
    ],
)
def test_step_count(total: Any, count: int | None, caplog: pytest.LogCaptureFixture) -> None:
    """A total that is not a number is ignored and logged."""
    assert step_count(total) == count
    is_logged = "a loop's total is not a number and is ignored" in caplog.text
    assert is_logged is (total is not None and count is None)


@pytest.mark.parametrize(
    ("delay", "seconds"),
    [
        *((0, 0.0), (2.5, 2.5), (timedelta(minutes=1), 60.0), ("3", 3.0)),
        *((1e300, MAX_DURATION_SECONDS), (INFINITY, MAX_DURATION_SECONDS)),
        *((-1, None), (timedelta(seconds=-1), None), (NAN, None), ("soon", None)),
        *((None, None), (RaisingValue(), None)),
    ],
)
def test_delay_seconds(delay: Any, seconds: float | None) -> None:
    """A delay that is negative or not a duration is none; a long one is limited to ten years."""
    assert delay_seconds(delay) == seconds


def test_log_ignored_error(caplog: pytest.LogCaptureFixture) -> None:
    """An ignored error is one line."""
    log_ignored_error("the report is ignored", ValueError("two\nlines"))
    assert caplog.messages == ["the report is ignored: ValueError: two lines"]


def test_ctrl_c_is_not_ignored() -> None:
    """A Ctrl-C during a conversion propagates."""
    value = RaisingValue(KeyboardInterrupt)
    for convert in (step_count, delay_seconds):
        with pytest.raises(KeyboardInterrupt):
            convert(value)
