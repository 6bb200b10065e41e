"""How the routes answer: at once, after a wait, or with a stream of events."""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec
from litestar.types import ASGIApp, Receive, Scope, Send

from jobstatus_service.http.api_keys import ApiKey
from jobstatus_service.http.errors import unauthorized
from jobstatus_service.lookup.response import END_OF_BODY, StatusResponse
from jobstatus_service.lookup.statuses import Statuses
from jobstatus_service.lookup.watchers import Watcher
from jobstatus_service.metrics.metrics import Metrics, Outcome

KEEPALIVE_SECONDS: Final = 15.0
"""Seconds of silence after which a stream says that it is still there."""

RECONNECT_DELAY_MS: Final = (1_000, 8_000)
"""ms within which a stream that is ended early asks its client to come back."""

_STREAM: Final[Any] = {
    "type": "http.response.start",
    "status": 200,
    "headers": [
        (b"content-type", b"text/event-stream"),
        (b"cache-control", b"no-store"),
        (b"x-accel-buffering", b"no"),
    ],
}
_NO_CONTENT: Final[Any] = {"type": "http.response.start", "status": 204, "headers": []}


class Job(msgspec.Struct, frozen=True):
    """Which job is asked for, and by whom.

    Attributes:
        key: Where it stands in Redis.
        owner: Whose API key the request has.
    """

    key: str
    owner: ApiKey


def respond(
    response: StatusResponse,
    outcome: Outcome,
    if_none_match: bytes | None,
    *more: tuple[bytes, bytes],
) -> ASGIApp:
    """Answer with a reply, or with a 304.

    Args:
        response: What to say.
        outcome: Where the reply came from.
        if_none_match: The header, if the request has it.
        *more: Headers beside the reply's own.
    """

    async def told(scope: Scope, receive: Receive, send: Send) -> None:
        del receive
        counted = await response.send(send, if_none_match, outcome, *more)
        scope["state"]["outcome"] = counted

    return told


async def hold(
    statuses: Statuses,
    job: Job,
    response: StatusResponse,
    receive: Receive,
    seconds: float,
    is_worth: Callable[[StatusResponse], bool],
) -> StatusResponse:
    """The reply to a long poll: the first that is worth it, or what stands when the time is up.

    Args:
        statuses: Where replies come from.
        job: Which job, and who asks.
        response: What stands now.
        receive: As in ASGI; a client that goes away is forgotten at once.
        seconds: How long to wait at most.
        is_worth: Whether a reply need not wait any longer.

    Raises:
        UnavailableError: Redis can't answer in time.
        TooManyError: there are too many waits.
        NotAuthorizedException: the API key was revoked meanwhile.
    """
    if is_worth(response):
        return response
    deadline = time.monotonic() + seconds
    with (
        statuses.watchers.admit(job.owner, "wait"),
        statuses.watch(job.key, job.owner, response, receive) as watch,
    ):
        while not is_worth(watch.topic.response):
            left = deadline - time.monotonic()
            if left <= 0 or watch.is_dismissed:
                break
            await watch.sleep(left)
        else:
            statuses.metrics.notification_delays.observe(time.monotonic() - watch.topic.told)
            return watch.topic.response
        if watch.is_gone:
            return watch.topic.response
        if watch.is_revoked:
            raise unauthorized()
    return await statuses.get(job.key)


def stream(statuses: Statuses, job: Job, response: StatusResponse) -> ASGIApp:
    """A stream of events: what stands now, then each change, until the job is over.

    A client that reads slowly gets the newest status when it comes round to it.

    Args:
        statuses: Where replies come from.
        job: Which job, and who asks.
        response: What stands now.
    """

    async def told(scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        with (
            statuses.watchers.admit(job.owner, "stream"),
            statuses.watch(job.key, job.owner, response, receive) as watch,
            contextlib.suppress(TimeoutError),
        ):  # it reads nothing: it is dropped
            await send(_STREAM)
            await _tell(watch, _impatient(send, statuses.client_timeout), statuses.metrics)
            await send(END_OF_BODY)

    return told


async def _tell(watch: Watcher, send: Send, metrics: Metrics) -> None:
    topic, etag = watch.topic, b""
    spoke = time.monotonic()
    while not (watch.is_gone or watch.is_revoked):
        if topic.response.etag != etag:
            if etag:
                metrics.notification_delays.observe(time.monotonic() - topic.told)
            etag = topic.response.etag
            is_final = topic.response.is_final
            await send(_part(topic.event))
            if is_final:
                return
            spoke = time.monotonic()
        elif watch.is_dismissed:
            await send(_part(b"retry: %d\n\n" % random.randint(*RECONNECT_DELAY_MS)))
            return
        elif (left := spoke + KEEPALIVE_SECONDS - time.monotonic()) > 0:
            await watch.sleep(left)
        else:
            await send(_part(b":\n\n"))
            spoke = time.monotonic()


def _impatient(send: Send, seconds: float) -> Send:
    """The same, but raises `TimeoutError` when a client leaves unread for so long what it gets."""

    async def within(message: Any) -> None:
        async with asyncio.timeout(seconds):
            await send(message)

    return within


def _part(body: bytes) -> Any:
    return {"type": "http.response.body", "body": body, "more_body": True}


async def no_content(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer 204, after which an `EventSource` doesn't come back."""
    del scope, receive
    await send(_NO_CONTENT)
    await send(END_OF_BODY)
