"""What the reason of a job says of an exception."""

import pytest
from tests.hostile_values import UnprintableError

from jobstatus.reporting.error_text import ErrorText, StatusError
from jobstatus.reporting.hook import hook_of
from jobstatus.status import full_reason, public_reason, stored_reason


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("x"), "ValueError: x"),
        (ValueError(""), "ValueError"),
        (ValueError("a\r\nb"), "ValueError: a b"),
        (UnprintableError(), "UnprintableError"),
        (ValueError("x" * 600), "ValueError: " + "x" * 499 + "…"),
        (ValueError("\x1fa\x1f"), "ValueError: a"),
    ],
)
def test_type_and_message(error: BaseException, text: str) -> None:
    """An exception is described by its type, and by its message if it has one."""
    described = ErrorText().of(error)
    assert full_reason(described) == text
    assert public_reason(described) == type(error).__name__


@pytest.mark.parametrize(("detail", "text"), [("type", "ValueError"), ("none", "")])
def test_less_detail(detail: str, text: str) -> None:
    """The settings can leave out the message, and also the type."""
    assert ErrorText(detail).of(ValueError("password=1234")) == text


def fail(_: BaseException) -> str:
    raise RuntimeError


@pytest.mark.parametrize(
    ("hook", "text"),
    [
        (lambda error: str(error).replace("1234", "***"), "ValueError: password=***"),
        (lambda _: None, "ValueError"),
        (lambda _: "", "ValueError"),
        (fail, "ValueError"),
        (lambda _: 7, "ValueError"),
    ],
    ids=["redact", "none", "empty", "raise", "wrong type"],
)
def test_hook(hook: StatusError, text: str) -> None:
    """The application's hook replaces the message; if it fails, there is no message."""
    errors = ErrorText("full", hook_of("status_error", hook, str))
    assert full_reason(errors.of(ValueError("password=1234"))) == text


@pytest.mark.parametrize(
    ("reason", "stored", "public"),
    [
        ("plain", "plain", "plain"),
        ("two\nlines", "two lines", "two lines"),
        ("a: E\x1f: m\x1f; next", "a: E\x1f: m\x1f; next", "a: E; next"),
        ("E\x1f: m\x1f", "E\x1f: m", "E"),
        ("E\x1f: m", "E\x1f: m", "E"),
        ("x" * 600, "x" * 499 + "…", "x" * 499 + "…"),
    ],
)
def test_stored_reason(reason: str, stored: str, public: str) -> None:
    """A stored reason is one line, and can be shown without the message of its exception."""
    assert stored_reason(reason) == stored
    assert public_reason(stored) == public
    assert "\x1f" not in full_reason(stored)


def test_what_follows_a_long_message_is_kept() -> None:
    """If a reason is too long, the message of the exception is shortened."""
    stored = stored_reason(f"failed: E\x1f: {'m' * 600}\x1f; next in 5 s")
    assert len(full_reason(stored)) == 500
    assert full_reason(stored).endswith("m…; next in 5 s")
