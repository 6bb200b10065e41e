"""`jobstatus serve`: the application under Granian."""

import logging.config
import os
import resource
import socket
import tempfile
from typing import Any, Final

from granian.constants import HTTPModes, Interfaces, Loops, RuntimeModes
from granian.server import Server

from jobstatus.errors import JobStatusError
from jobstatus_service.app import create_app
from jobstatus_service.drain import passing_drain_on
from jobstatus_service.processes import VARIABLE as METRICS_DIR

_READS: Final = 2_000
"""Requests that one process handles at once beside waits and streams; more wait their turn."""

_OTHER_FILES: Final = 200

_log = logging.getLogger("jobstatus.service")

LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "loggers": {
        "jobstatus": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
        "_granian": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
    },
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
    logging.config.dictConfig(LOGGING)
    settings = create_app().state.settings
    _must_be_free(host, port)
    passing_drain_on()
    _allow_open_files(settings.watchers + _READS)
    with tempfile.TemporaryDirectory(prefix="jobstatus-") as folder:
        if workers > 1:
            os.environ[METRICS_DIR] = folder
        _serve(host, port, workers, settings.watchers + _READS)


def _serve(host: str, port: int, workers: int, requests: int) -> None:
    Server(
        "jobstatus_service.app:create_app",
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
        log_dictconfig=LOGGING,
        respawn_failed_workers=True,
        backpressure=requests,
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
