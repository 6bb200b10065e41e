"""States, records and answers."""

import math
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from jobstatus.status import (
    ALLOWED_PREDECESSORS,
    FINAL_STATES,
    ID_NAMESPACE,
    UNFINISHED_STATES,
    JobState,
    JobStatus,
    Record,
    format_progress,
    job_uuid,
    one_line,
    parse_uuid,
    to_datetime,
)

CONTRACT = yaml.safe_load(
    Path("tests/contract/job-status.openapi.yaml").read_text(encoding="utf-8")
)
PUBLISHED = CONTRACT["components"]["schemas"]["JobStatus"]["properties"]
FIELDS = {"name": "n", "state": "pending", "created": "1", "attempt": "0"}


def test_states_are_the_contracts() -> None:
    """The seven states are the contract's, in its order."""
    assert [state.value for state in JobState] == PUBLISHED["state"]["enum"]


def test_every_written_state_has_a_rule() -> None:
    """Every state but `unknown` has a rule, and no rule lets anything follow an end."""
    assert set(ALLOWED_PREDECESSORS) == set(JobState) - {JobState.UNKNOWN}
    assert all(not (may & FINAL_STATES) for may in ALLOWED_PREDECESSORS.values())
    assert FINAL_STATES | UNFINISHED_STATES | {JobState.UNKNOWN} == set(JobState)


def test_answer_has_the_contracts_members_in_order() -> None:
    """An answer always has all eight members, in the contract's order."""
    status = JobStatus(id=UUID(int=1), created_at=to_datetime(0), updated_at=to_datetime(0))
    assert list(msgspec.json.decode(status.to_json())) == list(PUBLISHED)


def test_times_have_milliseconds_and_z() -> None:
    """Times are RFC 3339 in UTC, with milliseconds and `Z`, whatever their value."""
    status = JobStatus(
        id=UUID(int=1), created_at=to_datetime(0), updated_at=to_datetime(1_700_000_000_120)
    )
    body = msgspec.json.decode(status.to_json())
    assert body["created_at"] == "1970-01-01T00:00:00.000Z"
    assert body["updated_at"] == "2023-11-14T22:13:20.120Z"
    assert JobStatus.from_json(status.to_json()) == status


def test_both_spellings_are_one_id() -> None:
    """A UUID stands for itself, hyphenated or not, in either case."""
    uuid = UUID("67c73c6b-ecba-4a4c-bb18-3f37aa64c2f8")
    spellings = [str(uuid), str(uuid).upper(), uuid.hex, uuid.hex.upper()]
    assert {job_uuid(spelling) for spelling in spellings} == {uuid}


@pytest.mark.parametrize(
    "text",
    ["", "cron:x:1", "{67c73c6b-ecba-4a4c-bb18-3f37aa64c2f8}", "67c73c6b-ecba4a4cbb183f37aa64c2f8"],
)
def test_other_ids_get_a_lasting_uuid(text: str) -> None:
    """Any other id becomes the uuid5 in the documented namespace, which never changes."""
    assert parse_uuid(text) is None
    assert job_uuid(text) == uuid5(UUID("5a0cdcd9-9d3e-4c67-8f0b-6d8f3b6f1f27"), text)
    assert str(ID_NAMESPACE) == "5a0cdcd9-9d3e-4c67-8f0b-6d8f3b6f1f27"


def test_ids_of_any_kind() -> None:
    """A UUID object stands for itself, lone surrogates get a UUID, anything else is refused."""
    assert job_uuid(UUID(int=7)) == UUID(int=7)
    assert job_uuid("\ud800") == job_uuid("\ud800")
    odd: Any = 5
    with pytest.raises(TypeError, match="a str or a UUID, not int"):
        job_uuid(odd)


@pytest.mark.parametrize(
    "wrong",
    [
        {"state": "unknown"},
        {"state": "done"},
        {"created": "yesterday"},
        {"created": "-1"},
        {"created": "999999999999999999"},
        {"attempt": "-1"},
        {"progress": "101"},
        {"progress": "nan"},
        {"progress": "half"},
        {"updated": "x"},
    ],
)
def test_bad_field_is_an_error(wrong: dict[str, str]) -> None:
    """A field that can't be read is an error, not a guess."""
    with pytest.raises(msgspec.ValidationError):
        Record.from_fields(FIELDS | wrong)


@pytest.mark.parametrize("field", FIELDS)
def test_missing_field_is_an_error(field: str) -> None:
    """A record is never partial."""
    with pytest.raises(msgspec.ValidationError):
        Record.from_fields({k: v for k, v in FIELDS.items() if k != field})


def test_unknown_fields_are_ignored() -> None:
    """A reader ignores fields that it doesn't know."""
    assert Record.from_fields(FIELDS | {"new": "x"}).name == "n"


@given(st.floats(min_value=0, max_value=100))
def test_stored_progress_is_never_more_than_reported(progress: float) -> None:
    """Progress is stored with at most two decimals and never rounded up."""
    stored = float(format_progress(progress))
    assert stored <= progress + 1e-8
    assert (stored == 100) == (progress == 100)
    assert math.isclose(stored, progress, abs_tol=0.0101)


@given(st.integers(0, 10_000))
def test_two_decimals_are_kept(hundredths: int) -> None:
    """What is reported with two decimals is stored as it was said."""
    assert float(format_progress(hundredths / 100)) == hundredths / 100


@given(st.text(), st.integers(1, 50))
def test_one_line_is_printable_and_short(text: str, limit: int) -> None:
    """Whatever text is given, what is shown is one printable line within the limit."""
    line = one_line(text, limit)
    assert len(line) <= limit
    assert line.isprintable()
    line.encode()
