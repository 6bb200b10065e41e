"""Logs: lines for people, or one JSON object a line, with whose request or job it is about.

Nothing here, nor anything that we log, names a key, a password or an `Authorization` header.
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
"""What the code of this context is about: `request_id`, `job_id`. In every JSON line."""

LINE: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"

_encode = msgspec.json.Encoder(enc_hook=str).encode


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `time`, `level`, `logger`, `message`, and what it is about.

    `extra={"about": {...}}` of a log call adds members. Times are RFC 3339, UTC, with ms.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
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
        except Exception:  # lone surrogates, or values that can't be written
            plain = {
                name: str(value).encode(errors="backslashreplace") for name, value in line.items()
            }
            return _encode({name: value.decode() for name, value in plain.items()}).decode()


def log_format(text: str) -> str:
    """A format of logs: `text` or `json`."""
    if text not in {"text", "json"}:
        raise ValueError("must be text or json")
    return text


def formatter(kind: str) -> dict[str, Any]:
    """A formatter for `logging.config.dictConfig`.

    Args:
        kind: `text` or `json`.
    """
    return {"()": JsonFormatter} if kind == "json" else {"format": LINE}
