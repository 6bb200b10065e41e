"""JSON log lines."""

import json
import logging
import os
import sys

import pytest

from jobstatus.logs import LOG_CONTEXT, TEXT_FORMAT, JsonFormatter, formatter


def record(message: object, *args: object, **extra: object) -> logging.LogRecord:
    record = logging.LogRecord("app", logging.INFO, "f.py", 1, message, args, None)
    record.__dict__.update(extra)
    return record


def formatted(record: logging.LogRecord) -> dict[str, object]:
    """Format a record; return the members of the line."""
    line = JsonFormatter().format(record)
    assert "\n" not in line
    members: dict[str, object] = json.loads(line)
    return members


def test_members() -> None:
    """A line has the time, level, logger and message, the context, and what the call adds."""
    token = LOG_CONTEXT.set({"job_id": "x"})
    try:
        members = formatted(record("%d of %d", 1, 2, about={"status": 200}))
    finally:
        LOG_CONTEXT.reset(token)
    assert str(members.pop("time")).endswith("Z")
    assert members == {
        "level": "info",
        "logger": "app",
        "message": "1 of 2",
        "job_id": "x",
        "status": 200,
    }


def test_exception() -> None:
    """The traceback of an exception is in the same line."""
    error = record("failed")
    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError:
        error.exc_info = sys.exc_info()
    assert "ZeroDivisionError: division by zero" in str(formatted(error)["exception"])


@pytest.mark.parametrize(
    ("message", "extra"),
    [
        (os.fsdecode(b"caf\xe9"), {}),
        ("two\nlines", {}),
        ("x", {"about": "another library's attribute"}),
        ("x", {"about": {1: object()}}),
        (object(), {}),
    ],
)
def test_unexpected_values(message: object, extra: dict[str, object]) -> None:
    """No value prevents a line from being logged."""
    assert formatted(record(message, **extra))["level"] == "info"


def test_formatter() -> None:
    """The setting selects text or JSON."""
    assert formatter("json") == {"()": JsonFormatter}
    assert formatter("text") == {"format": TEXT_FORMAT}
