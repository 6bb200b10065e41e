"""Requests and answers, without input and output.

The protocol is written as flows: generators that yield commands and get their replies. The two
clients carry the commands out. An error of a command is raised where it was yielded:
`UnavailableError`, `SilenceError` after the command's timeout, or `InterruptedFlow` if the flow was
interrupted meanwhile. To add a command: a class here, and a case in both clients.
"""

import time
from collections.abc import Callable, Generator, Iterable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Final, TypeVar
from uuid import UUID

import msgspec

from jobstatus.status import job_uuid
from jobstatus_client.errors import RequestError

T = TypeVar("T")
Flow = Generator["Command", Any, T]
JobId = str | UUID

_MAX_RETRY_AFTER_SECONDS: Final = 300.0


class Send(msgspec.Struct, frozen=True):
    """Send a GET request; the reply is its `Answer`."""

    path: str
    headers: dict[str, str]
    timeout: float


class Open(Send, frozen=True):
    """Send a GET request; after an answer with the status 200 its body is left to `Read`."""


class Read(msgspec.Struct, frozen=True):
    """Read from the open stream; the reply is some bytes, none at its end."""

    timeout: float


class Sleep(msgspec.Struct, frozen=True):
    """Wait, 0 seconds or more; there is no reply."""

    seconds: float


class Authorize(msgspec.Struct, frozen=True):
    """Get the credential; the reply is a text, or None.

    Attributes:
        rejected: The credential that was rejected; None at first.
    """

    rejected: str | None = None


Command = Send | Open | Read | Sleep | Authorize


class Answer(msgspec.Struct, frozen=True):
    """The answer to a request. `headers` finds names in any case."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def is_ok(self) -> bool:
        """Whether there is a body of the resource; a 204 and a 304 have none."""
        return self.status == 200  # noqa: PLR2004


class InterruptedFlow(Exception):  # noqa: N818 - it is not an error
    """The present request or sleep has been ended, because the jobs to watch are others."""


def retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds of `Retry-After`, or of a date (RFC 9110, 10.2.3); 0 if there is none.

    A date is compared with the header `Date`, so the two clocks need not agree.
    """
    text = headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return min(float(text), _MAX_RETRY_AFTER_SECONDS)
    try:
        until = parsedate_to_datetime(text).timestamp()
        now = (
            parsedate_to_datetime(headers["Date"]).timestamp() if "Date" in headers else time.time()
        )
    except ValueError:
        return 0.0
    return min(max(until - now, 0.0), _MAX_RETRY_AFTER_SECONDS)


def error_of(answer: Answer) -> RequestError:
    """Return the error that an answer describes, with the service's own words if it has any."""
    message = f"The service has answered with status {answer.status}."
    if "Location" in answer.headers:
        message += f" It refers to {answer.headers['Location']}"
    try:
        detail = msgspec.json.decode(answer.body)["detail"]
        if isinstance(detail, list):
            detail = " ".join(each["msg"] for each in detail)
        message = str(detail) or message
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError):
        pass  # it is not from the service, but from a proxy
    return RequestError(answer.status, message, retry_after(answer.headers))


def uuids_of(ids: JobId | Iterable[JobId]) -> list[UUID]:
    """Return the UUIDs of one job or several, under which the service knows them."""
    return [uuid_of(each) for each in ([ids] if isinstance(ids, str | UUID) else ids)]


def listed(ids: JobId | Iterable[JobId]) -> JobId | list[JobId]:
    """Return one id as it is, and several as a list.

    Raises:
        TypeError: It is neither.
    """
    if isinstance(ids, str | UUID):
        return ids
    if not isinstance(ids, Iterable):
        raise TypeError(f"a job id must be a str or a UUID, not {type(ids).__name__}")
    return list(ids)


def uuid_of(job_id: JobId) -> UUID:
    """Return the UUID of a job.

    Raises:
        ValueError: The id is empty, as a variable that is not set.
    """
    if job_id == "":
        raise ValueError("a job id must not be empty")
    return job_uuid(job_id)


def decoder(type_: type[T]) -> Callable[[bytes], T]:
    """Return a function that decodes the JSON of a response."""
    return msgspec.json.Decoder(type_).decode
