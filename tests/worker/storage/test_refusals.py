"""Errors that Redis answers with: their codes, which are permanent, and how they are logged."""

import logging
from collections import Counter

import pytest
from redis.exceptions import (
    ConnectionError as RedisConnectionError,
)
from redis.exceptions import (
    ExecAbortError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)
from tests.worker.clock import Clock

from jobstatus.storage.refusals import (
    Refusal,
    RefusalLog,
    error_text,
    is_permanent,
    refusal_of,
)


@pytest.mark.parametrize(
    ("text", "permanent", "code"),
    [
        ("WRONGTYPE Operation against a key", True, "WRONGTYPE"),
        ("Error running script (call to f_1): @user_script:9: WRONGTYPE No", True, "other"),
        ("ERR wrong number of arguments for 'evalsha'", True, "ERR"),
        ("wrong number of arguments for 'evalsha'", True, "other"),
        ("ERR the TTL is not positive", True, "ERR"),
        ("NOREPLICAS Not enough good replicas to write.", False, "NOREPLICAS"),
        ("EXECABORT Transaction discarded", False, "EXECABORT"),
        ("ERR Connection refused", False, "ERR"),
        ("upstream failure", False, "other"),
        ("BUSY Redis is busy running a script.", False, "BUSY"),
    ],
)
def test_permanent_refusals(text: str, permanent: bool, code: str) -> None:
    """A refusal is permanent only if the same command can never succeed; a proxy's text is not."""
    assert is_permanent(ResponseError(text)) is permanent
    refusal = refusal_of(ResponseError(text))
    assert refusal == Refusal(text, permanent)
    assert refusal.code == code


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OutOfMemoryError("command not allowed"), "OOM command not allowed"),
        (ReadOnlyError("You can't write"), "READONLY You can't write"),
        (NoPermissionError("no permissions"), "NOPERM no permissions"),
        (ExecAbortError("EXECABORT discarded"), "EXECABORT discarded"),
        (ResponseError("ERR unknown"), "ERR unknown"),
        (
            ResponseError("Command # 1 (EVALSHA secret) of pipeline caused error: OOM no memory"),
            "OOM no memory",
        ),
    ],
)
def test_error_text(error: ResponseError, text: str) -> None:
    """The text has the code that redis-py strips, and not the command that redis-py adds."""
    assert error_text(error) == text


@pytest.mark.parametrize("error", [None, OSError(), RedisConnectionError("closed")])
def test_outage_is_no_refusal(error: BaseException | None) -> None:
    """An error without an answer of Redis is not a refusal."""
    assert refusal_of(error) is None


def test_refusals_are_counted_and_logged_once_a_minute(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each refusal is counted by its code; each code is logged once a minute."""
    clock = Clock()
    monkeypatch.setattr("jobstatus.storage.refusals.time", clock)
    counts = Counter[str]()
    log = RefusalLog("status is held", counts)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            log.add(Refusal("OOM no memory", is_permanent=False))
        log.add(Refusal("BUSY a script runs", is_permanent=False))
        clock.now += 59
        log.add(Refusal("OOM no memory", is_permanent=False))
        clock.now += 2
        log.add(Refusal("OOM still no memory", is_permanent=False))
    assert counts == {"OOM": 5, "BUSY": 1}
    assert [record.getMessage() for record in caplog.records] == [
        "status is held: OOM no memory",
        "status is held: BUSY a script runs",
        "status is held: OOM still no memory",
    ]
