"""`jobstatus serve`: the application under Granian."""

import logging.config
import os
from typing import Any

from granian.constants import Interfaces, Loops
from granian.server import Server

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
    """
    if no_auth:
        os.environ["JOBSTATUS_NO_AUTH"] = "1"  # the server's processes read the environment
    logging.config.dictConfig(LOGGING)
    create_app()
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
