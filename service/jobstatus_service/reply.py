"""An answer as it goes over the wire: the messages of ASGI, made once for however many ask."""

import math
from typing import Final
from uuid import UUID

import msgspec
from litestar.types import HTTPResponseBodyEvent, HTTPResponseStartEvent, Send

from jobstatus.status import JobState
from jobstatus_service.answer import answer, matches
from jobstatus_service.found import Found
from jobstatus_service.metrics import Outcome

_NO_BODY: Final[HTTPResponseBodyEvent] = {
    "type": "http.response.body",
    "body": b"",
    "more_body": False,
}

_WEIGHT: Final = 2_600
"""Bytes that a reply takes beside its body: its messages, its headers, its place in the cache."""


class Reply(msgspec.Struct, frozen=True):
    """What `GET` answers; whether whole or "not modified" depends on who asks.

    Attributes:
        etag: The validator.
        state: The state that it tells; None for many jobs.
        body: The JSON.
        until: Until when it may be served without asking Redis, on the monotonic clock.
        changed: When the job last changed, on the monotonic clock; minus infinity: not known.
        interval: Seconds between two changes of the job, as far as they were seen.
        head: The start of a 200.
        tail: The rest of it.
        not_modified: The start of a 304.
    """

    etag: bytes
    state: JobState | None
    body: bytes
    until: float
    changed: float
    interval: float
    head: HTTPResponseStartEvent
    tail: HTTPResponseBodyEvent
    not_modified: HTTPResponseStartEvent

    @property
    def is_over(self) -> bool:
        """Whether the job is."""
        return self.state is not None and self.state.is_over

    def counts_as(self, outcome: Outcome, known: bool) -> Outcome:
        """How the answer is counted, given where it came from and whether it was a 304."""
        if known:
            return "not_modified"
        return "unknown" if self.state is JobState.UNKNOWN else outcome

    @property
    def size(self) -> int:
        """About how many bytes it takes in memory."""
        return len(self.body) + _WEIGHT

    def is_known_to(self, if_none_match: bytes | None) -> bool:
        """Whether the header `If-None-Match` names it."""
        if if_none_match is None:
            return False
        etag = self.etag
        return if_none_match == etag or matches(if_none_match.decode("latin-1"), etag.decode())

    async def send(
        self, send: Send, if_none_match: bytes | None, *more: tuple[bytes, bytes]
    ) -> bool:
        """Answer; whether that was a 304.

        Args:
            send: As in ASGI.
            if_none_match: The header, if the request has it.
            *more: Headers beside the reply's own.
        """
        known = if_none_match is not None and self.is_known_to(if_none_match)
        head, tail = (self.not_modified, _NO_BODY) if known else (self.head, self.tail)
        if more:
            head = head | {"headers": [*head["headers"], *more]}
        await send(head)
        await send(tail)
        return known


def reply(
    body: bytes,
    etag: str,
    cache_control: str,
    pace: int | None = None,
    *,
    state: JobState | None = None,
    until: float = -math.inf,
    changed: float = -math.inf,
    interval: float = 0.0,
) -> Reply:
    """Make a reply; `Reply` says what the arguments are."""
    headers = [(b"etag", etag.encode()), (b"cache-control", cache_control.encode())]
    if pace is not None:
        headers.append((b"retry-after", b"%d" % pace))
    whole = [(b"content-type", b"application/json"), *headers]  # the server knows the length
    return Reply(
        etag.encode(),
        state,
        body,
        until,
        changed,
        interval,
        {"type": "http.response.start", "status": 200, "headers": whole},
        {"type": "http.response.body", "body": body, "more_body": False},
        {"type": "http.response.start", "status": 304, "headers": headers},
    )


def reply_about(
    job_id: UUID, found: Found, lease: float, asked: float, interval: float = 0.0
) -> Reply:
    """The reply about one job.

    Args:
        job_id: The job.
        found: What stands in Redis.
        lease: Seconds for which a silent worker is believed.
        asked: When Redis was asked, on the monotonic clock.
        interval: Seconds between two changes of the job, as far as they were seen.
    """
    told = answer(job_id, found, lease, interval)
    age = (found.now - found.record.updated) / 1000 if found.record else math.inf
    return reply(
        told.body,
        told.etag,
        told.cache_control,
        told.pace,
        state=told.state,
        until=asked + told.good_for,
        changed=asked - age,
        interval=interval,
    )
