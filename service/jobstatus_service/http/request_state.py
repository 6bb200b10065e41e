"""What the parts of the application note about one request, for each other."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from jobstatus_service.http.client import Client
from jobstatus_service.metrics.metrics import Outcome
from jobstatus_service.storage.link import UnavailableError

_SCOPE_KEY: Final = "jobstatus"


class RequestState(msgspec.Struct):
    """Notes about one request.

    Attributes:
        client: The authenticated client of the request; set by the guard.
        is_rate_checked: Whether the rate limit has been applied; set by the fast path.
        read_error: Why the fast path could not read the job; the route raises it.
        outcome: How the read is counted; set by the route, None if the request reads no job.
        has_waited: Whether the request asked to wait, so that its duration is not counted.
        log_fields: The request's and the job's id, for log lines; set by the access log.
    """

    client: Client | None = None
    is_rate_checked: bool = False
    read_error: UnavailableError | None = None
    outcome: Outcome | None = None
    has_waited: bool = False
    log_fields: Mapping[str, str] | None = None


def request_state(scope: Any) -> RequestState:
    """Return the state of a request, which the first call creates.

    Args:
        scope: As in ASGI. A plain read that the fast path answers never has a state.
    """
    states = scope.setdefault("state", {})
    state: RequestState | None = states.get(_SCOPE_KEY)
    if state is None:
        state = states[_SCOPE_KEY] = RequestState()
    return state
