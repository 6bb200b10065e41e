"""The response about a job: its headers, how long it may be cached, and what is sent."""

import math
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest

from jobstatus.status import JobState, Record
from jobstatus_service.lookup.representation import etag_of
from jobstatus_service.lookup.response import StatusResponse, bulk_response, response_for
from jobstatus_service.storage.stored_record import StoredRecord

JOB = UUID("67c73c6b-ecba-4a4c-bb18-3f37aa64c2f8")
NOW_MS = 1_700_000_000_000
ASKED_AT = 1_000.0


def response(
    state: JobState = JobState.PENDING, age: float = 0, ttl: float = 3_600, lease: float = 0
) -> StatusResponse:
    """Return the response about a record that changed `age` seconds ago."""
    record = Record(
        name="n",
        state=state,
        created=1,
        attempt=1,
        updated=NOW_MS - int(age * 1000),
        lease=NOW_MS + int(lease * 1000),
    )
    stored = StoredRecord(record, "", NOW_MS, int(ttl * 1000))
    return response_for(JOB, stored, 30, ASKED_AT, max_cached_seconds=60)


MISSING = response_for(JOB, StoredRecord(None, "", NOW_MS, -2), 30, ASKED_AT, max_cached_seconds=60)


@dataclass
class Sent:
    """Keeps the ASGI messages that are sent."""

    messages: list[Any] = field(default_factory=list)

    async def __call__(self, message: Any) -> None:
        """Keep a message."""
        self.messages.append(message)


@pytest.mark.parametrize(
    ("made", "valid_seconds"),
    [
        (response(), 4),
        (response(ttl=3), 3),
        (response(ttl=-0.001), 4),
        (response(age=3_000), 60),
        (response(JobState.IN_PROGRESS, lease=0.5), 0.5),
        (response(JobState.IN_PROGRESS, lease=10), 4),
        (response(JobState.FAILED), 60),
        (response(JobState.FAILED, ttl=50), 50),
        (MISSING, 60),
    ],
)
def test_valid_until(made: StatusResponse, valid_seconds: float) -> None:
    """The shortest of TTL, lease, poll interval and the upper bound limits how long it is valid."""
    assert math.isclose(made.valid_until, ASKED_AT + valid_seconds)


@pytest.mark.parametrize(
    ("made", "headers"),
    [
        (response(), {b"cache-control": b"private, no-cache", b"retry-after": b"1"}),
        (
            MISSING,
            {
                b"cache-control": b"private, no-cache",
                b"retry-after": b"2",
                b"job-unknown-cause": b"no_record",
            },
        ),
        (
            response(JobState.IN_PROGRESS, lease=-1),
            {
                b"cache-control": b"private, no-cache",
                b"retry-after": b"1",
                b"job-unknown-cause": b"lease_expired",
            },
        ),
        (
            response(JobState.FAILED),
            {b"cache-control": b"private, max-age=30", b"vary": b"Authorization"},
        ),
        (
            bulk_response([MISSING, response(), response(JobState.FAILED)]),
            {b"cache-control": b"private, no-cache", b"retry-after": b"1"},
        ),
        (
            bulk_response([response(JobState.FAILED)]),
            {b"cache-control": b"private, no-cache"},
        ),
    ],
)
def test_headers(made: StatusResponse, headers: dict[bytes, bytes]) -> None:
    """Only a final state may be cached by clients; every other has its poll interval."""
    assert dict(made.other_headers) == headers


@pytest.mark.parametrize(
    ("made", "changed_at"), [(response(age=20), ASKED_AT - 20), (MISSING, -math.inf)]
)
def test_changed_at(made: StatusResponse, changed_at: float) -> None:
    """The last change of the job is known on the monotonic clock."""
    assert made.changed_at == changed_at


def test_shared_headers() -> None:
    """Responses with the same poll interval share one tuple of headers."""
    assert response().other_headers is response(ttl=5).other_headers


def test_bulk_response() -> None:
    """The response about many jobs has the body of each, in order, and its own validator."""
    made = bulk_response([MISSING, response()])
    assert made.body == b'{"jobs":[%b,%b]}' % (MISSING.body, response().body)
    assert made.etag == etag_of(made.body)
    assert made.state is None
    assert not made.is_final


@pytest.mark.parametrize(
    ("made", "outcome"), [(response(), "hit"), (MISSING, "unknown"), (bulk_response([]), "hit")]
)
@pytest.mark.parametrize("if_none_match", [None, b'"other"'])
async def test_send(made: StatusResponse, outcome: str, if_none_match: bytes | None) -> None:
    """A client without the current validator is sent the whole response."""
    sent = Sent()
    assert await made.send(sent, if_none_match, "hit", ((b"x", b"y"),)) == outcome
    start, body = sent.messages
    assert start["status"] == 200
    assert start["headers"] == [
        (b"content-type", b"application/json"),
        (b"etag", made.etag),
        *made.other_headers,
        (b"x", b"y"),
    ]
    assert body["body"] == made.body


@pytest.mark.parametrize("if_none_match", [b"*", response().etag, b'"a", W/' + response().etag])
async def test_not_modified(if_none_match: bytes) -> None:
    """A client with the current validator is sent a 304 without a body."""
    sent = Sent()
    assert await response().send(sent, if_none_match, "hit") == "not_modified"
    start, body = sent.messages
    assert start["status"] == 304
    assert start["headers"] == [(b"etag", response().etag), *response().other_headers]
    assert body["body"] == b""
