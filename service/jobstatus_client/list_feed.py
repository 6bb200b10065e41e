"""A list of jobs that is followed."""

import math
from collections.abc import Iterable

from jobstatus.details import JobDetails
from jobstatus.status import JobState
from jobstatus_client.channel import (
    ANSWER_SECONDS,
    FIRST_EVENT_SECONDS,
    GATHER_SECONDS,
    SHORT_STREAM_SECONDS,
    SILENCE_SECONDS,
)
from jobstatus_client.core import Core, list_query
from jobstatus_client.errors import (
    BufferedStreamError,
    RequestError,
    SilenceError,
    UnavailableError,
)
from jobstatus_client.exchange import (
    Authorize,
    EventParser,
    Flow,
    InterruptedFlow,
    Open,
    Read,
    Send,
    Sleep,
    decoder,
)
from jobstatus_client.models import JobCounts, JobList, ListEvent
from jobstatus_client.pacing import Backoff

_decode_details = decoder(JobDetails)
_decode_list = decoder(JobList)
_decode_counts = decoder(JobCounts)


class ListFeed:
    """Follows the newest 50 jobs of a list, by a stream or by polls."""

    def __init__(
        self, core: Core, states: str | Iterable[JobState | str], name: str | None
    ) -> None:
        self._core = core
        self._query = list_query(states, name)
        self._backoff = Backoff(core.clock, core.random)
        self._parser: EventParser | None = None  # of the open stream
        self._opened_at = self._next_at = -math.inf
        self._has_begun = False

    def next(self) -> Flow[list[ListEvent]]:
        """Return the next events; there may be none.

        Raises:
            RequestError: The credentials or the filters are not accepted.
        """
        self._core.check_open()
        try:
            if self._parser is None:
                now = self._core.clock()
                times = (self._next_at, self._core.not_before, self._opened_at + GATHER_SECONDS)
                yield Sleep(max(0.0, max(times) - now))
                yield Authorize()
                self._opened_at, self._has_begun = self._core.clock(), False
                if self._core.fallback.kind is not None:
                    return (yield from self._poll())
                yield from self._open()
            return (yield from self._read())
        except InterruptedFlow:  # the client was closed
            self._core.check_open()
            return []
        except RequestError as error:
            if error.is_refusal:
                raise
            self._core.fallback.on_refused_stream()
            return self._lost(error)
        except SilenceError as error:
            if not self._has_begun:
                self._core.fallback.on_buffered_stream()
            return self._lost(
                BufferedStreamError("A proxy holds back the stream.")
                if not self._has_begun
                else error
            )
        except Exception as error:
            return self._lost(error)

    def _open(self) -> Flow[None]:
        headers = {"Accept": "text/event-stream", "Accept-Encoding": "identity"}
        path = f"/api/jobs/events?{self._query}"
        yield from self._core.request(Open, path, headers, FIRST_EVENT_SECONDS)
        self._parser = EventParser()

    def _read(self) -> Flow[list[ListEvent]]:
        now = self._core.clock()
        chunk = yield Read(
            SILENCE_SECONDS
            if self._has_begun
            else max(0.0, self._opened_at + FIRST_EVENT_SECONDS - now)
        )
        if not chunk or self._parser is None:
            raise UnavailableError("The stream has ended.")
        events = []
        for kind, data in self._parser.feed(chunk):
            self._has_begun = True
            if kind == "retry":
                seconds = self._core.fallback.on_retry(int(data) / 1000)
                self._next_at, self._parser = now + seconds, None
            elif kind == "list":
                events.append(ListEvent("list", jobs=_decode_list(data).jobs))
            elif kind == "status":
                events.append(ListEvent("status", jobs=(_decode_details(data),)))
            elif kind == "counts":
                events.append(ListEvent("counts", counts=_decode_counts(data)))
        return events

    def _poll(self) -> Flow[list[ListEvent]]:
        list_path = f"/api/jobs?{self._query}"
        page = yield from self._core.request(Send, list_path, {}, ANSWER_SECONDS)
        counts = yield from self._core.request(Send, "/api/jobs/counts", {}, ANSWER_SECONDS)
        self._next_at = self._core.clock() + self._core.fallback.poll_interval(0)
        self._backoff.reset()
        return [
            ListEvent("list", jobs=_decode_list(page.body).jobs),
            ListEvent("counts", counts=_decode_counts(counts.body)),
        ]

    def _lost(self, problem: Exception) -> list[ListEvent]:
        now = self._core.clock()
        if self._has_begun and now - self._opened_at > SHORT_STREAM_SECONDS:
            self._backoff.reset()
        self._parser = None
        self._next_at = now + self._backoff.next(problem)
        return [ListEvent("lost", problem=problem)]
