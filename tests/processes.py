"""Processes under test: started for real, ended by pid."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import httpx
from tests.waiting import eventually

ROOT = Path(__file__).parents[1]
SCRIPTS = {
    "jobstatus": "from jobstatus_service.command import main; main()",
    "jobstatus-report": "from jobstatus.report_command import main; main()",
    "jobstatus-worker": "from jobstatus.worker_command import main; main()",
}


def environment(**environ: str) -> dict[str, str]:
    """This process's environment without settings of ours, and with `environ`."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith("JOBSTATUS_")}
    return plain | environ


def start(
    script: str, *arguments: str, log: IO[str] | None = None, **environ: str
) -> "subprocess.Popen[str]":
    """Start a console script; its output, both streams, goes to `log`, else to `stdout`."""
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPTS[script], *arguments],
        env=environment(**environ),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=log or subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(script: str, *arguments: str, **environ: str) -> tuple[int, str]:
    """Run a console script to its end; its exit status and output."""
    process = start(script, *arguments, log=None, **environ)
    output, _ = process.communicate(timeout=60)
    return process.returncode, output


@contextlib.contextmanager
def running(script: str, *arguments: str, **environ: str) -> Iterator["subprocess.Popen[str]"]:
    """A console script that is ended with the block if it still runs."""
    process = start(script, *arguments, log=None, **environ)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.terminate()  # it may have processes of its own
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(6)
            process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def service(redis_url: str, *options: str, **environ: str) -> Iterator[httpx.Client]:
    """`jobstatus serve` on a free port, ready; gives a poller with the key `secret`."""
    port = free_port()
    environ = {"JOBSTATUS_REDIS_URL": redis_url, "JOBSTATUS_API_KEYS": "secret", **environ}
    with running("jobstatus", "serve", "--port", str(port), *options, **environ) as process:
        headers = {"Authorization": "Bearer secret"}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers) as client:

            def ready() -> bool:
                assert process.poll() is None, process.communicate()[0]
                with contextlib.suppress(httpx.TransportError):
                    return client.get("/readyz").status_code == 200
                return False

            eventually(ready, 30)
            yield client
            process.terminate()
            assert process.wait(10) == 0
