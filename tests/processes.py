"""Start the project's console scripts as processes of their own, and stop them by pid."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
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
    """Return this process's environment without `JOBSTATUS_*`, and with `environ`."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("JOBSTATUS_")}
    return inherited | environ


def start(
    script: str, *arguments: str, log: IO[str] | None = None, **environ: str
) -> "subprocess.Popen[str]":
    """Start a console script.

    Args:
        script: Its name.
        *arguments: Its arguments.
        log: Where its output goes, stdout and stderr alike; by default to the pipe `stdout`.
        **environ: Environment variables to add.
    """
    # Handle SIGINT as usual, even if it is ignored in pytest and thus in its children.
    return _start("default_int_handler", script, arguments, log, environ)


def start_ignoring_sigint(script: str, *arguments: str, **environ: str) -> "subprocess.Popen[str]":
    """Start a console script whose parent ignores SIGINT, as a background job of a script does."""
    return _start("SIG_IGN", script, arguments, None, environ)


def _start(
    sigint: str,
    script: str,
    arguments: Sequence[str],
    log: IO[str] | None,
    environ: dict[str, str],
) -> "subprocess.Popen[str]":
    prepare = f"import signal; signal.signal(signal.SIGINT, signal.{sigint})"
    return subprocess.Popen(
        [sys.executable, "-c", f"{prepare}; {SCRIPTS[script]}", *arguments],
        env=environment(**environ),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=log or subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(script: str, *arguments: str, **environ: str) -> tuple[int, str]:
    """Run a console script until it exits; return its exit status and output."""
    process = start(script, *arguments, log=None, **environ)
    output, _ = process.communicate(timeout=60)
    return process.returncode, output


@contextlib.contextmanager
def running(script: str, *arguments: str, **environ: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a console script while the block runs; stop it afterwards if it has not exited."""
    process = start(script, *arguments, log=None, **environ)
    with stopping(process):
        yield process


@contextlib.contextmanager
def stopping(process: "subprocess.Popen[str]") -> Iterator["subprocess.Popen[str]"]:
    """Stop a process after the block if it has not exited."""
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)  # a test may have stopped it with SIGSTOP
            process.terminate()  # SIGKILL would leave its child processes running
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(6)
            process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def free_port() -> int:
    """Return a TCP port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def service(redis_url: str, *options: str, **environ: str) -> Iterator[httpx.Client]:
    """Run `jobstatus serve` on a free port; yield a client with the API key `secret`.

    On leaving the block, the service must exit with status 0 on SIGTERM.
    """
    port = free_port()
    environ = {"JOBSTATUS_REDIS_URL": redis_url, "JOBSTATUS_API_KEYS": "secret", **environ}
    with running("jobstatus", "serve", "--port", str(port), *options, **environ) as process:
        headers = {"Authorization": "Bearer secret"}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers) as client:

            def is_ready() -> bool:
                assert process.poll() is None, process.communicate()[0]
                with contextlib.suppress(httpx.TransportError):
                    return client.get("/readyz").status_code == 200
                return False

            eventually(is_ready, 30)
            yield client
            process.terminate()
            assert process.wait(10) == 0
