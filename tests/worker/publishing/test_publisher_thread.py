"""The publisher's thread: one per process, also after errors and in forked children."""

import multiprocessing
import os
import threading
from typing import Any

import pytest
from tests.records import key, record_count

from jobstatus import Publisher
from jobstatus.settings import PublisherSettings
from jobstatus.storage.store import Store


def test_one_thread_and_one_connection(publisher: Publisher, redis: Any) -> None:
    """All jobs of a process share one thread and one connection."""
    jobs = [publisher.job(str(n), name="x") for n in range(50)]
    for job in jobs:
        job.__enter__()
    assert publisher.running == 50
    assert publisher.flush()
    assert [thread.name for thread in threading.enumerate()].count("jobstatus") == 1
    assert [c["name"] for c in redis.client_list()].count("jobstatus-publisher") == 1
    for job in reversed(jobs):
        job.__exit__(None, None, None)
    assert publisher.flush()
    assert publisher.running == 0
    assert record_count(redis) == 50


def test_bug_in_the_thread(
    publisher: Publisher, redis: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """An error in the publisher's thread is logged, and the thread continues."""
    with publisher.job("a", name="x") as report:
        report.progress(10)
        assert publisher.flush()
        delivery = publisher._delivery
        seconds_until_due, has_failed = delivery.seconds_until_due, threading.Event()

        def fail() -> None:
            delivery.seconds_until_due = seconds_until_due  # type: ignore[method-assign]
            has_failed.set()
            raise SystemExit

        delivery.seconds_until_due = fail  # type: ignore[method-assign]
        assert has_failed.wait(10)
        report.progress(20)
        assert publisher.flush()
        assert redis.hget(key("a"), "progress") == "20"
    assert "status could not be published, it is tried again" in caplog.text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_thread_that_has_ended(
    publisher: Publisher, redis: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """If the thread has ended, as by a log handler that raises, the next report starts it again."""

    def exit_thread() -> None:
        raise SystemExit

    with publisher.job("a", name="x") as report:
        assert publisher.flush()
        thread = publisher._thread
        assert thread is not None
        publisher._tick = publisher._delivery.refresh = exit_thread  # type: ignore[method-assign]
        thread.join(10)
        assert not thread.is_alive()
        del publisher._tick, publisher._delivery.refresh
        report.progress(20)
        with publisher.job("b", name="x"):
            pass
        assert publisher.flush()
        assert redis.hget(key("a"), "progress") == "20"
        assert redis.hget(key("b"), "state") == "succeeded"
    assert "the publisher's thread had ended unexpectedly" in caplog.text


def test_child_of_multiprocessing(redis: Any, settings: PublisherSettings) -> None:
    """A child of multiprocessing, which runs no atexit functions, writes its outcome at its end."""
    child = multiprocessing.get_context("fork").Process(target=run_one_job, args=(settings,))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert redis.hget(key("a"), "state") == "succeeded"


def run_one_job(settings: PublisherSettings) -> None:
    publisher = Publisher(Store.from_settings(settings), settings)
    with publisher.job("a", name="x"):
        pass


def test_forked_child(publisher: Publisher, redis: Any) -> None:
    """A forked child publishes its own jobs, and nothing of its parent's."""
    with publisher.job("parent", name="x") as report:
        report.progress(10)
        assert publisher.flush()
        child = os.fork()
        if child == 0:
            try:
                with publisher.job("child", name="x"):
                    pass
                report.fail("reported by the child")
                os._exit(0 if publisher.flush() else 1)
            except BaseException:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        report.progress(20)
        assert publisher.flush()
        assert redis.hmget(key("parent"), "state", "progress") == ["in_progress", "20"]
        assert redis.hget(key("child"), "state") == "succeeded"
