"""The thread that calls progress functions."""

import threading
from typing import Any

from tests.records import key
from tests.waiting import eventually

from jobstatus import Publisher


def test_progress_function_that_blocks(publisher: Publisher, redis: Any) -> None:
    """A progress function that blocks delays no report of another job."""
    is_called, may_return = threading.Event(), threading.Event()

    def block() -> float:
        is_called.set()
        may_return.wait(60)
        return 50

    with publisher.job("blocked", name="x") as blocked:
        blocked.sample(block)
        assert is_called.wait(10)
        with publisher.job("other", name="x"):
            assert publisher.flush()
            assert redis.hget(key("other"), "state") == "in_progress"
        assert publisher.flush()
        assert redis.hget(key("other"), "state") == "succeeded"
        may_return.set()
        eventually(lambda: redis.hget(key("blocked"), "progress") == "50")


def test_thread_is_started_when_needed(publisher: Publisher) -> None:
    """The thread starts with the first progress function, and ends when the publisher is closed."""
    with publisher.job("a", name="x") as report:
        assert publisher.flush()
        assert publisher._sampler._thread is None
        report.sample(lambda: 1.0)
        thread = eventually(lambda: publisher._sampler._thread)
    publisher.close()
    assert thread is not None
    thread.join(10)
    assert not thread.is_alive()
