"""Settings from the environment: `JOBSTATUS_*`, read once, checked before anything starts."""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from jobstatus.errors import SettingsError
from jobstatus.redis_url import parse_redis_url

Parse = Callable[[str], Any]


def seconds(least: float, most: float) -> Parse:
    """A parser of a number of seconds in `least`..`most`."""

    def parse(text: str) -> float:
        value = float(text)
        if not (math.isfinite(value) and least <= value <= most):
            raise ValueError(f"must be {least:g} to {most:g} seconds")
        return value

    return parse


def prefix(text: str) -> str:
    """A key prefix: it may not hold spaces, braces (Cluster hash tags) or glob characters."""
    if not text or any(c.isspace() or not c.isprintable() or c in "{}*?[]\\" for c in text):
        raise ValueError("must be one word without { } * ? [ ] \\")
    if text.partition(":")[0] == "arq":
        raise ValueError("must not be or begin with `arq:`, as arq's own keys do")
    return text


def redis_url(text: str) -> str:
    """Where Redis is, see `jobstatus.redis_url`."""
    return parse_redis_url(text).url


def readable(text: str) -> str:
    """The path of a file that can be read."""
    try:
        with Path(text).open("rb"):
            return text
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from None


def env(name: str, parse: Parse, default: Any = None, *, secret: bool = False) -> Any:
    """A settings field that is read from `JOBSTATUS_<name>`.

    Args:
        name: The variable's name without its prefix.
        parse: Makes the value of the text; raises ValueError with what is wrong.
        default: The value when the variable is unset or empty.
        secret: Whether the text may also stand in the file that `JOBSTATUS_<name>_FILE` names,
            whose path is then the value of the field `<field>_file`; it appears in no error.
    """
    return field(default=default, metadata={"env": name, "parse": parse, "secret": secret})


def whole(least: int, most: int) -> Parse:
    """A parser of a whole number in `least`..`most`."""

    def parse(text: str) -> int:
        value = int(text)
        if not least <= value <= most:
            raise ValueError(f"must be {least} to {most}")
        return value

    return parse


@dataclass(frozen=True, kw_only=True)
class EnvSettings:
    """A settings object whose fields, made by `env`, can be read from the environment."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ, **overrides: Any) -> Self:
        """Read the settings; what is unset keeps its default, `overrides` win.

        Raises:
            SettingsError: a variable can't be used; the message names it.
        """
        values = dict(overrides)
        for f in fields(cls):
            if f.name in values or "env" not in f.metadata:
                continue
            variable = "JOBSTATUS_" + f.metadata["env"]
            secret = f.metadata["secret"]
            text = _text(environ, variable, secret=secret)
            if text:
                values[f.name] = _parsed(variable, text, f.metadata["parse"], secret=secret)
            if secret:
                values[f"{f.name}_file"] = environ.get(f"{variable}_FILE") or None
        return cls(**values)


def _text(environ: Mapping[str, str], variable: str, *, secret: bool) -> str:
    text = environ.get(variable, "")
    path = environ.get(f"{variable}_FILE", "") if secret else ""
    if not path:
        return text
    if text:
        raise SettingsError(f"{variable} and {variable}_FILE are both set: unset one")
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{variable}_FILE: can't read {path}: {error}") from None


def _parsed(variable: str, text: str, parse: Parse, *, secret: bool) -> Any:
    try:
        return parse(text)
    except ValueError as error:
        shown = "its value" if secret else repr(text)
        raise SettingsError(f"{variable}: {shown} can't be used: {error}") from None


@dataclass(frozen=True, kw_only=True)
class StatusSettings(EnvSettings):
    """What both sides must agree on.

    Attributes:
        redis_url: Where the status is kept; None for each side's own default.
        redis_url_file: The file that this was read from; its login is read again for each
            connection.
        key_prefix: The first part of every key; one tenant's jobs share one prefix.
        lease: Seconds for which an attempt is believed after its worker was last heard.
        connect_timeout: Seconds that connecting to Redis may take.
        timeout: Seconds that one round trip to Redis may take.
        ca_file: PEM file of who may vouch for Redis, with TLS; None: the system's.
        cert_file: PEM file of the certificate that is shown to Redis, with TLS.
        key_file: PEM file of that certificate's key.
    """

    redis_url: str | None = env("REDIS_URL", redis_url, secret=True)
    redis_url_file: str | None = None
    key_prefix: str = env("KEY_PREFIX", prefix, "job")
    lease: float = env("LEASE", seconds(1, 86_400), 30.0)
    connect_timeout: float = env("REDIS_CONNECT_TIMEOUT", seconds(0.01, 60), 0.5)
    timeout: float = env("REDIS_TIMEOUT", seconds(0.01, 60), 0.8)
    ca_file: str | None = env("REDIS_CA_FILE", readable)
    cert_file: str | None = env("REDIS_CERT_FILE", readable)
    key_file: str | None = env("REDIS_KEY_FILE", readable)


@dataclass(frozen=True, kw_only=True)
class PublisherSettings(StatusSettings):
    """How a process publishes its jobs' status.

    Attributes:
        retention: Seconds for which a record is kept after its job is over.
        report_interval: Seconds between two samples of a job's progress.
        claim_lease: Seconds after which the job of an arq worker that was killed is run again.
        max_held_records: Final states and pending jobs that are held at most while Redis can't
            take them; beyond that the oldest final states are dropped, counted and logged.
    """

    retention: float = env("RETENTION", seconds(1, 315_360_000), 86_400.0)
    report_interval: float = env("REPORT_INTERVAL", seconds(0.01, 60), 0.1)
    claim_lease: float = env("CLAIM_LEASE", seconds(1, 604_800), 45.0)
    max_held_records: int = env("MAX_HELD_RECORDS", whole(1, 100_000_000), 1_000_000)
