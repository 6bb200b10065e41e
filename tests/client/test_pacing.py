"""The next request is sent neither too soon nor too late."""

import pytest
from tests.worker.clock import Clock

from jobstatus_client.errors import RequestError, UnavailableError
from jobstatus_client.pacing import Backoff, Fallback

LOST = UnavailableError("no")


def answered(retry_after: float) -> RequestError:
    return RequestError(503, "no", retry_after)


@pytest.mark.parametrize(("random", "first", "second"), [(0.0, 0.25, 0.5), (1.0, 0.5, 1.0)])
def test_first_failures(random: float, first: float, second: float) -> None:
    """The time before the next try grows, and half of it is jitter."""
    backoff = Backoff(Clock().monotonic, lambda: random)
    assert [backoff.next(LOST), backoff.next(LOST)] == [first, second]
    backoff.reset()
    assert backoff.next(LOST) == first


def test_backoff_is_a_thirtieth_of_the_outage() -> None:
    """After an outage of 30 s the next try follows within 1 s, after an hour within 30 s."""
    clock = Clock()
    backoff = Backoff(clock.monotonic, lambda: 1.0)
    for _ in range(9):
        backoff.next(LOST)
    clock.now += 30
    assert backoff.next(LOST) == pytest.approx(1.0)
    clock.now += 270
    assert backoff.next(LOST) == pytest.approx(10)
    clock.now += 10_000
    assert backoff.next(LOST) == 30
    assert backoff.has_failed_for(10_000)


def test_change_of_the_kind_of_failure() -> None:
    """A lost connection after answers is tried again soon."""
    backoff = Backoff(Clock().monotonic, lambda: 1.0)
    for _ in range(5):
        backoff.next(answered(0))
    assert backoff.next(LOST) == 0.5


def test_failures_of_changing_kinds() -> None:
    """The time grows although answers and lost connections alternate."""
    backoff = Backoff((clock := Clock()).monotonic, lambda: 1.0)
    for _ in range(20):
        backoff.next(LOST)
        backoff.next(answered(0))
    clock.now += 3_600
    assert backoff.next(LOST) == 30


@pytest.mark.parametrize(("random", "seconds"), [(0.0, 4.0), (1.0, 5.0)])
def test_retry_after_is_the_least(random: float, seconds: float) -> None:
    """The time that the service asks for is not cut short; jitter is added."""
    assert Backoff(Clock().monotonic, lambda: random).next(answered(4)) == seconds


def test_refused_streams() -> None:
    """Polls replace a stream that was refused, for longer each time, until a stream works."""
    clock = Clock()
    fallback = Fallback(clock.monotonic, lambda: 0.0)
    for seconds in (1, 2, 4, 8, 16, 32, 60, 60):
        fallback.on_refused_stream()
        assert fallback.kind == "poll"
        assert fallback.poll_interval(30) == min(30, seconds)
        clock.now += seconds
        assert fallback.kind is None
    fallback.on_stream()
    fallback.on_refused_stream()
    assert fallback.poll_interval(30) == 1


def test_poll_that_fails_as_well() -> None:
    """If polls fail, too, streams are not the cause, and are tried again."""
    fallback = Fallback(Clock().monotonic, lambda: 0.0)
    for _ in range(5):
        fallback.on_refused_stream()
        fallback.on_failed_poll()
        assert fallback.kind is None
    fallback.on_refused_stream()
    assert fallback.poll_interval(30) == 1, "an outage is not a reason for a long pause"


def test_restarting_service() -> None:
    """Where the service asks to open the next stream later, polls follow each second."""
    fallback = Fallback((clock := Clock()).monotonic, lambda: 0.5)
    assert fallback.on_retry(8) == 0.5
    assert fallback.poll_interval(30) == 1
    clock.now += 8
    assert fallback.kind is None


def test_buffered_streams() -> None:
    """Where a proxy holds streams back, long polls follow for minutes, whatever else happens."""
    fallback = Fallback((clock := Clock()).monotonic, lambda: 0.0)
    fallback.on_buffered_stream()
    fallback.on_failed_poll()
    fallback.on_retry(1)
    assert fallback.kind == "long poll"
    assert fallback.poll_interval(0) == 2
    clock.now += 300
    assert fallback.kind is None
