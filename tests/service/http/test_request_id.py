"""The id of a request."""

import re

import pytest

from jobstatus_service.http.request_id import request_id


@pytest.mark.parametrize("given", ["mine-1", "A_z.0", "x" * 128])
def test_own_id(given: str) -> None:
    """A well-formed `X-Request-ID` is the id of the request."""
    headers = [(b"accept", b"*/*"), (b"x-request-id", given.encode())]
    assert request_id({"headers": headers}) == given


@pytest.mark.parametrize("given", ["", "two words", "x" * 129, "line\n", 'quote"', "é"])
def test_malformed_id(given: str) -> None:
    """A malformed `X-Request-ID` is replaced by a new id, which can't disturb a log."""
    assert re.fullmatch(
        "[0-9a-f]{32}", request_id({"headers": [(b"x-request-id", given.encode())]})
    )


def test_no_id() -> None:
    """Each request without `X-Request-ID` has an id of its own."""
    assert request_id({"headers": []}) != request_id({"headers": []})
