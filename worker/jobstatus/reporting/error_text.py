"""How an exception is described in the reason of a job."""

from collections.abc import Callable
from dataclasses import dataclass

from jobstatus.reporting.hook import Hook
from jobstatus.status import DETAIL_MARK, REASON_LIMIT, one_line

StatusError = Callable[[BaseException], "str | None"]
"""An application's own hook: returns the message to store of an exception; None: no message."""


@dataclass(frozen=True)
class ErrorText:
    """Describes exceptions, as much as `JOBSTATUS_ERROR_DETAIL` permits.

    Attributes:
        detail: `full`: type and message; `type`: the type only; `none`: neither.
        message: Returns the message to store of an exception; None: the exception's own text.
    """

    detail: str = "full"
    message: "Hook[str] | None" = None

    def of(self, error: BaseException) -> str:
        """Return an exception as one line; the message is enclosed in `DETAIL_MARK`.

        An empty text means that nothing may be stored of it.
        """
        if self.detail == "none":
            return ""
        kind = one_line(type(error).__name__, REASON_LIMIT)
        if self.detail == "type":
            return kind
        text = one_line(self._message(error), REASON_LIMIT)
        is_empty = text in {"", f"<{kind}>"}  # one_line replaces a text that can't be made
        return kind if is_empty else f"{kind}{DETAIL_MARK}: {text}{DETAIL_MARK}"

    def _message(self, error: BaseException) -> object:
        if self.message is None:
            return error
        # Without a message, also if the hook fails: the text may contain what it was to remove.
        return self.message(error) or ""
