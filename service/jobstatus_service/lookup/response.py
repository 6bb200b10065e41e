"""An answer as it goes over the wire: the messages of ASGI, made once for however many ask."""

import functools
import math
from typing import Any, Final
from uuid import UUID

import msgspec
from litestar.types import HTTPResponseBodyEvent, Send

from jobstatus.status import JobState
from jobstatus_service.lookup.representation import answer, matches
from jobstatus_service.metrics.metrics import Outcome
from jobstatus_service.storage.link import Verification
from jobstatus_service.storage.stored_record import StoredRecord

Header = tuple[bytes, bytes]

_UNPROVEN: Final = Verification()
"""Of what nobody tells when it changes."""

END_OF_BODY: Final[HTTPResponseBodyEvent] = {
    "type": "http.response.body",
    "body": b"",
    "more_body": False,
}

_JSON: Final[Header] = (b"content-type", b"application/json")  # the server knows the length

MAX_CACHED_SECONDS: Final = 60.0
"""Seconds after which Redis is asked again, though it has said nothing: not even a fault in what it
says can be believed for ever."""

_WEIGHT: Final = 550
"""Bytes that a reply takes beside its body: itself, its validator, its place in the cache."""


class StatusResponse(msgspec.Struct, frozen=True, gc=False):
    """What `GET` answers; whether whole or "not modified" depends on who asks.

    Small, since a poll costs little more than bringing it into the processor's cache: what many
    replies have in common they share, and the messages of ASGI are made anew for each request.

    Attributes:
        tag: The header with the validator.
        rest: The headers of a 304 beside it.
        body: The JSON.
        state: The state that it tells; None for many jobs.
        until: Until when it may be served without asking Redis, on the monotonic clock.
        changed: When the job last changed, on the monotonic clock; minus infinity: not known.
        change_interval: Seconds between two changes of the job, as far as they were seen.
        verification: Until when it is sure that a change of it would have been told.
    """

    etag_header: Header
    other_headers: tuple[Header, ...]
    body: bytes
    state: JobState | None = None
    valid_until: float = -math.inf
    changed_at: float = -math.inf
    change_interval: float = 0.0
    verification: Verification = _UNPROVEN

    @property
    def etag(self) -> bytes:
        """The validator."""
        return self.etag_header[1]

    @property
    def is_final(self) -> bool:
        """Whether the job is."""
        return self.state is not None and self.state.is_final

    @property
    def size(self) -> int:
        """About how many bytes it takes in memory."""
        return len(self.body) + _WEIGHT

    def matches_etag(self, if_none_match: bytes | None) -> bool:
        """Whether the header `If-None-Match` names it."""
        if if_none_match is None:
            return False
        etag = self.etag_header[1]
        return if_none_match == etag or matches(if_none_match.decode("latin-1"), etag.decode())

    async def send(
        self, send: Send, if_none_match: bytes | None, outcome: Outcome, *more: Header
    ) -> Outcome:
        """Answer, with a 304 if the client knows it already.

        Args:
            send: As in ASGI.
            if_none_match: The header, if the request has it.
            outcome: Where the reply came from.
            *more: Headers beside the reply's own.

        Returns:
            How the answer is counted.
        """
        if self.matches_etag(if_none_match):
            headers = [self.etag_header, *self.other_headers, *more]
            await send({"type": "http.response.start", "status": 304, "headers": headers})
            await send(END_OF_BODY)
            return "not_modified"
        headers = [_JSON, self.etag_header, *self.other_headers, *more]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": False})
        return "unknown" if self.state is JobState.UNKNOWN else outcome


RATE_LIMITED_MESSAGE: Final = "this API key asks too often; come back when Retry-After says"


async def refuse(send: Send, status: int, why: str, *more: Header) -> None:
    """Answer with an error, before any work is done.

    Args:
        send: As in ASGI.
        status: The status.
        why: In one sentence.
        *more: Headers.
    """
    headers = [_JSON, *more, (b"cache-control", b"no-store")]
    body = msgspec.json.encode({"detail": why})
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


@functools.cache
def _rest(cache_control: str, pace: int | None) -> tuple[Header, ...]:
    cached = (b"cache-control", cache_control.encode())
    return (cached,) if pace is None else (cached, (b"retry-after", b"%d" % pace))


def response(
    body: bytes, etag: str, cache_control: str, pace: int | None = None, **more: Any
) -> StatusResponse:
    """Make a reply.

    Args:
        body: The JSON.
        etag: Its validator, quotes included.
        cache_control: Who may keep it for how long.
        pace: Seconds after which it is worth asking again; None: it isn't.
        **more: What else `StatusResponse` has.
    """
    return StatusResponse((b"etag", etag.encode()), _rest(cache_control, pace), body, **more)


def response_for(
    job_id: UUID,
    found: StoredRecord,
    lease: float,
    asked: float,
    change_interval: float = 0.0,
    verification: Verification = _UNPROVEN,
    longest: float = MAX_CACHED_SECONDS,
) -> StatusResponse:
    """The reply about one job.

    Args:
        job_id: The job.
        found: What stands in Redis.
        lease: Seconds for which a silent worker is believed.
        asked: When Redis was asked, on the monotonic clock.
        change_interval: Seconds between two changes of the job, as far as they were seen.
        verification: Until when it is sure that a change of it would have been told.
        longest: Seconds for which it is served at most.
    """
    told = answer(job_id, found, lease, change_interval)
    age = (found.now_ms - found.record.updated) / 1000 if found.record else math.inf
    return response(
        told.body,
        told.etag,
        told.cache_control,
        told.pace,
        state=told.state,
        valid_until=asked + min(told.good_for, longest),
        changed_at=asked - age,
        change_interval=change_interval,
        verification=verification,
    )
