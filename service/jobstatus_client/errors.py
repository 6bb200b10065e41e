"""The errors that a client raises.

JobStatusError                   jobstatus.errors
├── RequestError                 the service has rejected a request
├── UnavailableError             also a ConnectionError: the service can't be reached
│   ├── SilenceError             it has not answered in time
│   └── BufferedStreamError      a proxy holds a stream back
├── WaitTimeoutError             also a TimeoutError: jobs have not finished in time
└── ClientClosedError            the client was closed
"""

from collections.abc import Sequence

from jobstatus.details import JobDetails
from jobstatus.errors import JobStatusError

_REFUSALS = frozenset({400, 401, 403, 422})
_TRANSIENT = frozenset({408, 425, 429})


class RequestError(JobStatusError):
    """The service, or a proxy before it, has rejected a request.

    Attributes:
        status: The HTTP status.
        retry_after: Seconds after which the request may be sent again; 0 if the response has none.
    """

    def __init__(self, status: int, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after

    @property
    def is_transient(self) -> bool:
        """Whether the same request may succeed later."""
        return self.status in _TRANSIENT or self.status >= 500  # noqa: PLR2004

    @property
    def is_refusal(self) -> bool:
        """Whether the credentials or the request are not valid; else a proxy may be the cause."""
        return self.status in _REFUSALS


class UnavailableError(JobStatusError, ConnectionError):
    """The service can't be reached, or something else has answered."""


class SilenceError(UnavailableError):
    """The service has not answered in time."""


class BufferedStreamError(UnavailableError):
    """A stream has not begun in time: a proxy holds it back. The client sends long polls then."""


class WaitTimeoutError(JobStatusError, TimeoutError):
    """Jobs have not finished in time, or have been `unknown` for too long.

    Attributes:
        statuses: What is known of the jobs, in the order in which they were named; None for those
            of which the service has not reported anything.
    """

    def __init__(self, message: str, statuses: Sequence[JobDetails | None]) -> None:
        super().__init__(message)
        self.statuses = list(statuses)


class ClientClosedError(JobStatusError):
    """The client was closed while, or before, it was used."""
