"""The publisher: what it writes, its arguments, flushing and closing."""

import asyncio
import threading
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from tests.records import key, read, record_count
from tests.waiting import eventually
from tests.worker.unreliable_store import unreliable

from jobstatus import Publisher, SettingsError, current_job
from jobstatus.settings import PublisherSettings
from jobstatus.status import JobState, WriteResult
from jobstatus.storage.cluster_store import ClusterStore
from jobstatus.storage.refusals import Refusal
from jobstatus.storage.store import Store
from jobstatus.storage.write import Write
from jobstatus.testing import RecordedStatuses

WITHOUT_REDIS = "redis://127.0.0.1:1/0"


def test_records_of_a_job(publisher: Publisher, redis: Any) -> None:
    """A job waits, runs with progress, and has succeeded with 100 percent."""
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


def test_runs_within_a_millisecond(publisher: Publisher, redis: Any) -> None:
    """Of runs of one id within the same millisecond, the last one is stored."""
    for _ in range(10):
        for state in ("failed", "aborted", "failed", "succeeded"):
            with publisher.job("a", name="x") as report:
                if state != "succeeded":
                    getattr(report, {"failed": "fail", "aborted": "abort"}[state])("x")
        assert publisher.flush()
        assert redis.hget(key("a"), "state") == "succeeded"


@pytest.mark.parametrize("is_second_seen", [True, False])
@pytest.mark.parametrize("is_first_seen", [True, False])
@pytest.mark.parametrize("is_enqueued", [True, False])
def test_immediate_retry(
    publisher: Publisher, redis: Any, is_enqueued: bool, is_first_seen: bool, is_second_seen: bool
) -> None:
    """The attempt after a retry belongs to the same run, however short the attempts are."""

    def is_running(attempt: int) -> bool:
        expected = ["in_progress", str(attempt)]
        return bool(redis.hmget(key("a"), "state", "attempt") == expected)

    if is_enqueued:
        publisher.pending("a", name="copy")
        assert publisher.flush()
    with publisher.job("a", name="copy") as report:
        if is_first_seen:
            eventually(lambda: is_running(1))
        report.retry("not yet")
    with publisher.job("a", name="copy", attempt=2):
        if is_second_seen:
            eventually(lambda: is_running(2))
    assert publisher.flush()
    assert redis.hmget(key("a"), "state", "attempt", "previous") == ["succeeded", "2", None]


def test_attempt_that_was_replaced(redis: Any, settings: PublisherSettings) -> None:
    """A publisher whose attempt was replaced by a later one changes nothing any more."""
    with (
        Publisher(Store.from_settings(settings), settings) as old,
        Publisher(Store.from_settings(settings), settings) as new,
    ):
        with old.job("a", name="copy", created=1, attempt=1) as replaced:
            replaced.progress(90)
            assert old.flush()
            with new.job("a", name="copy", created=1, attempt=2) as report:
                report.progress(5)
                assert new.flush()
                replaced.progress(95)
                assert old.flush()
                assert redis.hmget(key("a"), "attempt", "progress") == ["2", "5"]
            assert new.flush()
        assert old.flush()
        assert redis.hmget(key("a"), "attempt", "state") == ["2", "succeeded"]
    assert new.stats.lost_attempts == 1
    assert old.stats.superseded_writes > 0


def test_frequent_reports_are_one_write(redis: Any, redis_url: str) -> None:
    """However often a job reports, one write per report interval is sent."""
    settings = PublisherSettings(redis_url=redis_url, report_interval=60)
    with (
        Publisher(Store.from_settings(settings), settings) as publisher,
        publisher.job("a", name="copy") as report,
    ):
        assert publisher.flush()
        writes = redis.info("commandstats")["cmdstat_evalsha"]["calls"]
        for n in range(10_000):
            report.progress(n / 100)
        assert publisher.flush()
        assert redis.info("commandstats")["cmdstat_evalsha"]["calls"] == writes + 1
        assert redis.hget(key("a"), "progress") == "99.99"
        assert publisher.stats.coalesced_reports == 9_999


def test_refresh(publisher: Publisher, redis: Any) -> None:
    """`refresh` writes the records of running jobs again."""
    with publisher.job("a", name="x") as report:
        report.progress(10)
        assert publisher.flush()
        redis.flushall()
        publisher.refresh()
        assert publisher.flush()
        assert redis.hmget(key("a"), "state", "progress") == ["in_progress", "10"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attempt": 0}, "the first attempt has number 1, not 0"),
        ({"created": -1}, "created must be in ms since the epoch, not -1"),
        ({"created": 10**15}, "created must be in ms since the epoch, not"),
        ({"timeout": 0}, "the timeout must be above 0, not 0"),
        ({"timeout": -2.5}, "the timeout must be above 0, not -2.5"),
        ({"timeout": timedelta(seconds=-1)}, "the timeout must be above 0, not -1.0"),
        ({"timeout": float("nan")}, "the timeout must be above 0, not nan"),
    ],
)
def test_invalid_arguments(
    job_statuses: RecordedStatuses, arguments: dict[str, Any], message: str
) -> None:
    """An argument that is out of range is a ValueError."""
    with pytest.raises(ValueError, match=message):
        job_statuses.publisher.job("a", name="x", **arguments)


def test_job_id_of_another_type(job_statuses: RecordedStatuses) -> None:
    """A job id that is neither a str nor a UUID is a TypeError."""
    number: Any = 5
    with pytest.raises(TypeError, match="a job id must be a str or a UUID, not int"):
        job_statuses.publisher.job(number, name="x")
    with pytest.raises(TypeError, match="a job id must be a str or a UUID, not int"):
        job_statuses.publisher.pending(number, name="x")


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [(None, 0), (60, 60), (timedelta(minutes=1), 60), (float("inf"), 0), (1e12, 315_360_000)],
)
def test_timeout(publisher: Publisher, redis: Any, timeout: Any, seconds: int) -> None:
    """The timeout of a job, in seconds or as a timedelta, extends the TTL of its record."""
    with publisher.job("a", name="x", timeout=timeout):
        assert publisher.flush()
        ttl = redis.pttl(key("a")) / 1000
    longest = seconds + publisher.settings.retention + publisher.settings.lease
    assert longest - 30 < ttl <= longest


def test_from_url(monkeypatch: pytest.MonkeyPatch) -> None:
    """`from_url` takes the URL and settings; the environment gives the others."""
    monkeypatch.setenv("JOBSTATUS_LEASE", "7")
    with Publisher.from_url("redis+cluster://h", retention=timedelta(hours=1)) as publisher:
        assert isinstance(publisher._store, ClusterStore)
        assert (publisher.settings.lease, publisher.settings.retention) == (7, 3_600)
    monkeypatch.setenv("JOBSTATUS_REDIS_URL", WITHOUT_REDIS)
    assert Publisher.from_url().settings.redis_url == WITHOUT_REDIS
    with pytest.raises(SettingsError, match="JOBSTATUS_REDIS_URL is not valid"):
        Publisher.from_url("http://h")


def test_flush_without_reports() -> None:
    """Without any report there is nothing to write."""
    with Publisher.from_url(WITHOUT_REDIS) as publisher:
        assert publisher.flush()
        assert publisher._thread is None


@pytest.mark.parametrize("timeout", [0.05, timedelta(milliseconds=50)])
def test_flush_during_an_outage(timeout: Any) -> None:
    """`flush` returns False if not everything is written in time."""
    publisher = Publisher.from_url(WITHOUT_REDIS)
    publisher.pending("a", name="x")
    assert not publisher.flush(timeout)
    publisher.close(timeout)


def test_close_during_an_outage(caplog: pytest.LogCaptureFixture) -> None:
    """`close` returns during an outage, and logs how many final states are lost."""
    publisher = Publisher.from_url(WITHOUT_REDIS)
    for job_id in ("a", "b"):
        with publisher.job(job_id, name="x"):
            pass
    eventually(lambda: publisher.unwritten_final_states == 2)
    publisher.close(timedelta(seconds=0.1))
    assert "2 final states were not written" in caplog.text
    publisher.close()
    assert caplog.text.count("final states were not written") == 1


def test_report_after_close(publisher: Publisher, caplog: pytest.LogCaptureFixture) -> None:
    """A report to a closed publisher is dropped and logged, and raises nothing."""
    publisher.close()
    publisher.pending("a", name="x")
    with publisher.job("b", name="x") as report:
        report.progress(50)
    assert "a report was dropped: the publisher is closed" in caplog.text


def test_close_writes_everything(redis: Any, redis_url: str) -> None:
    """`close` writes what is not written yet, and ends the thread."""
    _, publisher = unreliable(redis_url)
    for n in range(100):
        publisher.pending(str(n), name="x")
    publisher.close()
    assert record_count(redis) == 100
    assert publisher._thread is not None
    publisher._thread.join(10)
    assert not publisher._thread.is_alive()


class WaitingStore(Store):
    """A store whose writes wait until they are allowed."""

    def __init__(self, client: Any) -> None:
        super().__init__(client)
        self.is_allowed = threading.Event()

    def write(self, writes: Sequence[Write]) -> list[WriteResult | Refusal]:
        """Wait, then write."""
        assert self.is_allowed.wait(60)
        return super().write(writes)


async def test_async_close(redis: Any, settings: PublisherSettings) -> None:
    """Leaving `async with` waits for the last writes without blocking the event loop."""
    store = WaitingStore.from_settings(settings)

    async def allow_writes() -> None:
        store.is_allowed.set()

    async with Publisher(store, settings) as publisher:
        async with publisher.job("a", name="x"):
            pass
        task = asyncio.create_task(allow_writes())  # runs only while the event loop is free
    await task
    assert publisher.unwritten_final_states == 0
    assert redis.hget(key("a"), "state") == "succeeded"


def test_repr(publisher: Publisher) -> None:
    """The repr shows the key prefix, and how many jobs run."""
    with publisher.job("a", name="x"):
        assert repr(publisher) == "<Publisher, key prefix 'job': 1 running>"
    publisher.close()
    assert repr(publisher) == "<Publisher, key prefix 'job': closed>"


def test_pending_just_before_the_job(publisher: Publisher, redis: Any) -> None:
    """A job that is reported as pending, and begins before that is written, is one run."""
    with publisher._delivery.lock:  # the thread sees both at once
        publisher.pending("a", name="x")
        job = publisher.job("a", name="x")
        job.__enter__()
    eventually(lambda: redis.hget(key("a"), "state") == "in_progress")
    assert redis.hget(key("a"), "previous") is None
    job.__exit__(None, None, None)
