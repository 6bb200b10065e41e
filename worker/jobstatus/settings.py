"""Settings from environment variables `JOBSTATUS_*`, read and checked once, at the start.

To add a setting: a field made by `env` in the settings class of its side, the variable's name in
`KNOWN_VARIABLES`, a line in the `--help` text of its command and in the side's README.
"""

import difflib
import logging
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Self

from jobstatus.errors import SettingsError
from jobstatus.redis_url import parse_redis_url

Parser = Callable[[str], Any]
"""Parses the text of a variable; raises ValueError with a sentence that follows its name."""

KNOWN_VARIABLES: Final = frozenset(
    f"JOBSTATUS_{name}"
    for name in (
        *("REDIS_URL", "REDIS_URL_FILE", "REDIS_CONNECT_TIMEOUT", "REDIS_TIMEOUT"),
        *("REDIS_CA_FILE", "REDIS_CERT_FILE", "REDIS_KEY_FILE", "KEY_PREFIX", "LEASE"),
        *("RETENTION", "REPORT_INTERVAL", "CLAIM_LEASE", "MAX_HELD_RECORDS"),
        *("ERROR_DETAIL", "RESULTS", "TRACEBACKS", "RESULT_LIMIT"),
        *("QUEUE_URL", "QUEUE_URL_FILE", "JOB_COMPLETION_WAIT", "METRICS_PORT", "LOG_FORMAT"),
        *("API_KEYS", "API_KEYS_FILE", "NO_AUTH", "CACHE_SIZE", "MAX_STALENESS", "ACCESS_LOG"),
        *("MAX_WATCHERS", "MAX_WATCHERS_PER_KEY", "MAX_BULK_IDS", "RATE_LIMIT", "RATE_BURST"),
        *("CLIENT_TIMEOUT", "TRACES", "METRICS_DIR", "JOB_ID", "REPORT_FILE"),
        *("TOKEN_KEY", "TOKEN_KEY_FILE", "TOKEN_RATE_LIMIT", "MAX_WATCHERS_PER_TOKEN"),
        *("CORS_ORIGINS", "UI", "URL", "KEY", "KEY_FILE"),
    )
)
"""Every variable of either side: worker and service may share one environment."""

_log = logging.getLogger("jobstatus")

_UNITS = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def number(minimum: float, maximum: float, unit: str = "seconds") -> Parser:
    """Return a parser of a number from `minimum` to `maximum`.

    The unit is named in the message of the error; it may be empty.
    """

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not minimum <= value <= maximum:
            bounds = f"from {_decimal(minimum)} to {_decimal(maximum)}"
            raise ValueError(f"must be a number {bounds} {unit}".rstrip())
        return value

    return parse


def _decimal(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)


def whole_number(minimum: int, maximum: int | None = None) -> Parser:
    """Return a parser of a whole number from `minimum` to `maximum`; None for no upper limit."""
    bounds = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = minimum - 1
        if value < minimum or (maximum is not None and value > maximum):
            raise ValueError(f"must be a whole number {bounds}")
        return value

    return parse


def byte_size(minimum: int = 0, maximum: int | None = None) -> Parser:
    """Return a parser of a number of bytes, such as 67108864 or 64MiB, within bounds."""

    def parse(text: str) -> int:
        found = re.fullmatch(r"(\d+)(|KiB|MiB|GiB)", text)
        value = int(found[1]) * _UNITS[found[2]] if found else -1
        if value < minimum or (maximum is not None and value > maximum):
            bounds = f" of at least {minimum}" if minimum else ""
            bounds += f", at most {maximum}" if maximum is not None else ""
            raise ValueError(f"must be a number of bytes{bounds}, such as 65536, 64KiB or 1MiB")
        return value

    return parse


def switch(text: str) -> bool:
    """Parse a switch: 1, true, yes or on; 0, false, no or off."""
    switches = dict.fromkeys(("1", "true", "yes", "on"), True)
    switches |= dict.fromkeys(("0", "false", "no", "off"), False)
    try:
        return switches[text.lower()]
    except KeyError:
        raise ValueError("must be 1 or 0") from None


def choice(*values: str) -> Parser:
    """Return a parser of one of the values."""

    def parse(text: str) -> str:
        if text not in values:
            *others, last = values
            raise ValueError(f"must be {', '.join(others)} or {last}")
        return text

    return parse


def key_prefix(text: str) -> str:
    """Parse a key prefix: one word without braces (hash tags of a Cluster) or glob characters."""
    if not text or any(c.isspace() or not c.isprintable() or c in "{}*?[]\\" for c in text):
        raise ValueError("must be one word without { } * ? [ ] \\")
    if text.partition(":")[0] == "arq":
        raise ValueError("must not be `arq` or begin with `arq:`, which arq's own keys do")
    return text


def redis_url(text: str) -> str:
    """Check the URL of a Redis, see `jobstatus.redis_url`."""
    try:
        return parse_redis_url(text).url
    except ValueError as error:
        raise ValueError(f"is not valid: {error}") from None


def readable_file(text: str) -> str:
    """Check that a path names a file that can be read."""
    try:
        with Path(text).open("rb"):
            return text
    except OSError as error:
        raise ValueError("must name a readable file") from error


def env(
    name: str, parse: Parser, default: Any = None, *, secret: bool = False, in_file: bool = False
) -> Any:
    """Declare a settings field that is read from `JOBSTATUS_<name>`.

    Args:
        name: The name of the variable without its prefix.
        parse: Parses the text.
        default: The value if the variable is unset or empty.
        secret: Whether the value is kept out of errors and of the `repr`.
        in_file: Whether the value may also be in the file that `JOBSTATUS_<name>_FILE` names; the
            path becomes the field `<field>_file`.
    """
    metadata = {"env": name, "parse": parse, "secret": secret, "in_file": in_file}
    return field(default=default, metadata=metadata, repr=not secret)


@dataclass(frozen=True, kw_only=True)
class EnvSettings:
    """Settings whose fields, made by `env`, can be read from the environment.

    A duration may be given as a `timedelta`; it is kept in seconds.
    """

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, timedelta):
                object.__setattr__(self, f.name, value.total_seconds())

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ, **overrides: Any) -> Self:
        """Read the settings. An unset variable keeps the default; `overrides` take precedence.

        Raises:
            SettingsError: The value of a variable is not valid; the message names the variable.
        """
        if environ is os.environ:
            warn_about_unknown_variables(environ)
        values = dict(overrides)
        for f in fields(cls):
            if f.name in values or "env" not in f.metadata:
                continue
            variable = "JOBSTATUS_" + f.metadata["env"]
            in_file = f.metadata["in_file"]
            text = variable_text(environ, variable, in_file=in_file)
            if text:
                values[f.name] = parse_variable(
                    variable, text, f.metadata["parse"], secret=f.metadata["secret"]
                )
            if in_file:
                values[f"{f.name}_file"] = environ.get(f"{variable}_FILE") or None
        return cls(**values)


def parse_variable(variable: str, text: str, parse: Parser, *, secret: bool = False) -> Any:
    """Parse the text of one variable.

    Raises:
        SettingsError: It is not valid; the message names the variable, and the text if that is
            not secret.
    """
    try:
        return parse(text)
    except ValueError as error:
        shown = "" if secret else f", not {text!r}"
        cause = error.__cause__
        detail = f" ({cause.strerror or cause})" if isinstance(cause, OSError) else ""
        raise SettingsError(f"{variable} {error}{shown}{detail}") from None


_warned: set[str] = set()


def warn_about_unknown_variables(environ: Mapping[str, str] = os.environ) -> None:
    """Log each unknown `JOBSTATUS_*` variable once, with the most similar known one."""
    prefix = "JOBSTATUS_"
    unknown = {name for name in environ if name.startswith(prefix)} - KNOWN_VARIABLES - _warned
    for name in sorted(unknown):
        _warned.add(name)
        similar = difflib.get_close_matches(name, KNOWN_VARIABLES, 1)
        hint = f"did you mean {similar[0]}?" if similar else "see the README for those there are"
        _log.warning("%s is ignored: there is no such setting; %s", name, hint)


def variable_text(environ: Mapping[str, str], variable: str, *, in_file: bool) -> str:
    """Return the text of a variable; empty if it is unset.

    Args:
        environ: The environment.
        variable: The whole name of the variable.
        in_file: Whether the text may also be in the file that `<variable>_FILE` names.

    Raises:
        SettingsError: Both are set, or the file can't be read.
    """
    text = environ.get(variable, "")
    path = environ.get(f"{variable}_FILE", "") if in_file else ""
    if not path:
        return text
    if text:
        raise SettingsError(f"{variable} and {variable}_FILE are both set: unset one of them")
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{variable}_FILE must name a readable file: {error}") from None


@dataclass(frozen=True, kw_only=True)
class StatusSettings(EnvSettings):
    """Settings that worker and service share.

    Attributes:
        redis_url: The Redis that holds the status; None for the default of each side.
        redis_url_file: The file that the URL was read from; the login in it is read again for
            each connection.
        key_prefix: The first part of every key; one tenant's jobs have one prefix.
        lease: Seconds for which an attempt counts as running after its worker's last report.
            Worker and service must have the same value.
        connect_timeout: Seconds that connecting to Redis may take.
        timeout: Seconds that one round trip to Redis may take.
        ca_file: PEM file of the certificate authorities for TLS; None: those of the system.
        cert_file: PEM file of the client certificate for TLS; None: no client certificate.
        key_file: PEM file of the client certificate's private key.
    """

    redis_url: str | None = env("REDIS_URL", redis_url, secret=True, in_file=True)
    redis_url_file: str | None = None
    key_prefix: str = env("KEY_PREFIX", key_prefix, "job")
    lease: float = env("LEASE", number(1, 86_400), 30.0)
    connect_timeout: float = env("REDIS_CONNECT_TIMEOUT", number(0.01, 60), 0.5)
    timeout: float = env("REDIS_TIMEOUT", number(0.01, 60), 0.8)
    ca_file: str | None = env("REDIS_CA_FILE", readable_file)
    cert_file: str | None = env("REDIS_CERT_FILE", readable_file)
    key_file: str | None = env("REDIS_KEY_FILE", readable_file)

    @property
    def is_cluster(self) -> bool:
        """Whether the status is stored in a Redis Cluster, where keys have a shard."""
        return (self.redis_url or "").startswith(("redis+cluster:", "rediss+cluster:"))


@dataclass(frozen=True, kw_only=True)
class PublisherSettings(StatusSettings):
    """Settings of a publisher.

    Attributes:
        retention: Seconds for which a record is kept after its job has finished.
        report_interval: Seconds between two readings of a running job's progress.
        claim_lease: Seconds after which the job of an arq worker that was killed is run again.
        error_detail: What is stored of an exception that ends an attempt: `full`, `type` or `none`.
        results: Whether the values that jobs return are stored as their results.
        tracebacks: Whether the traceback of a failed job is stored as its result.
        result_limit: The maximum size of a result, in bytes of JSON; larger ones are dropped.
        max_held_records: Final states and pending jobs that are held at most while Redis is
            unavailable. Beyond that the oldest final states are dropped, counted and logged.
    """

    retention: float = env("RETENTION", number(1, 315_360_000), 86_400.0)
    report_interval: float = env("REPORT_INTERVAL", number(0.01, 60), 0.1)
    claim_lease: float = env("CLAIM_LEASE", number(1, 604_800), 45.0)
    error_detail: str = env("ERROR_DETAIL", choice("full", "type", "none"), "full")
    results: bool = env("RESULTS", switch, False)
    tracebacks: bool = env("TRACEBACKS", switch, False)
    result_limit: int = env("RESULT_LIMIT", byte_size(256, 16 * 2**20), 64 * 2**10)
    max_held_records: int = env("MAX_HELD_RECORDS", whole_number(1, 100_000_000), 1_000_000)
