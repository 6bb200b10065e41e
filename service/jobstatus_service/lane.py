"""The fast lane: plain reads are answered before Litestar looks at them.

It serves only replies of the read path, to whom the route would have let in, and leaves every
request with anything particular about it, and everything that goes wrong, to the route.
"""

import re
import time
from typing import Any, Final

from litestar import Litestar

from jobstatus_service.drain import closing
from jobstatus_service.keys import ApiKeys
from jobstatus_service.link import UnavailableError
from jobstatus_service.metrics import Metrics, Outcome
from jobstatus_service.reply import Reply
from jobstatus_service.statuses import Statuses

PATH: Final = "/api/jobs/"
_ID: Final = slice(len(PATH), None)
_IS_ID: Final = re.compile("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch


class Lane(Litestar):
    """A Litestar application with a fast lane for `GET /api/jobs/{job_id}`.

    Every request passes here, so this is where reads are counted.
    """

    keys: ApiKeys
    statuses: Statuses
    metrics: Metrics

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a plain read; let the application answer all else."""
        begun = time.monotonic()
        plain = self._plain(scope)
        if plain is None or self.statuses.watches.is_draining:
            send = closing(send, lambda: self.statuses.watches.is_draining)
        if plain is not None:
            key, if_none_match = plain
            outcome: Outcome = "hit"
            reply = self.statuses.fresh(key, begun)
            if reply is None and _IS_ID(scope["path"][_ID]):
                outcome = "miss"
                reply = await self._ask(key, scope)
            if reply is not None:
                outcome = await reply.send(send, if_none_match, outcome)
                self.metrics.read(outcome, time.monotonic() - begun)
                return
        await super().__call__(scope, receive, send)
        state = scope.get("state", {})
        if "outcome" in state:
            waited = state.get("waited", False)
            self.metrics.read(state["outcome"], None if waited else time.monotonic() - begun)

    async def _ask(self, key: str, scope: Any) -> Reply | None:
        """What Redis says; if it can't, the route is left to say so."""
        try:
            return await self.statuses.reader.read(key)
        except UnavailableError as error:
            scope.setdefault("state", {})["fault"] = error
            return None

    def _plain(self, scope: Any) -> tuple[str, bytes | None] | None:
        """The key of what a plain read asks for, and its `If-None-Match`; None: it isn't plain.

        Whether it is the key of a job has yet to be seen.
        """
        if scope["type"] != "http" or scope["method"] != "GET" or scope["query_string"]:
            return None
        path = scope["path"]
        if not path.startswith(PATH):
            return None
        authorization = if_none_match = None
        for name, value in scope["headers"]:
            if name == b"authorization":
                if authorization is not None:
                    return None
                authorization = value
            elif name == b"if-none-match":
                if if_none_match is not None:
                    return None
                if_none_match = value
            elif name == b"prefer":
                return None
        keys = self.keys
        api_key = keys.anybody or keys.seen.get(authorization)
        return None if api_key is None else (f"{api_key.prefix}:{path[_ID]}", if_none_match)
