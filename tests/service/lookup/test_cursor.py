"""Cursors: they survive the way to a client and back, and nothing else is accepted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobstatus_service.lookup.cursor import Cursor, ListFilter

ALL = ListFilter("job")
FAILED = ListFilter("job", ("failed",))


@given(
    st.floats(0, 1e13), st.binary(min_size=16, max_size=16), st.integers(0, 10**13), st.booleans()
)
def test_round_trip(score: float, job_id: bytes, looked_until: int, is_filtered: bool) -> None:
    """A cursor is the same after it was sent to a client as text that needs no escaping."""
    wanted = FAILED if is_filtered else ALL
    cursor = Cursor(score, job_id, looked_until)
    text = cursor.text(wanted)
    assert text.replace("-", "").replace("_", "").isalnum()
    assert Cursor.parse(text, wanted) == cursor


@given(st.one_of(st.text(max_size=80), st.from_regex(r"[A-Za-z0-9_-]{45,55}", fullmatch=True)))
def test_malformed(text: str) -> None:
    """Any other text is rejected with the same sentence."""
    with pytest.raises(ValueError, match=r"not a cursor|another name"):
        Cursor.parse(text, ALL)


def test_other_filter() -> None:
    """A cursor goes on with the states and the name that it was made for."""
    text = Cursor(1.0, bytes(16), 1).text(FAILED)
    for wanted in (ALL, ListFilter("job", ("failed",), "render")):
        with pytest.raises(ValueError, match="other states or another name"):
            Cursor.parse(text, wanted)


def test_not_a_number() -> None:
    """A score that is not a number is rejected."""
    text = Cursor(float("nan"), bytes(16), 1).text(ALL)
    with pytest.raises(ValueError, match="not a cursor"):
        Cursor.parse(text, ALL)
