"""Growing delays between attempts at something that fails."""

import pytest

from jobstatus.publishing.backoff import Backoff


@pytest.mark.parametrize(
    ("first", "longest", "delays"),
    [
        (0.05, 0.5, [0.05, 0.1, 0.2, 0.4, 0.5, 0.5]),
        (1.0, 1.0, [1.0, 1.0]),
        (2.0, 1.0, [1.0]),
    ],
)
def test_delays(first: float, longest: float, delays: list[float]) -> None:
    """The delay doubles with each failure, up to the maximum."""
    backoff = Backoff(first, longest)
    assert [backoff.fail() for _ in delays] == pytest.approx(delays)


def test_reset() -> None:
    """After a success the delay is the first one again."""
    backoff = Backoff(0.05, 0.5)
    backoff.fail()
    backoff.fail()
    assert backoff.failures == 2
    backoff.reset()
    assert backoff.failures == 0
    assert backoff.fail() == 0.05


def test_many_failures() -> None:
    """The delay does not overflow."""
    backoff = Backoff(0.05, 0.5)
    assert {backoff.fail() for _ in range(5_000)} >= {0.5}
    assert backoff.fail() == 0.5
