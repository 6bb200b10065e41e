"""The header `Prefer`."""

import pytest

from jobstatus_service.http.prefer import preferred_wait


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([], None),
        (["wait=10"], 10),
        (["wait=0"], 0),
        (["respond-async", 'Wait = "5"; x=1'], 5),
        (["wait=1000"], 60),
        (["wait=99999999999999999999"], 60),
        (["wait"], None),
        (["wait="], None),
        (["wait=-1"], None),
        (["wait=1.5"], None),
        (["wait=²"], None),
        (["wait=1, wait=2"], 1),
        (["wait=x, wait=2"], None),
        (["waits=1"], None),
        (["respond-async"], None),
    ],
)
def test_preferred_wait(headers: list[str], seconds: int | None) -> None:
    """The first wait counts: a malformed one is ignored, one that is too long is shortened."""
    assert preferred_wait(headers) == seconds
