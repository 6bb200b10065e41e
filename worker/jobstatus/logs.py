"""Logs: lines of text, or one JSON object a line with the request or job that it concerns.

No log line of this package contains an API key, a password or an `Authorization` header.
"""

import logging
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final

import msgspec

LOG_CONTEXT: Final[ContextVar[Mapping[str, str]]] = ContextVar(
    "jobstatus.about", default=MappingProxyType({})
)
"""Members of every JSON line that the code of this context logs: `request_id`, `job_id`."""

TEXT_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"

_encode = msgspec.json.Encoder(enc_hook=str).encode


class JsonFormatter(logging.Formatter):
    """Formats one JSON object a line: `time`, `level`, `logger`, `message`, and `LOG_CONTEXT`.

    `extra={"about": {...}}` in a log call adds members. Times are RFC 3339, UTC, with ms.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Format the line."""
        time = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "time": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **LOG_CONTEXT.get(),
        }
        about = getattr(record, "about", None)
        if isinstance(about, Mapping):
            line |= {str(name): value for name, value in about.items()}
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = self.formatException(record.exc_info)
        try:
            return _encode(line).decode()
        except Exception:  # a lone surrogate, or a value that JSON can't represent
            plain = {
                name: str(value).encode(errors="backslashreplace") for name, value in line.items()
            }
            return _encode({name: value.decode() for name, value in plain.items()}).decode()


def formatter(log_format: str) -> dict[str, Any]:
    """Return a formatter for `logging.config.dictConfig`.

    Args:
        log_format: `text` or `json`.
    """
    return {"()": JsonFormatter} if log_format == "json" else {"format": TEXT_FORMAT}
