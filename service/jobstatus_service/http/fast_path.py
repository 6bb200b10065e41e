"""The fast lane: plain reads are answered before Litestar looks at them.

It serves only replies of the read path, to whom the route would have let in, and leaves every
request with anything particular about it, and everything that goes wrong, to the route.
"""

import re
import time
from typing import Any, Final
from uuid import uuid4

from litestar import Litestar

from jobstatus.logs import LOG_CONTEXT
from jobstatus_service.http.api_keys import MAX_REMEMBERED_HEADER_BYTES, ApiKeys
from jobstatus_service.http.drain import closing
from jobstatus_service.http.head import respond_to_head
from jobstatus_service.http.rate_limit import RateLimit
from jobstatus_service.lookup.response import RATE_LIMITED_MESSAGE, StatusResponse, refuse
from jobstatus_service.lookup.statuses import Statuses
from jobstatus_service.metrics.metrics import Metrics, Outcome
from jobstatus_service.storage.link import UnavailableError

PATH: Final = "/api/jobs/"
_ID: Final = slice(len(PATH), None)
_IS_ID: Final = re.compile("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch


_IS_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,128}").fullmatch


def request_id(scope: Any) -> str:
    """The request's `X-Request-ID`, or a new one where it has none, or an odd one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _IS_REQUEST_ID(value):
            return str(value, "ascii")
    return uuid4().hex


_FEW: Final = 40
"""Headers of a plain read at most."""

_NAME_LENGTH: Final = len("authorization")  # and of `if-none-match`

_LONG: Final = 350
"""Bytes of any other header of a plain read at most, so that all are within `_HEADERS`."""

_URL: Final = 8_192
"""Bytes of a URL at most; that of a bulk read of 100 jobs has 4,000."""

_HEADERS: Final = 16_384
"""Bytes of all headers at most."""


def too_large(scope: Any) -> tuple[int, str] | None:
    """Which status and words refuse a request for its size; None if it isn't too large."""
    if len(scope["raw_path"]) + len(scope["query_string"]) > _URL:
        return 414, f"the URL is longer than {_URL} bytes"
    if sum(len(name) + len(value) for name, value in scope["headers"]) > _HEADERS:
        return 431, f"the headers have more than {_HEADERS} bytes"
    return None


class FastPathApp(Litestar):
    """A Litestar application with a fast lane for `GET /api/jobs/{job_id}`.

    Every request passes here, so this is where reads are counted, and where who asks too often is
    turned away before anything is done.

    Attributes:
        keys: Who may ask.
        statuses: What is known.
        metrics: What happens.
        rate: How often one may ask; None: as often as one likes.
    """

    keys: ApiKeys
    statuses: Statuses
    metrics: Metrics
    rate: RateLimit | None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a plain read; let the application answer all else."""
        if scope["type"] == "http" and scope["method"] == "HEAD":
            await respond_to_head(self, scope, receive, send)
            return
        began_at = time.monotonic()
        plain = self._plain(scope)
        if plain is None or self.statuses.watchers.is_draining:
            send = closing(send, lambda: self.statuses.watchers.is_draining)
        if plain is not None:
            key, if_none_match, owner = plain
            if self.rate is not None:
                if wait := self.rate.take(owner, began_at):
                    self.metrics.rate_limited += 1
                    await refuse(send, 429, RATE_LIMITED_MESSAGE, (b"retry-after", b"%d" % wait))
                    return
                scope.setdefault("state", {})["is_admitted"] = True
            outcome: Outcome = "hit"
            response = self.statuses.fresh(key, began_at)
            if response is None and _IS_ID(scope["path"][_ID]):
                outcome = "miss"
                response = await self._ask(key, scope)
            if response is not None:
                outcome = await response.send(send, if_none_match, outcome)
                self.metrics.count_read(outcome, time.monotonic() - began_at)
                return
        await self._route(scope, receive, send, began_at)

    async def _route(self, scope: Any, receive: Any, send: Any, began_at: float) -> None:
        """Let the application answer, unless there is too much of the request."""
        if scope["type"] == "http":
            if refusal := too_large(scope):
                await refuse(send, *refusal)
                return
            about = scope.setdefault("state", {}).get("about")
            LOG_CONTEXT.set(about or {"request_id": request_id(scope)})
        await super().__call__(scope, receive, send)
        state = scope.get("state", {})
        if "outcome" in state:
            waited = state.get("waited", False)
            self.metrics.count_read(
                state["outcome"], None if waited else time.monotonic() - began_at
            )

    async def _ask(self, key: str, scope: Any) -> StatusResponse | None:
        """What Redis says; if it can't, the route is left to say so."""
        try:
            response: StatusResponse = await self.statuses.reader.read(key)
        except UnavailableError as error:
            scope.setdefault("state", {})["fault"] = error
            return None
        return response

    def _plain(  # noqa: C901, PLR0911 - a call costs more than what it would make shorter
        self, scope: Any
    ) -> tuple[str, bytes | None, str] | None:
        """What a plain read asks for; None: it isn't plain.

        That is the key of it, the read's `If-None-Match`, and the name of who asks. Whether it is
        the key of a job has yet to be seen.
        """
        if scope["type"] != "http" or scope["method"] != "GET" or scope["query_string"]:
            return None
        path = scope["path"]
        if not path.startswith(PATH):
            return None
        authorization = if_none_match = None
        headers = scope["headers"]
        if len(headers) > _FEW:
            return None
        for name, value in headers:
            length = len(name)
            if length == _NAME_LENGTH and name == b"authorization":
                if authorization is not None or len(value) > MAX_REMEMBERED_HEADER_BYTES:
                    return None
                authorization = value
            elif length == _NAME_LENGTH and name == b"if-none-match":
                if if_none_match is not None or len(value) > MAX_REMEMBERED_HEADER_BYTES:
                    return None
                if_none_match = value
            elif length + len(value) > _LONG or name == b"prefer":
                return None
        keys = self.keys
        api_key = keys.anonymous or keys.recent_headers.get(authorization)
        if api_key is not None:
            return f"{api_key.prefix}:{path[_ID]}", if_none_match, api_key.name
        return None
