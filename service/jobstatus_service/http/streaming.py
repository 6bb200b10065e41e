"""The bodies of the routes' responses: at once, after a long poll, or as a stream of events."""

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
from jobstatus_service.http.request_state import request_state
from jobstatus_service.lookup.response import END_OF_BODY, Header, StatusResponse
from jobstatus_service.lookup.statuses import Statuses
from jobstatus_service.lookup.watchers import Watcher
from jobstatus_service.metrics.metrics import Metrics, Outcome

KEEPALIVE_SECONDS: Final = 15.0
"""A stream without an event for so long sends a comment, which keeps proxies from closing it."""

RECONNECT_DELAY_MS: Final = (1_000, 8_000)
"""Range of the random delay with which a stream that ends early asks its client to reconnect, so
that not all clients reconnect at once."""

_STREAM_START: Final[Any] = {
    "type": "http.response.start",
    "status": 200,
    "headers": [
        (b"content-type", b"text/event-stream"),
        (b"cache-control", b"no-store"),
        (b"x-accel-buffering", b"no"),
    ],
}
_NO_CONTENT_START: Final[Any] = {"type": "http.response.start", "status": 204, "headers": []}


class RequestedJob(msgspec.Struct, frozen=True):
    """The job that a request asks for.

    Attributes:
        key: The key of the job's record.
        client: The authenticated client.
    """

    key: str
    client: ApiKey


def respond(
    response: StatusResponse, outcome: Outcome, if_none_match: bytes | None, *extra_headers: Header
) -> ASGIApp:
    """Return the ASGI application that sends a response, or a 304.

    Args:
        response: What to send.
        outcome: Where the response came from.
        if_none_match: The request's header of that name, if it has one.
        *extra_headers: Headers to send beside the response's own.
    """

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        del receive
        counted = await response.send(send, if_none_match, outcome, *extra_headers)
        request_state(scope).outcome = counted

    return app


async def respond_no_content(scope: Scope, receive: Receive, send: Send) -> None:
    """Send a 204, after which an `EventSource` doesn't reconnect."""
    del scope, receive
    await send(_NO_CONTENT_START)
    await send(END_OF_BODY)


async def long_poll(
    statuses: Statuses,
    job: RequestedJob,
    current: StatusResponse,
    receive: Receive,
    seconds: float,
    is_wanted: Callable[[StatusResponse], bool],
) -> StatusResponse:
    """Wait for the first response that is wanted; return the current one after the timeout.

    Args:
        statuses: Where responses come from.
        job: The job.
        current: The current response.
        receive: As in ASGI; the wait ends when the client disconnects.
        seconds: How long to wait at most.
        is_wanted: Whether a response ends the wait.

    Raises:
        UnavailableError: Redis doesn't answer in time.
        TooManyWatchersError: Too many long polls and streams are open.
        NotAuthorizedException: The API key was revoked during the wait.
    """
    if is_wanted(current):
        return current
    deadline = time.monotonic() + seconds
    with (
        statuses.watchers.admit(job.client, "long_poll"),
        statuses.watch(job.key, job.client, current, receive) as watcher,
    ):
        while not is_wanted(watcher.job.response):
            left = deadline - time.monotonic()
            if left <= 0 or watcher.must_end:
                break
            await watcher.wait(left)
        else:
            _observe_delay(watcher, statuses.metrics)
            return watcher.job.response
        if watcher.is_disconnected:
            return watcher.job.response
        if watcher.is_revoked:
            raise unauthorized()
    response, _ = await statuses.get(job.key)
    return response


def stream(statuses: Statuses, job: RequestedJob, current: StatusResponse) -> ASGIApp:
    """Return the ASGI application that sends a job's status, then each change until a final state.

    A client that reads slowly skips statuses: the next one that it gets is always the newest.

    Args:
        statuses: Where responses come from.
        job: The job.
        current: The current response.
    """

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        with (
            statuses.watchers.admit(job.client, "stream"),
            statuses.watch(job.key, job.client, current, receive) as watcher,
            contextlib.suppress(TimeoutError),  # of a client that reads nothing: drop it
        ):
            await send(_STREAM_START)
            send_in_time = _with_timeout(send, statuses.client_timeout)
            await _send_events(watcher, send_in_time, statuses.metrics)
            await send(END_OF_BODY)

    return app


async def _send_events(watcher: Watcher, send: Send, metrics: Metrics) -> None:
    job, sent_etag = watcher.job, b""
    sent_at = time.monotonic()
    while not (watcher.is_disconnected or watcher.is_revoked):
        response = job.response
        if response.etag != sent_etag:
            if sent_etag:
                _observe_delay(watcher, metrics)
            sent_etag = response.etag
            await send(_part(job.event))
            if response.is_final:
                return
            sent_at = time.monotonic()
        elif watcher.must_end:
            await send(_part(b"retry: %d\n\n" % random.randint(*RECONNECT_DELAY_MS)))
            return
        elif (left := sent_at + KEEPALIVE_SECONDS - time.monotonic()) > 0:
            await watcher.wait(left)
        else:
            await send(_part(b":\n\n"))
            sent_at = time.monotonic()


def _observe_delay(watcher: Watcher, metrics: Metrics) -> None:
    """Count how long it took from noticing a change to sending it to this watcher."""
    metrics.notification_delays.observe(time.monotonic() - watcher.job.change_noticed_at)


def _with_timeout(send: Send, seconds: float) -> Send:
    """Wrap `send` to raise `TimeoutError` if the client leaves a part unread for so long."""

    async def send_in_time(message: Any) -> None:
        async with asyncio.timeout(seconds):
            await send(message)

    return send_in_time


def _part(body: bytes) -> Any:
    return {"type": "http.response.body", "body": body, "more_body": True}
