"""`jobstatus serve`: the application under Granian."""

import logging.config
import os
import socket
from typing import Any

from granian.constants import Interfaces, Loops
from granian.server import Server

from jobstatus.errors import JobStatusError
from jobstatus_service.app import create_app

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
    create_app()
    _must_be_free(host, port)
    Server(
        "jobstatus_service.app:create_app",
        address=host,
        port=port,
        workers=workers,
        interface=Interfaces.ASGI,
        loop=Loops.uvloop,
        factory=True,
        websockets=False,
        log_dictconfig=LOGGING,
        respawn_failed_workers=True,
        workers_kill_timeout=5,
    ).serve()


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
