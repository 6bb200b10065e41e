"""The fast path: plain reads of one job are answered before Litestar sees them.

It serves only responses of `Statuses`, as the route would have served them to the same client. It
leaves every request with an unusual header, and everything that goes wrong, to the route.
"""

import functools
import re
import time
from typing import Any, Final

from litestar import Litestar

from jobstatus.keys import record_key
from jobstatus.logs import LOG_CONTEXT
from jobstatus_service.http.api_keys import MAX_REMEMBERED_HEADER_BYTES, ApiKeys
from jobstatus_service.http.client import JOB_PATH, Client
from jobstatus_service.http.cors import Cors, with_headers
from jobstatus_service.http.drain import closing_while_draining
from jobstatus_service.http.errors import RATE_LIMITED_MESSAGE, send_error
from jobstatus_service.http.head_requests import respond_to_head
from jobstatus_service.http.rate_limit import RateLimit
from jobstatus_service.http.request_id import request_id
from jobstatus_service.http.request_size import size_error
from jobstatus_service.http.request_state import request_state
from jobstatus_service.lookup.response import END_OF_BODY, Header, StatusResponse
from jobstatus_service.lookup.statuses import Statuses
from jobstatus_service.metrics.metrics import Metrics, Outcome
from jobstatus_service.storage.link import UnavailableError

_JOB_ID: Final = slice(len(JOB_PATH), None)
_is_job_id: Final = re.compile("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch

_MAX_HEADERS: Final = 40

_NAME_LENGTH: Final = len("authorization")  # and that of `if-none-match`

_SHORT_NAME_LENGTH: Final = len("origin")  # and that of `prefer`

_MAX_IF_NONE_MATCH_BYTES: Final = 1_000

_MAX_OTHER_HEADER_BYTES: Final = 350
"""Bytes of any other header, name included: 40 headers of 350 bytes, of which one may have 6,013
and one 1,013, are less than `request_size.MAX_HEADERS_BYTES`, so that the sum of a plain read needs
no check."""


class FastPathApp(Litestar):
    """A Litestar application with a fast path for `GET /api/jobs/{job_id}`.

    Every request passes through it. So reads are counted here, and a client that exceeds its rate
    is rejected here, before anything else is done for it.

    Attributes:
        api_keys: The valid API keys.
        statuses: The responses about all jobs.
        metrics: Where reads are counted.
        rate_limit: The limit of each client; None for no limit.
        cors: The origins whose pages may read responses; None for none.
    """

    api_keys: ApiKeys
    statuses: Statuses
    metrics: Metrics
    rate_limit: RateLimit | None
    cors: Cors | None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a plain read, and have Litestar answer every other request. A hot path."""
        if scope["type"] == "http" and scope["method"] == "HEAD":
            # The class's own method: a subclass's would observe the request a second time.
            app: Any = functools.partial(FastPathApp.__call__, self)
            await respond_to_head(app, scope, receive, send)
            return
        began_at = time.monotonic()
        plain = self._plain(scope)
        if plain is None or self.statuses.watchers.is_draining:
            send = closing_while_draining(send, lambda: self.statuses.watchers.is_draining)
        if plain is not None:
            key, if_none_match, client, origin = plain
            cors = self.cors
            extra_headers = () if cors is None else cors.headers.get(origin, cors.default)
            if self.rate_limit is not None and (wait := self.rate_limit.take(client, began_at)):
                self.metrics.rate_limited += 1
                retry_after = (b"retry-after", b"%d" % wait)
                await send_error(send, 429, RATE_LIMITED_MESSAGE, retry_after, *extra_headers)
                return
            outcome: Outcome = "hit"
            response = self.statuses.cached(key, began_at)
            if response is None and _is_job_id(scope["path"][_JOB_ID]):
                outcome = "miss"
                response = await self._read(key, scope)
            if response is not None:
                if client.record_keys is not None and not response.is_public:
                    response = response.in_view(client.view)
                outcome = await response.send(send, if_none_match, outcome, extra_headers)
                self.metrics.count_read(outcome, time.monotonic() - began_at)
                return
            request_state(scope).is_rate_checked = True
        await self._respond_by_route(scope, receive, send, began_at)

    async def _respond_by_route(self, scope: Any, receive: Any, send: Any, began_at: float) -> None:
        """Have Litestar answer a request, unless the request is too large."""
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        if self.cors is not None:
            preflight_headers = self.cors.preflight_headers(scope)
            if preflight_headers is not None:
                await _respond_to_preflight(send, preflight_headers)
                return
            send = with_headers(send, self.cors.headers_of(scope))
        if error := size_error(scope):
            await send_error(send, *error)
            return
        state = request_state(scope)
        LOG_CONTEXT.set(state.log_fields or {"request_id": request_id(scope)})
        await super().__call__(scope, receive, send)
        if state.outcome is not None:
            seconds = None if state.has_waited else time.monotonic() - began_at
            self.metrics.count_read(state.outcome, seconds)

    async def _read(self, key: str, scope: Any) -> StatusResponse | None:
        """Return the response about a job that is not cached; None if the route must report why."""
        try:
            response: StatusResponse = await self.statuses.reader.read(key)
        except UnavailableError as error:
            request_state(scope).read_error = error
            return None
        return response

    def _plain(  # noqa: C901, PLR0911, PLR0912 - one function, since calls cost time here
        self, scope: Any
    ) -> tuple[str, bytes | None, Client, bytes | None] | None:
        """Return what a plain read asks for; None if the request is not a plain read. A hot path.

        Returns:
            The key of the job's record, the header `If-None-Match`, the client, who may see the
            job, and the header `Origin`. The last part of the key has not been checked to be a job
            id.
        """
        if scope["type"] != "http" or scope["method"] != "GET" or scope["query_string"]:
            return None
        path = scope["path"]
        if not path.startswith(JOB_PATH):
            return None
        authorization = if_none_match = origin = None
        headers = scope["headers"]
        if len(headers) > _MAX_HEADERS:
            return None
        for name, value in headers:
            length = len(name)
            if length == _NAME_LENGTH and name == b"authorization":
                if authorization is not None or len(value) > MAX_REMEMBERED_HEADER_BYTES:
                    return None
                authorization = value
            elif length == _NAME_LENGTH and name == b"if-none-match":
                if if_none_match is not None or len(value) > _MAX_IF_NONE_MATCH_BYTES:
                    return None
                if_none_match = value
            elif length + len(value) > _MAX_OTHER_HEADER_BYTES:
                return None
            elif length == _SHORT_NAME_LENGTH:
                if name == b"prefer":
                    return None
                if name == b"origin" and origin is None:
                    origin = value
        api_keys = self.api_keys
        client = api_keys.anonymous or api_keys.recent_headers.get(authorization)
        if client is None:
            return None
        if client.record_keys is not None:
            named = client.record_keys.get(path)
            if named is None or time.time() >= client.valid_until:
                return None
            return named, if_none_match, client, origin
        job_id = path[_JOB_ID]
        if self.statuses.is_cluster:
            if not _is_job_id(job_id):
                return None
            key = record_key(client.prefix, job_id, is_cluster=True)
            return key, if_none_match, client, origin
        return client.key_start + job_id, if_none_match, client, origin


async def _respond_to_preflight(send: Any, headers: tuple[Header, ...]) -> None:
    if not headers:
        await send_error(send, 403, "The origin is not one of JOBSTATUS_CORS_ORIGINS.")
        return
    await send({"type": "http.response.start", "status": 204, "headers": list(headers)})
    await send(END_OF_BODY)
