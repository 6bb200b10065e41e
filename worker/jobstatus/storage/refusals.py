"""Errors that Redis answers with: their codes, and whether a command may succeed later.

Redis is either *unavailable* (no answer: an outage) or *refuses* a command (it answers with an
error). A refusal is permanent if no later attempt at the same command can succeed.
"""

import logging
import re
import time
from collections import Counter
from typing import Final

import msgspec
from redis.exceptions import (
    AskError,
    ClusterDownError,
    ExecAbortError,
    MasterDownError,
    MovedError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

REDIS_ERRORS: Final = (RedisError, OSError)
"""What redis-py raises when Redis is unavailable or answers with an error."""

TIMEOUT_ERRORS: Final = (TimeoutError, RedisTimeoutError)
"""What redis-py raises when Redis does not answer in time."""

_PERMANENT: Final = (
    "WRONGTYPE",
    "wrong number of arguments",
    "syntax error",
    "Protocol error",
    "the TTL is not positive",
)
"""How the text of a permanent refusal starts, after ERR: the key holds something other than a
record, or the command itself is malformed. Every other refusal is transient: a replica that
restarts (NOREPLICAS), access rights that are reloaded (NOPERM), a proxy without its backend."""

_CODE = re.compile(r"-?([A-Z]{2,})\b")

_CODES: Final[dict[type[Exception], str]] = {
    ReadOnlyError: "READONLY",
    OutOfMemoryError: "OOM",
    MasterDownError: "MASTERDOWN",
    ClusterDownError: "CLUSTERDOWN",
    TryAgainError: "TRYAGAIN",
    MovedError: "MOVED",
    AskError: "ASK",
    ExecAbortError: "EXECABORT",
    NoPermissionError: "NOPERM",
}
"""The error codes that redis-py replaces by a class; which ones differs from redis-py 5 to 8."""

_LOG_INTERVAL_SECONDS: Final = 60.0

_log = logging.getLogger("jobstatus")


class Refusal(msgspec.Struct, frozen=True):
    """Redis has answered a command with an error.

    Attributes:
        message: Redis's error text, starting with its code.
        is_permanent: Whether no later attempt at the command can succeed.
    """

    message: str
    is_permanent: bool

    @property
    def code(self) -> str:
        """The error code, such as NOREPLICAS; `other` if there is none, as from a proxy."""
        match = _CODE.match(self.message)
        return match[1] if match is not None else "other"


def refusal_of(error: BaseException | None) -> Refusal | None:
    """Convert an exception to a refusal; None if Redis has not answered with an error."""
    if isinstance(error, ResponseError):
        return Refusal(error_text(error), is_permanent(error))
    return None


def error_text(error: ResponseError) -> str:
    """Return Redis's error text with its code, which redis-py strips if it has a class for it.

    The prefix that redis-py adds in a pipeline, the command with all its arguments, is removed.
    """
    text = str(error)
    if text.startswith("Command # "):
        text = text.partition(" of pipeline caused error: ")[2] or text
    code = next((code for kind, code in _CODES.items() if type(error) is kind), "")
    return text if text.startswith(code) else f"{code} {text}"


def is_permanent(error: ResponseError) -> bool:
    """Whether no later attempt at the command can succeed."""
    text = error_text(error)
    # Redis 6 wraps the errors of scripts in a text of its own.
    return text.removeprefix("ERR ").startswith(_PERMANENT) or "WRONGTYPE" in text


class RefusalLog:
    """Counts transient refusals by their code, and logs each code once a minute."""

    def __init__(self, message: str, counts: Counter[str]) -> None:
        """Create a log without entries.

        Args:
            message: What the refusals mean; Redis's own text is added to it.
            counts: Where the refusals are counted, by code.
        """
        self._message = message
        self._counts = counts
        self._logged_at: dict[str, float] = {}

    def add(self, refusal: Refusal) -> None:
        """Count a refusal; log it unless its code was logged within the last minute."""
        self._counts[refusal.code] += 1
        now = time.monotonic()
        if now - self._logged_at.get(refusal.code, float("-inf")) >= _LOG_INTERVAL_SECONDS:
            self._logged_at[refusal.code] = now
            _log.warning("%s: %s", self._message, refusal.message)
