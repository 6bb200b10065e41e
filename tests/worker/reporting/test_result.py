"""Results: what can be encoded, and why the rest is dropped."""

import dataclasses
import enum
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import msgspec
import pydantic
import pytest
from tests.hostile_values import RaisingValue

from jobstatus.reporting.error_text import ErrorText
from jobstatus.reporting.result import encode_result, traceback_result
from jobstatus.status import ResultState

LIMIT = 1_000


@dataclasses.dataclass
class Size:
    """A dataclass."""

    width: int
    height: int


class Colour(enum.Enum):
    """An enumeration."""

    RED = "red"


class Model(pydantic.BaseModel):
    """A model of pydantic."""

    at: datetime
    sizes: set[int]


MODEL = Model(at=datetime(2026, 11, 27, tzinfo=UTC), sizes={1})


def repr_of(value: object) -> str:
    """Return a name of a value whose own `repr` may raise."""
    return type(value).__name__


@pytest.mark.parametrize(
    ("value", "json"),
    [
        ({"a": [1, 2.5, None, True, "é"]}, '{"a":[1,2.5,null,true,"é"]}'),
        (Size(3, 4), '{"width":3,"height":4}'),
        (Colour.RED, '"red"'),
        (UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        (datetime(2026, 11, 27, tzinfo=UTC), '"2026-11-27T00:00:00Z"'),
        (Decimal("1.50"), '"1.50"'),
        ([MODEL], '[{"at":"2026-11-27T00:00:00Z","sizes":[1]}]'),
        (0, "0"),
        ("", '""'),
    ],
)
def test_value(value: object, json: str) -> None:
    """What msgspec can encode, and a model of pydantic, is stored as JSON."""
    result = encode_result(value, LIMIT)
    assert (result.state, result.body) == (ResultState.VALUE, json.encode())


def test_value_that_is_not_json() -> None:
    """A value that can't be encoded is dropped; the reason names its type."""
    result = encode_result({"a": object()}, LIMIT)
    assert result.state == "the result is not JSON: objects of type object are not supported"
    assert result.body is None


def test_value_that_is_too_large() -> None:
    """A value that is too large is dropped; the reason names both sizes and the setting."""
    result = encode_result("x" * LIMIT, LIMIT)
    assert result.state == "the result has 1002 bytes; JOBSTATUS_RESULT_LIMIT allows 1000"
    assert encode_result("x" * (LIMIT - 2), LIMIT).body is not None


def test_recursive_value() -> None:
    """A value that contains itself is dropped."""
    loop: list[object] = []
    loop.append(loop)
    assert encode_result(loop, LIMIT).body is None


@pytest.mark.parametrize(
    "value",
    [
        RaisingValue(),
        {RaisingValue(): 1},
        float("nan"),
        "\ud800",
        b"\xff",
        10**400,
        {1, "a"},
        Model,
    ],
    ids=repr_of,
)
def test_hostile_value(value: object) -> None:
    """No value raises, and what is stored is one line, or JSON."""
    result = encode_result(value, LIMIT)
    assert result.state.isprintable()
    if result.body is not None:
        msgspec.json.decode(result.body)


def failure() -> Exception:
    """Return an exception that was raised, with a cause."""
    try:
        try:
            raise KeyError("the cause")
        except KeyError as cause:
            raise ValueError("a secret") from cause
    except ValueError as error:
        return error


def traceback_text(errors: ErrorText, limit: int = 10_000) -> str:
    result = traceback_result(failure(), errors, limit)
    assert result.state == ResultState.TRACEBACK
    assert result.body is not None
    assert len(result.body) <= limit
    text: str = msgspec.json.decode(result.body)["traceback"]
    return text


def test_traceback() -> None:
    """The traceback has the stack and the description of each exception, the cause first."""
    text = traceback_text(ErrorText())
    cause, error = text.index("KeyError: 'the cause'"), text.index("ValueError: a secret")
    assert cause < error
    assert text.count("Traceback (most recent call last):") == 2
    assert 'raise KeyError("the cause")' in text


def test_traceback_without_messages() -> None:
    """The messages are those that the settings permit."""
    text = traceback_text(ErrorText("type"))
    assert text.endswith("ValueError\n")
    assert "a secret\n" not in text
    redacted = traceback_text(ErrorText("full", lambda _: "redacted"))  # type: ignore[arg-type]
    assert redacted.endswith("ValueError: redacted\n")


def test_traceback_of_a_group() -> None:
    """The traceback of a group has those of its exceptions before its own."""
    group = ExceptionGroup("two", [ValueError("one"), ExceptionGroup("g", [KeyError("other")])])
    body = traceback_result(group, ErrorText(), 10_000).body
    assert body is not None
    text = msgspec.json.decode(body)["traceback"]
    found = [text.index(part) for part in ("ValueError: one", "KeyError: 'other'", "Group: two")]
    assert found == sorted(found)


def test_traceback_that_is_too_large() -> None:
    """The beginning of a long traceback is left out."""
    text = traceback_text(ErrorText(), 300)
    assert text.startswith("…")
    assert text.endswith("ValueError: a secret\n")
