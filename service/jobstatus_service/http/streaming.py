"""The bodies of the routes' responses: at once, after a long poll, or as a stream of events."""

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from litestar.types import ASGIApp, Receive, Scope, Send

from jobstatus_service.http.client import Client
from jobstatus_service.http.errors import unauthorized
from jobstatus_service.http.request_state import request_state
from jobstatus_service.lookup.cursor import ListFilter
from jobstatus_service.lookup.list_feed import ListFeeds
from jobstatus_service.lookup.response import END_OF_BODY, Header, StatusResponse, bulk_response
from jobstatus_service.lookup.statuses import Statuses
from jobstatus_service.lookup.view import View
from jobstatus_service.lookup.watchers import WatchedJob, Watcher
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
        counted = await response.send(send, if_none_match, outcome, extra_headers)
        request_state(scope).outcome = counted

    return app


async def respond_no_content(scope: Scope, receive: Receive, send: Send) -> None:
    """Send a 204, after which an `EventSource` doesn't reconnect."""
    del scope, receive
    await send(_NO_CONTENT_START)
    await send(END_OF_BODY)


async def long_poll(
    statuses: Statuses,
    client: Client,
    current: Mapping[str, StatusResponse],
    receive: Receive,
    seconds: float,
    is_wanted: Callable[[Sequence[StatusResponse]], bool],
) -> list[StatusResponse]:
    """Wait for the first responses that are wanted; return the current ones after the timeout.

    Args:
        statuses: Where responses come from.
        client: The authenticated client.
        current: The current response about each job, by the key of its record.
        receive: As in ASGI; the wait ends when the client disconnects.
        seconds: How long to wait at most.
        is_wanted: Whether responses, in the order of the jobs, end the wait.

    Raises:
        UnavailableError: Redis doesn't answer in time.
        TooManyWatchersError: Too many long polls and streams are open.
        NotAuthorizedException: The API key was revoked, or the job token expired, meanwhile.
    """
    responses = list(current.values())
    if is_wanted(responses):
        return responses
    deadline = time.monotonic() + seconds
    with (
        statuses.watchers.admit(client, "long_poll"),
        statuses.watchers.watcher(client, receive) as watcher,
        statuses.watch(watcher, current) as jobs,
    ):
        while not is_wanted(responses := [job.response for job in jobs]):
            left = deadline - time.monotonic()
            if left <= 0 or watcher.must_end:
                break
            await watcher.wait(left)
        else:
            _observe_delay(max(job.change_noticed_at for job in jobs), statuses.metrics)
            return responses
        if watcher.is_disconnected:
            return responses
        if watcher.is_revoked:
            raise unauthorized()
    found = await asyncio.gather(*map(statuses.get, current))
    return [response for response, _ in found]


def stream(
    statuses: Statuses, client: Client, current: Mapping[str, StatusResponse], view: View
) -> ASGIApp:
    """Return the ASGI application that sends the jobs' statuses, then each change of them.

    It ends when all jobs are in a final state. A client that reads slowly skips statuses: the next
    one of a job that it gets is always the newest.

    Args:
        statuses: Where responses come from.
        client: The authenticated client.
        current: The current response about each job, by the key of its record.
        view: What is sent of each.
    """
    has_many = len(current) > 1

    async def send_events(watcher: Watcher, receive: Receive, send: Send) -> None:
        del receive
        with statuses.watch(watcher, current) as jobs:
            if has_many:
                await _send_events_of_many(watcher, jobs, view, send, statuses.metrics)
            else:
                await _send_events(watcher, jobs[0], view, send, statuses.metrics)

    return _event_stream(statuses, client, send_events, has_many=has_many)


def stream_list(
    statuses: Statuses, feeds: ListFeeds, client: Client, wanted: ListFilter
) -> ASGIApp:
    """Return the ASGI application that sends the first page of a list, then its changes.

    Args:
        statuses: Where responses come from.
        feeds: The lists that are watched.
        client: The authenticated client.
        wanted: Which jobs the list contains.
    """

    async def send_events(watcher: Watcher, receive: Receive, send: Send) -> None:
        del receive
        with feeds.watch(wanted, watcher) as feed:
            await feed.start()
            version, sent_at = 0, time.monotonic()
            while not (watcher.is_disconnected or watcher.is_revoked):
                if version != feed.version:
                    piece, version = feed.since(version), feed.version
                    await send(_part(piece))
                    sent_at = time.monotonic()
                else:
                    sent_at = await _wait_or_keep_alive(watcher, send, sent_at)
                if watcher.is_draining:
                    await send(_part(_reconnect_later()))
                    return

    return _event_stream(statuses, client, send_events)


def _event_stream(
    statuses: Statuses,
    client: Client,
    send_events: Callable[[Watcher, Receive, Send], Awaitable[None]],
    *,
    has_many: bool = False,
) -> ASGIApp:
    """Return the ASGI application of a stream whose events `send_events` sends."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        with (
            statuses.watchers.admit(client, "stream"),
            statuses.watchers.watcher(client, receive, has_many=has_many) as watcher,
            contextlib.suppress(TimeoutError),  # of a client that reads nothing: drop it
        ):
            start = _StreamStart(send, statuses.client_timeout)
            await send_events(watcher, receive, start.send)
            if watcher.is_revoked and not start.has_started:
                raise unauthorized()
            await start.send(END_OF_BODY)

    return app


class _StreamStart:
    """Sends the headers of a stream with its first part, which an error may prevent.

    Attributes:
        has_started: Whether they were sent.
    """

    def __init__(self, send: Send, timeout: float) -> None:
        self._send = send
        self._send_in_time = _with_timeout(send, timeout)
        self.has_started = False

    async def send(self, message: Any) -> None:
        if not self.has_started:
            self.has_started = True
            await self._send(_STREAM_START)
        await self._send_in_time(message)


async def _send_events(
    watcher: Watcher, job: WatchedJob, view: View, send: Send, metrics: Metrics
) -> None:
    sent_etag = b""
    sent_at = time.monotonic()
    while not (watcher.is_disconnected or watcher.is_revoked):
        response = job.response
        if response.etag != sent_etag:
            if sent_etag:
                _observe_delay(job.change_noticed_at, metrics)
            sent_etag = response.etag
            await send(_part(job.event(view)))
            if response.is_final:
                return
            sent_at = time.monotonic()
        elif watcher.must_end:
            await send(_part(_reconnect_later()))
            return
        else:
            sent_at = await _wait_or_keep_alive(watcher, send, sent_at)


async def _send_events_of_many(
    watcher: Watcher, jobs: Sequence[WatchedJob], view: View, send: Send, metrics: Metrics
) -> None:
    sent: dict[WatchedJob, bytes] = {}
    changed = jobs
    sent_at = time.monotonic()
    while not (watcher.is_disconnected or watcher.is_revoked):
        changed = [job for job in changed if job.response.etag != sent.get(job)]
        if changed:
            for job in changed:
                if job in sent:
                    _observe_delay(job.change_noticed_at, metrics)
                sent[job] = job.response.etag
            await send(_part(b"".join(job.event(view) for job in changed)))
            sent_at = time.monotonic()
            if all(job.response.is_final and job.response.etag == sent[job] for job in jobs):
                # This id tells a client that connects again to have seen all final states.
                last = bulk_response(job.response.in_view(view) for job in jobs)
                await send(_part(b"id: %b\n\n" % last.etag))
                return
        elif watcher.must_end:
            await send(_part(_reconnect_later()))
            return
        else:
            sent_at = await _wait_or_keep_alive(watcher, send, sent_at)
        changed = watcher.take_changed()


async def _wait_or_keep_alive(watcher: Watcher, send: Send, sent_at: float) -> float:
    """Wait for a change; send a comment if there was nothing to send for long.

    Returns:
        When something was last sent, on the monotonic clock.
    """
    left = sent_at + KEEPALIVE_SECONDS - time.monotonic()
    if left > 0:
        await watcher.wait(left)
        return sent_at
    await send(_part(b":\n\n"))
    return time.monotonic()


def _reconnect_later() -> bytes:
    """Return the field that asks a client to reconnect after a random time."""
    return b"retry: %d\n\n" % random.randint(*RECONNECT_DELAY_MS)


def _observe_delay(noticed_at: float, metrics: Metrics) -> None:
    """Count how long it took from noticing a change to sending it to a watcher."""
    metrics.notification_delays.observe(time.monotonic() - noticed_at)


def _with_timeout(send: Send, seconds: float) -> Send:
    """Wrap `send` to raise `TimeoutError` if the client leaves a part unread for so long."""

    async def send_in_time(message: Any) -> None:
        async with asyncio.timeout(seconds):
            await send(message)

    return send_in_time


def _part(body: bytes) -> Any:
    return {"type": "http.response.body", "body": body, "more_body": True}
