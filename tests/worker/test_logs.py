"""A line of the log is one JSON object, whatever was logged."""

import json
import logging
import os

import pytest

from jobstatus.logs import LOG_CONTEXT, JsonFormatter


def line(message: object, *args: object, **extra: object) -> dict[str, object]:
    record = logging.LogRecord("app", logging.INFO, "f.py", 1, message, args, None)
    record.__dict__.update(extra)
    text = JsonFormatter().format(record)
    assert "\n" not in text
    found: dict[str, object] = json.loads(text)
    return found


def test_members() -> None:
    """Time, level, logger and message; what the context is about, and what the call adds."""
    token = LOG_CONTEXT.set({"job_id": "x"})
    try:
        found = line("%d of %d", 1, 2, about={"status": 200})
    finally:
        LOG_CONTEXT.reset(token)
    assert str(found.pop("time")).endswith("Z")
    assert found == {
        "level": "info",
        "logger": "app",
        "message": "1 of 2",
        "job_id": "x",
        "status": 200,
    }


@pytest.mark.parametrize(
    ("message", "extra"),
    [
        (os.fsdecode(b"caf\xe9"), {}),
        ("two\nlines", {}),
        ("x", {"about": "somebody else's word"}),
        ("x", {"about": {1: object()}}),
        (object(), {}),
    ],
)
def test_odd_lines(message: object, extra: dict[str, object]) -> None:
    """No line is lost because of what is in it."""
    assert line(message, **extra)["level"] == "info"
