"""Server-sent events, Retry-After and errors are parsed."""

import pytest

from jobstatus_client.errors import RequestError
from jobstatus_client.event_stream import EventParser
from jobstatus_client.exchange import Answer, error_of, retry_after, uuids_of

STREAM = (
    "retry: 1000\n\n:\n\nevent: status\nid: x\ndata: {}\n\n"
    'event: counts\r\ndata: {"a":\r\ndata: 1}\r\n\r\ndata: \N{LINE SEPARATOR}é\n\n'
).encode()
EVENTS = [
    ("retry", b"1000"),
    ("status", b"{}"),
    ("counts", b'{"a":\n1}'),
    ("message", "\N{LINE SEPARATOR}é".encode()),
]


def parsed(*chunks: bytes) -> list[tuple[str, bytes]]:
    parser = EventParser()
    return [event for chunk in chunks for event in parser.feed(chunk)]


def test_events_divided_anywhere() -> None:
    """The events are the same wherever the stream is divided."""
    for i in range(len(STREAM) + 1):
        assert parsed(STREAM[:i], STREAM[i:]) == EVENTS
    assert parsed(*(bytes([byte]) for byte in STREAM)) == EVENTS


def test_events_that_are_cut_off() -> None:
    """An event that the end of the stream cuts off is left out."""
    for i in range(len(STREAM)):
        found = parsed(STREAM[:i])
        assert found == EVENTS[: len(found)]


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0),
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": " 7 "}, 7),
        ({"Retry-After": "soon"}, 0),
        ({"Retry-After": "-1"}, 0),
        ({"Retry-After": "99999"}, 300),
        (
            {
                "Retry-After": "Sat, 28 Nov 2026 10:00:05 GMT",
                "Date": "Sat, 28 Nov 2026 10:00:00 GMT",
            },
            5,
        ),
        (
            {
                "Retry-After": "Sat, 28 Nov 2026 10:00:00 GMT",
                "Date": "Sat, 28 Nov 2026 10:00:05 GMT",
            },
            0,
        ),
        ({"Retry-After": "Sat, 28 Nov 2026 10:00:05 GMT", "Date": "today"}, 0),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float) -> None:
    """Retry-After has seconds or a date, which is compared with Date."""
    assert retry_after(headers) == seconds


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"detail":"no such job"}', "no such job"),
        (b'{"detail":[{"msg":"one"},{"msg":"two"}]}', "one two"),
        (b"<html>", "The service has answered with status 502."),
        (b"\xff", "The service has answered with status 502."),
        (b"[]", "The service has answered with status 502."),
        (b'{"detail":[1]}', "The service has answered with status 502."),
    ],
)
def test_error(body: bytes, message: str) -> None:
    """The message of an error is the service's, if it has one."""
    error = error_of(Answer(502, {"Retry-After": "3"}, body))
    assert (str(error), error.status, error.retry_after) == (message, 502, 3)


def test_redirect_is_explained() -> None:
    """A redirect names where it leads, as that of an ingress from http to https."""
    error = error_of(Answer(308, {"Location": "https://jobs.example/"}))
    assert str(error).endswith("It refers to https://jobs.example/")


@pytest.mark.parametrize(
    ("status", "is_transient", "is_refusal"),
    [
        (400, False, True),
        (401, False, True),
        (403, False, True),
        (404, False, False),
        (408, True, False),
        (422, False, True),
        (429, True, False),
        (500, True, False),
        (503, True, False),
    ],
)
def test_kinds_of_errors(status: int, is_transient: bool, is_refusal: bool) -> None:
    """A refusal is final; what is transient may succeed later."""
    error = RequestError(status, "")
    assert (error.is_transient, error.is_refusal) == (is_transient, is_refusal)


def test_ids() -> None:
    """One id or several, of any form, become UUIDs."""
    (nightly,) = uuids_of("nightly")
    assert uuids_of([nightly, str(nightly), nightly.hex, "nightly"]) == [nightly] * 4
