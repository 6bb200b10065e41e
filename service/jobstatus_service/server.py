"""`jobstatus serve`: run the application with Granian."""

import logging.config
import os
import resource
import socket
import tempfile
from dataclasses import replace
from typing import Any, Final

from granian.constants import HTTPModes, Interfaces, Loops, RuntimeModes
from granian.http import HTTP1Settings
from granian.server import Server

from jobstatus.errors import JobStatusError
from jobstatus.logs import formatter
from jobstatus_service.http.app import create_app
from jobstatus_service.http.drain import forward_drain_signal
from jobstatus_service.metrics.multiprocess import DIRECTORY_VARIABLE
from jobstatus_service.settings import ServiceSettings

_MAX_CONCURRENT_READS: Final = 2_000
"""Requests that a process handles at once beside long polls and streams. Others are queued."""

_HTTP_BUFFER_BYTES: Final = 32_768
"""Granian's buffer for a request's head. It exceeds the limits that the application enforces."""

_OTHER_OPEN_FILES: Final = 200
"""Open files of a process beside its clients' connections."""

_MAX_WATCHERS: Final = "JOBSTATUS_MAX_WATCHERS"

_KILL_TIMEOUT_SECONDS: Final = 4
"""How long Granian waits for a process to exit on SIGTERM before it kills it."""

_log = logging.getLogger("jobstatus.service")


def logging_config(log_format: str) -> dict[str, Any]:
    """Return the configuration of the service's logging, for `logging.config.dictConfig`.

    Args:
        log_format: `text` or `json`.
    """
    info = {"handlers": ["stderr"], "level": "INFO", "propagate": False}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": formatter(log_format)},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "loggers": {"jobstatus": info, "_granian": info},
        "root": {"handlers": ["stderr"], "level": "WARNING"},
    }


def serve(host: str, port: int, workers: int, *, no_auth: bool) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        host: The address to listen on.
        port: The TCP port to listen on.
        workers: How many processes share the port. Each has its own connections to Redis.
        no_auth: Whether to accept requests without an API key.

    Raises:
        SettingsError: a setting is not valid.
        JobStatusError: the address cannot be listened on.
    """
    if no_auth:
        os.environ["JOBSTATUS_NO_AUTH"] = "1"  # Granian's processes read the environment
    settings = _fitting(ServiceSettings.from_env())
    logging.config.dictConfig(logging_config(settings.log_format))
    create_app()  # report invalid settings once, before any process is started
    _check_address_is_free(host, port)
    forward_drain_signal()
    _raise_open_files_limit(settings.max_watchers)
    with tempfile.TemporaryDirectory(prefix="jobstatus-") as directory:
        if workers > 1:
            os.environ[DIRECTORY_VARIABLE] = directory
        _serve(host, port, workers, settings)


def _serve(host: str, port: int, workers: int, settings: ServiceSettings) -> None:
    Server(
        "jobstatus_service.http.app:create_app",
        address=host,
        port=port,
        workers=workers,
        interface=Interfaces.ASGI,
        loop=Loops.uvloop,
        http=HTTPModes.http1,  # detecting HTTP/2 costs 12 KiB for each connection
        factory=True,
        websockets=False,
        runtime_mode=RuntimeModes.mt,
        runtime_threads=2,  # some 5 % more reads than with one thread, even on one core
        http1_settings=HTTP1Settings(
            header_read_timeout=round(1000 * settings.client_timeout),
            max_buffer_size=_HTTP_BUFFER_BYTES,
        ),
        log_dictconfig=logging_config(settings.log_format),
        respawn_failed_workers=True,
        backpressure=settings.max_watchers + _MAX_CONCURRENT_READS,
        workers_kill_timeout=_KILL_TIMEOUT_SECONDS,
    ).serve()


def _fitting(settings: ServiceSettings) -> ServiceSettings:
    """Return settings whose watchers fit into the limit of open files, unless they name a number.

    Granian's processes read the number from the environment.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if os.environ.get(_MAX_WATCHERS) or hard == resource.RLIM_INFINITY:
        return settings
    fitting = min(settings.max_watchers, max(0, hard - _MAX_CONCURRENT_READS - _OTHER_OPEN_FILES))
    os.environ[_MAX_WATCHERS] = str(fitting)
    return replace(settings, max_watchers=fitting)


def _raise_open_files_limit(max_watchers: int) -> None:
    """Raise the limit of open files to what the connections need, or to the hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = max_watchers + _MAX_CONCURRENT_READS + _OTHER_OPEN_FILES
    if hard != resource.RLIM_INFINITY and hard < needed:
        _log.warning(
            "JOBSTATUS_MAX_WATCHERS is %d, which needs %d open files, but their limit is %d: raise "
            "the hard limit (systemd: LimitNOFILE, Docker: --ulimit nofile), or lower the setting "
            "to at most %d",
            max_watchers,
            needed,
            hard,
            max(0, hard - _MAX_CONCURRENT_READS - _OTHER_OPEN_FILES),
        )
        needed = hard
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _check_address_is_free(host: str, port: int) -> None:
    """Reject an address where another process listens, which Granian would share silently.

    Raises:
        JobStatusError: the address cannot be listened on.
    """
    try:
        family, kind, number, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, number) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise JobStatusError(f"cannot listen on {host}:{port}: {error}") from None
