"""The estimated time: when there is one, and that it follows the progress without jumping."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobstatus.reporting.eta import EtaEstimator

Curve = Callable[[float], float]
"""The progress in percent after a share of the time, 0..1."""

CURVES: dict[str, Curve] = {
    "constant": lambda share: 100 * share,
    "accelerating": lambda share: 100 * share**1.5,
    "slowing down": lambda share: 100 * share**0.7,
}


def estimates(curve: Curve, seconds: float = 100.0, steps: int = 400) -> list[tuple[float, float]]:
    """Return pairs of the remaining seconds and their estimate, without those that are None."""
    estimator = EtaEstimator()
    found = []
    for step in range(steps):
        at = seconds * step / steps
        estimate = estimator.update(curve(step / steps), at)
        if estimate is not None:
            found.append((seconds - at, estimate))
    return found


@pytest.mark.parametrize(
    ("reports", "is_known"),
    [
        ([(5, 0)], False),
        ([(5, 0), (5, 10), (5, 20), (5, 30)], False),
        ([(5, 0), (50, 10)], False),  # one change of progress
        ([(5, 0), (5.2, 10), (5.4, 20), (5.6, 30)], False),  # less than 1 percent
        ([(5, 0), (20, 0.2), (30, 0.4), (40, 0.6)], False),  # less than 1 s
        ([(5, 0), (6, 10), (7, 20), (8, 30)], True),
    ],
)
def test_evidence(reports: list[tuple[float, float]], is_known: bool) -> None:
    """There is an estimate once progress has grown by 1 percent in 1 s and 3 changes."""
    estimator = EtaEstimator()
    last = [estimator.update(percent, at) for percent, at in reports][-1]
    assert (last is not None) is is_known


def mean_error(pairs: list[tuple[float, float]]) -> float:
    return sum(abs(estimate - left) / left for left, estimate in pairs) / len(pairs)


def test_constant_rate() -> None:
    """At a constant rate the estimate is right."""
    assert mean_error(estimates(CURVES["constant"])) < 0.01


@pytest.mark.parametrize("name", ["accelerating", "slowing down"])
def test_rate_that_changes(name: str) -> None:
    """Where the rate changes, the error is smaller than that of the average rate."""
    curve = CURVES[name]
    by_average = [
        (100.0 - at, at * (100 - curve(at / 100)) / curve(at / 100)) for at in range(1, 100)
    ]
    assert mean_error(estimates(curve)) < 0.8 * mean_error(by_average)


def test_job_that_goes_on_where_it_was() -> None:
    """An attempt that begins at 40 percent is judged by what it does, not by what it found done."""
    for left, estimate in estimates(lambda share: 40 + 60 * share):
        assert math.isclose(left, estimate, rel_tol=0.01)


def test_pause() -> None:
    """A long pause counts only in part, and nothing changes while it lasts."""
    estimator = EtaEstimator()
    before = [estimator.update(percent, percent) for percent in range(51)][-1]
    during = [estimator.update(50, 50 + second) for second in range(500)]
    assert set(during) == {before}
    after = estimator.update(51, 551)
    assert after is not None
    assert before is not None
    assert after < 1.2 * before


@given(
    st.lists(
        st.tuples(st.floats(0, 100), st.floats(0, 1000, allow_subnormal=False)), max_size=60
    ).map(lambda pairs: sorted(pairs, key=lambda pair: pair[1]))
)
def test_any_reports(reports: list[tuple[float, float]]) -> None:
    """Whatever is reported, an estimate is a finite number of seconds, at least 0."""
    estimator = EtaEstimator()
    for percent, at in reports:
        estimate = estimator.update(percent, at)
        assert estimate is None or (math.isfinite(estimate) and estimate >= 0)
