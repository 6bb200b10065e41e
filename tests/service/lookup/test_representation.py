"""Which validators `If-None-Match` names."""

import pytest

from jobstatus_service.lookup.representation import matches

TAG = '"abc"'


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (TAG, True),
        (f"W/{TAG}", True),
        (f'"x", {TAG}', True),
        (f'"x",{TAG},"y"', True),
        ("*", True),
        (" * ", True),
        ('"x"', False),
        ('"x,*,y"', False),
        ('"x", *', False),
        ('"*"', False),
        ("abc", False),
        ('"x,"abc",y"', False),
        ("", False),
        ('"', False),
    ],
)
def test_matches(header: str, expected: bool) -> None:
    """A list of tags names each of them; what is quoted is one tag, whatever is in it."""
    assert matches(header, TAG) is expected
