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
from jobstatus_service.storage.link import Proof
from jobstatus_service.storage.stored_record import Found

Header = tuple[bytes, bytes]

_UNPROVEN: Final = Proof()
"""Of what nobody tells when it changes."""

NO_BODY: Final[HTTPResponseBodyEvent] = {
    "type": "http.response.body",
    "body": b"",
    "more_body": False,
}

_JSON: Final[Header] = (b"content-type", b"application/json")  # the server knows the length

LONGEST: Final = 60.0
"""Seconds after which Redis is asked again, though it has said nothing: not even a fault in what it
says can be believed for ever."""

_WEIGHT: Final = 550
"""Bytes that a reply takes beside its body: itself, its validator, its place in the cache."""


class Reply(msgspec.Struct, frozen=True, gc=False):
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
        interval: Seconds between two changes of the job, as far as they were seen.
        proof: Until when it is sure that a change of it would have been told.
    """

    tag: Header
    rest: tuple[Header, ...]
    body: bytes
    state: JobState | None = None
    until: float = -math.inf
    changed: float = -math.inf
    interval: float = 0.0
    proof: Proof = _UNPROVEN

    @property
    def etag(self) -> bytes:
        """The validator."""
        return self.tag[1]

    @property
    def is_over(self) -> bool:
        """Whether the job is."""
        return self.state is not None and self.state.is_over

    @property
    def size(self) -> int:
        """About how many bytes it takes in memory."""
        return len(self.body) + _WEIGHT

    def is_known_to(self, if_none_match: bytes | None) -> bool:
        """Whether the header `If-None-Match` names it."""
        if if_none_match is None:
            return False
        etag = self.tag[1]
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
        if self.is_known_to(if_none_match):
            headers = [self.tag, *self.rest, *more]
            await send({"type": "http.response.start", "status": 304, "headers": headers})
            await send(NO_BODY)
            return "not_modified"
        headers = [_JSON, self.tag, *self.rest, *more]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": False})
        return "unknown" if self.state is JobState.UNKNOWN else outcome


TOO_OFTEN: Final = "this API key asks too often; come back when Retry-After says"


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


def reply(
    body: bytes, etag: str, cache_control: str, pace: int | None = None, **more: Any
) -> Reply:
    """Make a reply.

    Args:
        body: The JSON.
        etag: Its validator, quotes included.
        cache_control: Who may keep it for how long.
        pace: Seconds after which it is worth asking again; None: it isn't.
        **more: What else `Reply` has.
    """
    return Reply((b"etag", etag.encode()), _rest(cache_control, pace), body, **more)


def reply_about(
    job_id: UUID,
    found: Found,
    lease: float,
    asked: float,
    interval: float = 0.0,
    proof: Proof = _UNPROVEN,
    longest: float = LONGEST,
) -> Reply:
    """The reply about one job.

    Args:
        job_id: The job.
        found: What stands in Redis.
        lease: Seconds for which a silent worker is believed.
        asked: When Redis was asked, on the monotonic clock.
        interval: Seconds between two changes of the job, as far as they were seen.
        proof: Until when it is sure that a change of it would have been told.
        longest: Seconds for which it is served at most.
    """
    told = answer(job_id, found, lease, interval)
    age = (found.now - found.record.updated) / 1000 if found.record else math.inf
    return reply(
        told.body,
        told.etag,
        told.cache_control,
        told.pace,
        state=told.state,
        until=asked + min(told.good_for, longest),
        changed=asked - age,
        interval=interval,
        proof=proof,
    )
