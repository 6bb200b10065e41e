"""Redis refuses writes for a while, or all writes of some keys: nothing is lost."""

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from tests.records import key
from tests.refusals import FAULTS, require_replica
from tests.waiting import eventually

from jobstatus import Publisher


@pytest.mark.parametrize("code", FAULTS)
def test_refusal_loses_nothing(
    writer: Publisher, admin: Any, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What ends, begins and runs while writes are refused is shown as soon as they no more are."""
    refuse: Callable[[Any, bool], None] = FAULTS[code]
    with writer.job("running", name="x") as report:
        with writer.job("ended", name="x"):
            assert writer.flush()
            refuse(admin, True)
        report.progress(50)
        with writer.job("later", name="x"):
            pass
        writer.pending("waiting", name="x")
        eventually(lambda: writer.stats.refusals[code] >= 2)
        assert not writer.flush(0.2)
        refuse(admin, False)
        assert writer.flush(3)
        assert admin.hmget(key("running"), "state", "progress") == ["in_progress", "50"]
        assert admin.hget(key("ended"), "state") == "succeeded"
        assert admin.hget(key("later"), "state") == "succeeded"
        assert admin.hget(key("waiting"), "state") == "pending"
    lines = [r.getMessage() for r in caplog.records if code in r.getMessage()]
    refusals = [line for line in lines if line.startswith("Redis refuses to store status")]
    assert len(refusals) == 1


def test_heartbeats_go_on_after_a_refusal(writer: Publisher, admin: Any) -> None:
    """A silent job whose heartbeats were refused for longer than its lease is believed again."""
    with writer.job("silent", name="x"):
        assert writer.flush()
        require_replica(admin, True)
        time.sleep(0.8)
        require_replica(admin, False)

        def is_believed() -> bool:
            seconds, _ = admin.time()
            lease = float(admin.hget(key("silent"), "lease"))
            return bool(lease > 1000 * seconds)

        eventually(is_believed, 2)


def is_at(admin: Any, job_id: str, percent: int) -> bool:
    return bool(admin.hget(key(job_id), "progress") == str(percent))


def test_other_keys_go_on(writer: Publisher, admin: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Keys that are refused hold up no others, and are written as soon as they may be."""
    admin.execute_command("ACL", "SETUSER", "writer", "resetkeys", f"~{key('good')}")
    with caplog.at_level(logging.WARNING), writer.job("good", name="x") as good:
        for n in range(20):
            with writer.job(f"bad-{n}", name="x"):
                pass
        with writer.job("bad", name="x") as bad:
            for percent in range(1, 20):
                good.progress(percent)
                bad.progress(percent)
                eventually(partial(is_at, admin, "good", percent), 0.5)
            admin.execute_command("ACL", "SETUSER", "writer", "allkeys")
            eventually(partial(is_at, admin, "bad", 19), 3)
            assert writer.flush(3)
    assert all(admin.hget(key(f"bad-{n}"), "state") == "succeeded" for n in range(20))
    assert caplog.text.count("Redis refuses to store status") == 1
