"""Estimating when an attempt will have finished, from the progress that it has reported.

The average rate of progress is the best guess for most jobs, and the steadiest. Two things are
added. A pause much longer than those before it, such as a stalled download, counts only in part:
it says little about the rate after it. And where the time that progress takes clearly grows or
shrinks with the progress, the trend is continued: a parabola is fitted to the times at which the
progress passed equal steps, and used as far as it is significant.

`python -m tests.bench eta` compares the errors with those of other estimators. Pure.
"""

from typing import Final

_MIN_PERCENT: Final = 1.0
_MIN_SECONDS: Final = 1.0
_MIN_CHANGES: Final = 3
"""What is evidence enough for an estimate: how far progress has grown since the attempt's first
report of it, in what time, in how many changes."""

_MAX_PAUSE: Final = 5.0
"""Times the usual pause between two changes of progress, as which a longer pause counts."""

_PAUSE_WINDOW: Final = 20
"""Changes of progress that the usual pause is averaged over."""

_STEP_PERCENT: Final = 2.0
"""Steps of progress at which the time is taken for the trend."""

_MIN_STEPS: Final = 5
"""Steps without which there is no trend."""

_SIGNIFICANCE: Final = 100.0
"""The square of the trend's t-statistic at which the trend begins to count. It is high because the
times of successive steps depend on each other."""

_MAX_TREND: Final = 4.0
"""How many times longer or shorter the trend may make an estimate."""


class EtaEstimator:
    """Estimates the remaining time of one attempt."""

    __slots__ = (
        *("_changes", "_first", "_last", "_last_at", "_next_step", "_pause", "_seconds"),
        *("_steps", "_sums", "_trend"),
    )

    def __init__(self) -> None:
        self._first: float | None = None
        self._last = self._last_at = self._next_step = 0.0
        self._changes = 0
        self._pause = 0.0
        self._seconds = 0.0  # in which progress has grown from the first to the last report
        self._steps = 0
        self._sums = [0.0] * 6
        self._trend: tuple[float, float, float] | None = None

    def update(self, percent: float, now: float) -> float | None:
        """Take in the present progress; return the estimated seconds until it is 100 percent.

        Args:
            percent: 0..100.
            now: The time on the monotonic clock.

        Returns:
            The seconds, 0 or more; None while there is not evidence enough.
        """
        if self._first is None:
            self._first = self._last = percent
            self._last_at, self._next_step = now, percent + _STEP_PERCENT
            return None
        if percent > self._last:
            self._add_change(percent, now)
        grown = self._last - self._first
        if grown < _MIN_PERCENT or self._seconds < _MIN_SECONDS or self._changes < _MIN_CHANGES:
            return None
        return self._estimate(grown)

    def _add_change(self, percent: float, now: float) -> None:
        pause = max(0.0, now - self._last_at)
        if self._changes >= _MIN_CHANGES:
            pause = min(pause, _MAX_PAUSE * self._pause)
        self._changes += 1
        self._pause += (pause - self._pause) / min(self._changes, _PAUSE_WINDOW)
        self._seconds += pause
        self._last, self._last_at = percent, now
        if percent >= self._next_step:
            self._next_step = percent + _STEP_PERCENT
            self._add_step(percent - (self._first or 0.0))

    def _add_step(self, x: float) -> None:
        """Fit `seconds = a x + b x²` to all steps, by least squares from sums."""
        y, square = self._seconds, x * x
        terms = (square, square * x, square * square, x * y, square * y, y * y)
        self._sums = [total + term for total, term in zip(self._sums, terms, strict=True)]
        x2, x3, x4, xy, x2y, y2 = self._sums
        self._steps += 1
        determinant = x2 * x4 - x3 * x3
        if self._steps < _MIN_STEPS or determinant <= 0:
            return
        a = (xy * x4 - x2y * x3) / determinant
        b = (x2y * x2 - xy * x3) / determinant
        residual = max(y2 - a * xy - b * x2y, 1e-12 * y2)
        variance = residual / (self._steps - 2) * x2 / determinant
        weight = 1 - _SIGNIFICANCE * variance / (b * b) if b else 0.0
        self._trend = (a, b, weight) if weight > 0 else None

    def _estimate(self, grown: float) -> float:
        left = 100.0 - self._last
        by_average = left * self._seconds / grown
        if self._trend is None:
            return by_average
        a, b, weight = self._trend
        whole = grown + left
        by_trend = a * left + b * (whole * whole - grown * grown)
        by_trend = min(max(by_trend, by_average / _MAX_TREND), by_average * _MAX_TREND)
        return weight * by_trend + (1 - weight) * by_average
