"""`jobstatus serve`: the application under Granian."""

import logging.config
import os
import resource
import socket
import tempfile
from typing import Any, Final

from granian.constants import HTTPModes, Interfaces, Loops, RuntimeModes
from granian.http import HTTP1Settings
from granian.server import Server

from jobstatus.errors import JobStatusError
from jobstatus.logs import formatter
from jobstatus_service.http.app import application
from jobstatus_service.http.drain import forward_drain_signal
from jobstatus_service.metrics.multiprocess import DIRECTORY_VARIABLE
from jobstatus_service.settings import ServiceSettings

_READS: Final = 2_000
"""Requests that one process handles at once beside waits and streams; more wait their turn."""

_HEAD: Final = 32_768
"""Bytes of a request's head that are read at once; how long it may be, the application says."""

_OTHER_FILES: Final = 200

_log = logging.getLogger("jobstatus.service")


def logging_config(kind: str) -> dict[str, Any]:
    """Logging of the service.

    Args:
        kind: `text` or `json`.
    """
    ours = {"handlers": ["stderr"], "level": "INFO", "propagate": False}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": formatter(kind)},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "loggers": {"jobstatus": ours, "_granian": ours},
        "root": {"handlers": ["stderr"], "level": "WARNING"},
    }


def serve(host: str, port: int, workers: int, *, no_auth: bool) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        host: Address to listen on.
        port: TCP port to listen on.
        workers: Processes that share the port; each has its own connections to Redis.
        no_auth: Whether everybody may ask for everything.

    Raises:
        SettingsError: a setting can't be used; nothing was started.
        JobStatusError: the address can't be listened on.
    """
    if no_auth:
        os.environ["JOBSTATUS_NO_AUTH"] = "1"  # the server's processes read the environment
    settings = ServiceSettings.from_env()
    logging.config.dictConfig(logging_config(settings.log_format))
    application()  # what can't be used is said here, once
    _must_be_free(host, port)
    forward_drain_signal()
    _allow_open_files(settings.max_watchers + _READS)
    with tempfile.TemporaryDirectory(prefix="jobstatus-") as folder:
        if workers > 1:
            os.environ[DIRECTORY_VARIABLE] = folder
        _serve(host, port, workers, settings)


def _serve(host: str, port: int, workers: int, settings: ServiceSettings) -> None:
    Server(
        "jobstatus_service.http.app:application",
        address=host,
        port=port,
        workers=workers,
        interface=Interfaces.ASGI,
        loop=Loops.uvloop,
        http=HTTPModes.http1,  # telling HTTP/2 apart costs 12 KiB for each connection
        factory=True,
        websockets=False,
        runtime_mode=RuntimeModes.mt,
        runtime_threads=2,  # some 5 % more reads than with one, even on one core
        http1_settings=HTTP1Settings(
            header_read_timeout=round(1000 * settings.client_timeout),
            max_buffer_size=_HEAD,
        ),
        log_dictconfig=logging_config(settings.log_format),
        respawn_failed_workers=True,
        backpressure=settings.max_watchers + _READS,
        workers_kill_timeout=4,
    ).serve()


def _allow_open_files(connections: int) -> None:
    """Allow as many open files as there may be connections, or as many as may be allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHER_FILES
    if hard != resource.RLIM_INFINITY and hard < wanted:
        _log.warning("at most %d connections: the limit of open files is %d", hard, hard)
        wanted = hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _must_be_free(host: str, port: int) -> None:
    """Refuse an address that somebody listens on: the server itself would share it silently."""
    try:
        family, kind, number, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, number) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise JobStatusError(f"can't listen on {host}:{port}: {error}") from None
