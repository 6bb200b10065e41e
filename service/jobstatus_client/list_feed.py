"""A list of jobs that is followed."""

import math
from collections.abc import Iterable

from jobstatus.details import JobDetails
from jobstatus.status import JobState
from jobstatus_client.channel import ANSWER_SECONDS, GATHER_SECONDS
from jobstatus_client.core import Core, list_query
from jobstatus_client.errors import BufferedStreamError, RequestError
from jobstatus_client.event_stream import EventStream
from jobstatus_client.exchange import Authorize, Flow, InterruptedFlow, Send, Sleep, decoder
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
        self._stream: EventStream | None = None
        self._opened_at = self._next_at = -math.inf

    def next(self) -> Flow[list[ListEvent]]:
        """Return the next events; there may be none.

        Raises:
            RequestError: The credentials or the filters are not accepted.
        """
        self._core.check_open()
        try:
            if self._stream is None:
                now = self._core.clock()
                times = (self._next_at, self._core.not_before, self._opened_at + GATHER_SECONDS)
                yield Sleep(max(0.0, max(times) - now))
                yield Authorize()  # this may take longer than a stream may take to begin
                self._opened_at = self._core.clock()
                if self._core.fallback.kind is not None:
                    return (yield from self._poll())
                self._stream = EventStream(self._core)
                yield from self._stream.open(f"/api/jobs/events?{self._query}")
            return self._events_of((yield from self._stream.read(math.inf)))
        except InterruptedFlow:  # the client was closed
            self._core.check_open()
            return []
        except Exception as error:
            if isinstance(error, RequestError):
                if error.is_refusal:
                    raise
                if self._stream is None:
                    self._core.fallback.on_failed_poll()
                else:
                    self._core.fallback.on_refused_stream()
            elif isinstance(error, BufferedStreamError):
                self._core.fallback.on_buffered_stream()
            return self._lost(error)

    def _events_of(self, events: list[tuple[str, bytes]]) -> list[ListEvent]:
        found = []
        for kind, data in events:
            if kind == "retry":
                seconds = self._core.fallback.on_retry(int(data) / 1000)
                self._next_at, self._stream = self._core.clock() + seconds, None
            elif kind == "list":
                found.append(ListEvent("list", jobs=_decode_list(data).jobs))
            elif kind == "status":
                found.append(ListEvent("status", jobs=(_decode_details(data),)))
            elif kind == "counts":
                found.append(ListEvent("counts", counts=_decode_counts(data)))
        return found

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
        if self._stream is not None and self._stream.has_worked:
            self._backoff.reset()
        self._stream = None
        self._next_at = self._core.clock() + self._backoff.next(problem)
        return [ListEvent("lost", problem=problem)]
