"""Compare estimates of the remaining time, by their mean relative error on curves of progress.

Each estimator sees the progress 600 times in the course of a job, and its answer is compared with
the time that is really left, between 5 and 95 percent. "jobstatus" is asked only when progress
changes, as it is stored; meanwhile its last answer counts. "sidekiq-status" is the formula of that
project: elapsed time times what is left, divided by what is done. "tqdm" is tqdm's: the rate
averaged exponentially over the last changes (smoothing 0.3).
"""

import argparse
import random
from collections.abc import Callable
from statistics import fmean
from typing import Final, Protocol

from tests.bench.table import markdown

from jobstatus.reporting.eta import EtaEstimator

Curve = list[tuple[float, float]]
"""Pairs of the time in seconds and the progress in percent, from 0 to 100."""

SAMPLES: Final = 600
MAX_SAMPLES: Final = 40 * SAMPLES


class Estimator(Protocol):
    """Estimates the remaining seconds from the progress at successive times."""

    def update(self, percent: float, now: float) -> float | None:
        """Take in the progress; return the seconds, or None if they are unknown."""


class SidekiqStatus:
    """The formula of sidekiq-status."""

    def update(self, percent: float, now: float) -> float | None:
        """Return the elapsed time times what is left, divided by what is done."""
        return now * (100 - percent) / percent if percent else None


class Tqdm:
    """The formula of tqdm, with its default smoothing of 0.3 and interval of 0.1 s."""

    def __init__(self) -> None:
        self._last = 0.0, 0.0
        self._percent = self._seconds = 0.0
        self._calls = 0

    def update(self, percent: float, now: float) -> float | None:
        """Average the rate of the last changes, the newest with the highest weight."""
        last_at, last = self._last
        if percent > last and now - last_at >= 0.1:
            self._last = now, percent
            self._calls += 1
            self._percent = 0.3 * (percent - last) + 0.7 * self._percent
            self._seconds = 0.3 * (now - last_at) + 0.7 * self._seconds
        return (100 - percent) * self._seconds / self._percent if self._calls else None


class Stored:
    """jobstatus's estimator, asked when progress changes."""

    def __init__(self) -> None:
        self._estimator = EtaEstimator()
        self._last: tuple[float, float | None] = (-1.0, None)

    def update(self, percent: float, now: float) -> float | None:
        """Return the estimate that was made at the last change."""
        if percent != self._last[0]:
            self._last = percent, self._estimator.update(percent, now)
        return self._last[1]


ESTIMATORS: Final[dict[str, Callable[[], Estimator]]] = {
    "jobstatus": Stored,
    "sidekiq-status": SidekiqStatus,
    "tqdm": Tqdm,
}


def curves(rng: random.Random) -> dict[str, Curve]:
    """Return one curve of each kind, of a job of random length."""
    seconds = rng.choice([20, 60, 300, 900])
    rate, phase, period = 100 / seconds, rng.random(), seconds / rng.choice([6, 10, 20])
    stall_at, stall_seconds = rng.uniform(30, 60), seconds * rng.uniform(0.2, 0.5)
    stalled_since: list[float] = []

    def noise(share: float) -> float:
        return rng.uniform(1 - share, 1 + share)

    def bursty(now: float, _: float) -> float:
        return rate * (2.7 if (now / period + phase) % 1 < 1 / 3 else 0.15)

    def stalled(now: float, percent: float) -> float:
        if percent >= stall_at and not stalled_since:
            stalled_since.append(now)
        if stalled_since and now - stalled_since[0] < stall_seconds:
            return 0.0
        return rate * noise(0.3)

    rates: dict[str, Callable[[float, float], float]] = {
        "constant": lambda _now, _percent: rate * noise(0.4),
        "accelerating": lambda _, percent: rate * (0.4 + 0.016 * percent) * noise(0.3),
        "bursty": bursty,
        "stalled": stalled,
    }
    return {name: _curve(rate_at, seconds / SAMPLES) for name, rate_at in rates.items()}


def _curve(rate_at: Callable[[float, float], float], step: float) -> Curve:
    curve, percent = [(0.0, 0.0)], 0.0
    for n in range(1, MAX_SAMPLES):
        percent = min(100.0, percent + rate_at(n * step, percent) * step)
        curve.append((n * step, percent))
        if percent == 100:
            break
    return curve


def error(make: Callable[[], Estimator], curve: Curve) -> float:
    """Return the mean relative error of an estimator on a curve."""
    estimator, end, errors = make(), curve[-1][0], []
    for now, percent in curve:
        estimate = estimator.update(percent, now)
        if 5 <= percent <= 95 and estimate is not None:
            errors.append(abs(estimate - (end - now)) / (end - now))
    return fmean(errors)


def main(arguments: list[str]) -> None:
    """Print one row for each kind of curve."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench eta", description=__doc__)
    parser.add_argument(
        "--curves", type=int, default=200, help="curves of each kind (default %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, help="seed (default %(default)s)")
    options = parser.parse_args(arguments)
    rng = random.Random(options.seed)
    errors: dict[str, dict[str, list[float]]] = {}
    for _ in range(options.curves):
        for kind, curve in curves(rng).items():
            for name, make in ESTIMATORS.items():
                errors.setdefault(kind, {}).setdefault(name, []).append(error(make, curve))
    rows = [
        (kind, *(f"{100 * fmean(by_name[name]):.0f} %" for name in ESTIMATORS))
        for kind, by_name in errors.items()
    ]
    print(markdown(("progress, mean relative error", *ESTIMATORS), rows))
