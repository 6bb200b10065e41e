"""The result of a job as it is stored: JSON of a limited size, or why there is none.

No error here fails a job: a value that is not JSON, or too large, is dropped, and the record says
why.
"""

import traceback
from typing import Any, Final

import msgspec

from jobstatus.reporting.error_text import ErrorText
from jobstatus.status import ResultState, full_reason, one_line, raise_interrupt

_DROPPED_LIMIT: Final = 200
"""Maximum length of the reason for which a result was dropped, in characters."""


class Result(msgspec.Struct, frozen=True):
    """What is stored of a job's result.

    Attributes:
        state: A `ResultState`, or why the result was dropped.
        body: The JSON; None if it was dropped.
    """

    state: str
    body: bytes | None = None


def encode_result(value: object, limit: int) -> Result:
    """Encode a value: whatever msgspec can, and models of pydantic.

    Args:
        value: The value.
        limit: Maximum size of the JSON, in bytes.
    """
    try:
        body = msgspec.json.encode(value, enc_hook=_plain)
    except BaseException as error:  # an object of job code may raise anything
        raise_interrupt(error)
        return dropped(f"the result is not JSON: {one_line(error, _DROPPED_LIMIT)}")
    if len(body) > limit:
        return dropped(f"the result has {len(body)} bytes; JOBSTATUS_RESULT_LIMIT allows {limit}")
    return Result(ResultState.VALUE, body)


def traceback_result(error: BaseException, errors: ErrorText, limit: int) -> Result:
    """Return the traceback of an exception as a result: `{"traceback": "..."}`.

    The messages in it are those that `errors` permits, as in the job's reason. If it is too long,
    its beginning is left out.

    Args:
        error: The exception.
        errors: Describes exceptions.
        limit: Maximum size of the JSON, in bytes.
    """
    try:
        text = "\n".join(_parts(error, errors))
        while len(body := msgspec.json.encode({"traceback": text})) > limit:
            text = "…" + text[-max(1, min(len(text) - 2, len(text) * limit // len(body) - 8)) :]
            if len(text) < 3:  # noqa: PLR2004 - the limit has room for nothing
                return dropped("JOBSTATUS_RESULT_LIMIT has no room for a traceback")
    except BaseException as failure:  # an exception of job code may do anything
        raise_interrupt(failure)
        return dropped(f"the traceback can't be made: {one_line(failure, _DROPPED_LIMIT)}")
    return Result(ResultState.TRACEBACK, body)


def dropped(reason: str) -> Result:
    """Return the result that says why there is none."""
    return Result(one_line(reason, _DROPPED_LIMIT))


def _plain(value: Any) -> object:
    """Return a value that msgspec can encode instead of a model of pydantic.

    Raises:
        NotImplementedError: It is something else.
    """
    dump = getattr(value, "model_dump", None)
    if not callable(dump) or isinstance(value, type):
        kind = one_line(type(value).__qualname__, _DROPPED_LIMIT)
        raise NotImplementedError(f"objects of type {kind} are not supported")
    return dump(mode="json")


def _parts(error: BaseException, errors: ErrorText, seen: set[int] | None = None) -> list[str]:
    """Return the stacks and descriptions of an exception, its causes and the parts of a group.

    The cause comes first, and the parts of a group before the group.
    """
    seen = set() if seen is None else seen
    if id(error) in seen:
        return []
    seen.add(id(error))
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    parts = [] if cause is None else _parts(cause, errors, seen)
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            parts += _parts(each, errors, seen)
    stack = "".join(traceback.format_tb(error.__traceback__))
    described = full_reason(errors.of(error)) or "an exception"
    return [*parts, f"Traceback (most recent call last):\n{stack}{described}\n"]
