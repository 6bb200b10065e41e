"""The response about a job, in the form in which it is cached and sent to all clients."""

import functools
import math
from collections.abc import Iterable
from typing import Final
from uuid import UUID

import msgspec
from litestar.types import HTTPResponseBodyEvent, Send
from msgspec.structs import replace

from jobstatus.details import UnknownCause
from jobstatus.status import DETAIL_MARK, JobState, JobStatus, ResultState, public_reason
from jobstatus_service.lookup.details import NO_DETAILS, Details, details_body
from jobstatus_service.lookup.representation import (
    etag_matches,
    etag_of,
    poll_interval,
    status_of,
    unknown_cause,
)
from jobstatus_service.lookup.view import View
from jobstatus_service.metrics.metrics import Outcome
from jobstatus_service.storage.link import Verification
from jobstatus_service.storage.stored_record import StoredRecord

Header = tuple[bytes, bytes]

JSON_HEADER: Final[Header] = (b"content-type", b"application/json")
"""The server adds `content-length`."""

_REVALIDATE_HEADER: Final[Header] = (b"cache-control", b"private, no-cache")
_FINAL_HEADERS: Final[tuple[Header, ...]] = (
    (b"cache-control", b"private, max-age=30"),
    (b"vary", b"Authorization"),  # what a job token shows of a failed job is less than all
)

END_OF_BODY: Final[HTTPResponseBodyEvent] = {
    "type": "http.response.body",
    "body": b"",
    "more_body": False,
}

_RETRY_AFTER: Final = b"retry-after"

_NEVER_VERIFIED: Final = Verification()
"""The verification of responses that no invalidation is received for; they are not cached."""

_OVERHEAD_BYTES: Final = 700
"""Memory of a cached response beside its body: the object, its validator, the cache's entry."""


class StatusResponse(msgspec.Struct, frozen=True, gc=False):
    """A response to `GET`, sent whole or as a 304 depending on the request.

    It is small, since most of the cost of a poll is loading it into the processor's cache:
    responses share what they have in common, and the ASGI messages are made for each request.

    Attributes:
        etag_header: The header with the validator.
        other_headers: The other headers of a 304.
        body: The JSON.
        state: The job's state; None for the response of a bulk read.
        valid_until: Until when it may be served without asking Redis, on the monotonic clock.
        changed_at: When the job last changed, on the monotonic clock; minus infinity if unknown.
        change_interval: Observed seconds between two changes of the job; 0 if unknown.
        verification: Until when it is certain that an invalidation would have arrived.
        details: What `JobDetails` says beside the status.
        cause: Why the state is unknown, if it is.
        public_reason: The reason without the message of its exception; None if it has none.
        is_public: Whether all job tokens may read all of it: see `for_job_token`.
    """

    etag_header: Header
    other_headers: tuple[Header, ...]
    body: bytes
    state: JobState | None = None
    valid_until: float = -math.inf
    changed_at: float = -math.inf
    change_interval: float = 0.0
    verification: Verification = _NEVER_VERIFIED
    details: Details = NO_DETAILS
    cause: UnknownCause | None = None
    public_reason: str | None = None
    is_public: bool = True

    @property
    def etag(self) -> bytes:
        """The validator, quotes included; that of a list begins with `W/`."""
        return self.etag_header[1]

    @property
    def is_final(self) -> bool:
        """Whether the job is in a final state."""
        return self.state is not None and self.state.is_final

    @property
    def size(self) -> int:
        """Approximate bytes in memory."""
        return len(self.body) + _OVERHEAD_BYTES

    def details_body(self) -> bytes:
        """Return the JSON of the job's `JobDetails`."""
        return details_body(self.body, self.details, is_final=self.is_final, cause=self.cause)

    def with_details(self) -> "StatusResponse":
        """Return the response whose body is the job's `JobDetails`."""
        body = self.details_body()
        return StatusResponse((b"etag", etag_of(body)), self.other_headers, body, self.state)

    def in_view(self, view: View) -> "StatusResponse":
        """Return the response as a client sees it."""
        response = self
        if view & View.WITHOUT_TRACEBACK:
            response = response.for_job_token(has_errors=not view & View.WITHOUT_ERRORS)
        return response.with_details() if view & View.DETAILS else response

    def for_job_token(self, *, has_errors: bool) -> "StatusResponse":
        """Return the response without what job tokens may not read. A hot path.

        Args:
            has_errors: Whether the token may read the messages of exceptions.
        """
        response = self
        if self.details.result == ResultState.TRACEBACK:
            response = replace(response, details=replace(self.details, result=""))
        if self.public_reason is not None and not has_errors:
            status = replace(JobStatus.from_json(self.body), reason=self.public_reason)
            body = status.to_json()
            response = replace(response, etag_header=(b"etag", etag_of(body)), body=body)
        return response

    def event(self) -> bytes:
        """Return the response as a server-sent event."""
        return b"event: status\nid: %b\ndata: %b\n\n" % (self.etag, self.body)

    def matches_etag(self, if_none_match: bytes | None) -> bool:
        """Return whether the header `If-None-Match` names this response."""
        if if_none_match is None:
            return False
        etag = self.etag_header[1]
        return if_none_match == etag or etag_matches(if_none_match, etag.removeprefix(b"W/"))

    async def send(
        self,
        send: Send,
        if_none_match: bytes | None,
        outcome: Outcome,
        extra_headers: tuple[Header, ...] = (),
    ) -> Outcome:
        """Send the response, or a 304 if the client has it already. This is a hot path.

        Args:
            send: As in ASGI.
            if_none_match: The request's header of that name, if it has one.
            outcome: Where the response came from, `hit` or `miss`.
            extra_headers: Headers to send beside the response's own.

        Returns:
            The outcome to count in the metrics.
        """
        if self.matches_etag(if_none_match):
            headers = [self.etag_header, *self.other_headers, *extra_headers]
            await send({"type": "http.response.start", "status": 304, "headers": headers})
            await send(END_OF_BODY)
            return "not_modified"
        headers = [JSON_HEADER, self.etag_header, *self.other_headers, *extra_headers]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": False})
        return "unknown" if self.state is JobState.UNKNOWN else outcome


def response_for(
    job_id: UUID,
    stored: StoredRecord,
    lease_seconds: float,
    asked_at: float,
    change_interval: float = 0.0,
    verification: Verification = _NEVER_VERIFIED,
    max_cached_seconds: float = math.inf,
) -> StatusResponse:
    """Make the response about one job.

    Args:
        job_id: The job.
        stored: What was read from Redis.
        lease_seconds: Seconds without a report after which the state of a job is `unknown`.
        asked_at: When the record was asked for, on the monotonic clock.
        change_interval: Observed seconds between two changes of the job; 0 if unknown.
        verification: Until when it is certain that an invalidation would have arrived.
        max_cached_seconds: How long the response may be served at most.
    """
    status, valid_seconds = status_of(job_id, stored, lease_seconds)
    body = status.to_json()
    interval = None
    if not status.state.is_final:
        interval, interval_valid_seconds = poll_interval(stored, change_interval)
        valid_seconds = min(valid_seconds, interval_valid_seconds)
    if stored.ttl_ms >= 0:
        valid_seconds = min(valid_seconds, stored.ttl_ms / 1000)
    cause = unknown_cause(status, stored)
    details = Details.from_record(stored.record) if stored.record is not None else NO_DETAILS
    reason = _public_reason(status, stored)
    age = (stored.now_ms - stored.record.updated) / 1000 if stored.record else math.inf
    return StatusResponse(
        (b"etag", etag_of(body)),
        _status_headers(interval, cause),
        body,
        status.state,
        valid_until=asked_at + min(valid_seconds, max_cached_seconds),
        changed_at=asked_at - age,
        change_interval=change_interval,
        verification=verification,
        details=details,
        cause=cause,
        public_reason=reason,
        is_public=reason is None and details.result != ResultState.TRACEBACK,
    )


def _public_reason(status: JobStatus, stored: StoredRecord) -> str | None:
    """Return the reason without the message of its exception; None if it has none."""
    if stored.record is None or DETAIL_MARK not in stored.record.reason:
        return None
    is_shown = status.state is stored.record.state  # else the reason is that of an expired lease
    return public_reason(stored.record.reason) if is_shown else None


def bulk_response(responses: Iterable[StatusResponse]) -> StatusResponse:
    """Make the response about many jobs from those about each.

    Its poll interval is the shortest of theirs; there is none if all have finished.
    """
    responses = list(responses)
    body = b'{"jobs":[%b]}' % b",".join(response.body for response in responses)
    intervals = [
        int(value)
        for response in responses
        for name, value in response.other_headers
        if name == _RETRY_AFTER
    ]
    retry_after = [(_RETRY_AFTER, b"%d" % min(intervals))] if intervals else []
    return StatusResponse((b"etag", etag_of(body)), (_REVALIDATE_HEADER, *retry_after), body)


def list_response(jobs: Iterable[StatusResponse], following: str | None) -> StatusResponse:
    """Make the response with a page of a list.

    Its validator is weak: cursors differ that were made at different times for the same page, and
    are equally good.

    Args:
        jobs: The responses about its jobs.
        following: The cursor of the next page; None at the end of the list.
    """
    bodies = b",".join(response.details_body() for response in jobs)
    body = b'{"jobs":[%b],"next":%b}' % (bodies, msgspec.json.encode(following))
    etag = etag_of(b"%d%b" % (following is None, bodies))
    return StatusResponse((b"etag", b"W/" + etag), (_REVALIDATE_HEADER,), body)


def json_response(body: bytes) -> StatusResponse:
    """Make the response with any other JSON."""
    return StatusResponse((b"etag", etag_of(body)), (_REVALIDATE_HEADER,), body)


@functools.cache  # so that all responses with the same headers share one tuple
def _status_headers(interval: int | None, cause: UnknownCause | None) -> tuple[Header, ...]:
    """Return the headers that depend on the job.

    Args:
        interval: The poll interval; None for a job in a final state.
        cause: Why the state is unknown, if it is.
    """
    if interval is None:
        return _FINAL_HEADERS
    headers = _REVALIDATE_HEADER, (_RETRY_AFTER, b"%d" % interval)
    return headers if cause is None else (*headers, (b"job-unknown-cause", cause.value.encode()))
