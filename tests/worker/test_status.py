"""States, the stored record, and the status that a poller gets."""

import math
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tests.hostile_values import RaisingValue

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
    job_uuid_text,
    one_line,
    parse_uuid,
    to_datetime,
)

CONTRACT = yaml.safe_load(
    Path("tests/contract/job-status.openapi.yaml").read_text(encoding="utf-8")
)
PUBLISHED = CONTRACT["components"]["schemas"]["JobStatus"]["properties"]
FIELDS = {"name": "n", "state": "pending", "created": "1", "attempt": "0"}
UUID_TEXT = "67c73c6b-ecba-4a4c-bb18-3f37aa64c2f8"


def test_states_of_the_contract() -> None:
    """The seven states are those of the contract, in its order."""
    assert [state.value for state in JobState] == PUBLISHED["state"]["enum"]


def test_every_stored_state_has_predecessors() -> None:
    """Every state but `unknown` has a rule, and no state may follow a final state."""
    assert set(ALLOWED_PREDECESSORS) == set(JobState) - {JobState.UNKNOWN}
    assert all(not (states & FINAL_STATES) for states in ALLOWED_PREDECESSORS.values())
    assert FINAL_STATES | UNFINISHED_STATES | {JobState.UNKNOWN} == set(JobState)


@pytest.mark.parametrize("state", JobState)
def test_is_final(state: JobState) -> None:
    """Three states are final."""
    assert state.is_final is (state.value in {"succeeded", "aborted", "failed"})


def test_json_has_the_members_of_the_contract() -> None:
    """The JSON always has all eight members, in the contract's order."""
    status = JobStatus(id=UUID(int=1), created_at=to_datetime(0), updated_at=to_datetime(0))
    assert list(msgspec.json.decode(status.to_json())) == list(PUBLISHED)


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_700_000_000_120, "2023-11-14T22:13:20.120Z"),
        (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
    ],
)
def test_times(ms: int, text: str) -> None:
    """Times are RFC 3339 in UTC, always with milliseconds and `Z`."""
    status = JobStatus(id=UUID(int=1), created_at=to_datetime(ms), updated_at=to_datetime(ms))
    body = msgspec.json.decode(status.to_json())
    assert body["created_at"] == body["updated_at"] == text
    assert JobStatus.from_json(status.to_json()) == status


@pytest.mark.parametrize(
    ("state", "stored", "shown"),
    [
        (JobState.IN_PROGRESS, None, (False, 0)),
        (JobState.IN_PROGRESS, 0.0, (True, 0)),
        (JobState.IN_PROGRESS, 40.5, (True, 40.5)),
        (JobState.FAILED, 40.5, (True, 40.5)),
        (JobState.SUCCEEDED, 40.5, (True, 100)),
        (JobState.SUCCEEDED, None, (False, 0)),
    ],
)
def test_progress_of_a_record(
    state: JobState, stored: float | None, shown: tuple[bool, float]
) -> None:
    """A job that has reported progress and succeeded has 100 percent."""
    record = Record(name="x", state=state, created=1, attempt=1, progress=stored)
    status = JobStatus.from_record(UUID(int=1), record)
    assert (status.has_progress, status.progress) == shown


def test_status_without_a_record() -> None:
    """Without a record the state is unknown, and the times are the epoch."""
    status = JobStatus.unknown(UUID(int=1), "there is no record")
    assert (status.state, status.reason) == (JobState.UNKNOWN, "there is no record")
    assert status.created_at == status.updated_at == to_datetime(0)


@pytest.mark.parametrize(
    "job_id", [UUID_TEXT, UUID_TEXT.upper(), UUID(UUID_TEXT).hex, UUID(UUID_TEXT).hex.upper()]
)
def test_uuid_as_job_id(job_id: str) -> None:
    """A UUID is used as it is, with or without hyphens, in either case."""
    assert job_uuid(job_id) == parse_uuid(job_id) == job_uuid(UUID(UUID_TEXT)) == UUID(UUID_TEXT)
    assert job_uuid_text(job_id) == UUID_TEXT


@pytest.mark.parametrize("job_id", ["", "cron:x:1", f"{{{UUID_TEXT}}}", UUID_TEXT[:13] + "4a4c"])
def test_other_job_ids(job_id: str) -> None:
    """Any other id becomes the uuid5 in the documented namespace, which never changes."""
    assert parse_uuid(job_id) is None
    assert job_uuid(job_id) == uuid5(UUID("5a0cdcd9-9d3e-4c67-8f0b-6d8f3b6f1f27"), job_id)
    assert job_uuid_text(job_id) == str(job_uuid(job_id))
    assert str(ID_NAMESPACE) == "5a0cdcd9-9d3e-4c67-8f0b-6d8f3b6f1f27"


def test_job_id_with_lone_surrogates() -> None:
    """An id that can't be encoded in UTF-8 becomes a UUID as well."""
    assert job_uuid("\ud800") == job_uuid("\ud800") != job_uuid("\ud801")


def test_job_id_of_another_type() -> None:
    """An id that is neither a str nor a UUID is a TypeError."""
    number: Any = 5
    with pytest.raises(TypeError, match="a job id must be a str or a UUID, not int"):
        job_uuid(number)


@pytest.mark.parametrize(
    "field",
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
def test_malformed_field(field: dict[str, str]) -> None:
    """A malformed field is an error."""
    with pytest.raises(msgspec.ValidationError):
        Record.from_fields(FIELDS | field)


@pytest.mark.parametrize("name", FIELDS)
def test_missing_field(name: str) -> None:
    """A missing field is an error."""
    with pytest.raises(msgspec.ValidationError):
        Record.from_fields({k: v for k, v in FIELDS.items() if k != name})


def test_unknown_field() -> None:
    """A field that this version does not know is ignored."""
    assert Record.from_fields(FIELDS | {"new": "x"}).name == "n"


@pytest.mark.parametrize(
    ("progress", "text"),
    [(None, ""), (0, "0"), (59.83, "59.83"), (40.5, "40.5"), (99.9999, "99.99"), (100, "100")],
)
def test_format_progress(progress: float | None, text: str) -> None:
    """Progress has at most two decimals; only 100 percent becomes 100."""
    assert format_progress(progress) == text


@given(st.floats(min_value=0, max_value=100))
def test_progress_is_rounded_down(progress: float) -> None:
    """Stored progress is never more than the reported one."""
    stored = float(format_progress(progress))
    assert stored <= progress + 1e-8
    assert (stored == 100) == (progress == 100)
    assert math.isclose(stored, progress, abs_tol=0.0101)


@given(st.integers(0, 10_000))
def test_two_decimals_are_kept(hundredths: int) -> None:
    """Progress with two decimals is stored unchanged."""
    assert float(format_progress(hundredths / 100)) == hundredths / 100


@given(st.text(), st.integers(1, 50))
def test_one_line(text: str, limit: int) -> None:
    """Any text becomes one printable line within the limit, which can be encoded."""
    line = one_line(text, limit)
    assert len(line) <= limit
    assert line.isprintable()
    line.encode()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("short", "short"),
        ("exactly 10", "exactly 10"),
        ("more than 10", "more than…"),
        ("a\n b\tc", "a b c"),
        (7, "7"),
        (RaisingValue(), "<RaisingV…"),
    ],
)
def test_one_line_of_examples(text: object, line: str) -> None:
    """A long text is cut; an object whose `str()` raises is replaced by its type's name."""
    assert one_line(text, 10) == line
