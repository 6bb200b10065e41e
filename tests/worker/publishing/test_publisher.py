"""The publisher, against a real server."""

import asyncio
import contextvars
import multiprocessing
import os
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.records import key, read
from tests.waiting import eventually

from jobstatus import Publisher, current_job
from jobstatus.settings import PublisherSettings
from jobstatus.status import JobState
from jobstatus.storage.store import Store


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
    with pytest.raises(ValueError, match="the first attempt has number 1"):
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
    settings = PublisherSettings(redis_url=redis_url, report_interval=0.01, lease=1)
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
            assert new.flush()
        assert old.flush()
        assert redis.hmget(key("a"), "attempt", "state") == ["2", "succeeded"]


def test_end_during_a_look_is_not_lost(publisher: Publisher, redis: Any) -> None:
    """A job that ends while its report is being read ends in Redis too."""
    for n in range(50):
        job = publisher.job(str(n), name="x")
        contextvars.copy_context().run(job.__enter__)
        reader = job._attempt.reader

        def read(reader: Any = reader, job: Any = job) -> Any:
            job.__exit__(None, None, None)
            return type(reader).read(reader)

        reader.read = read  # type: ignore[method-assign]
    for _ in range(3):
        assert publisher.flush()
    assert {redis.hget(key(str(n)), "state") for n in range(50)} == {"succeeded"}


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
