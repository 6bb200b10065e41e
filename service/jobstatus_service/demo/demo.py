"""The steps of the demo, and what it prints."""

import asyncio
import contextlib
import secrets
import shutil
import signal
import socket
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

from arq.connections import RedisSettings

from jobstatus import JobState, JobStatus, job_uuid
from jobstatus.arq import create_pool
from jobstatus_client import Client
from jobstatus_client.command.output import output
from jobstatus_service.demo.processes import (
    DemoError,
    free_port,
    running_service,
    running_valkey,
    running_worker,
)

_SIGNAL_DELIVERY_SECONDS: Final = 0.5
_TEMPORARY_PREFIX: Final = "jobstatus-demo-"

_STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(path: Path | None, *, once: bool, port: int) -> int:
    """Run the demo. The process is expected to exit afterwards: signal handlers are not restored.

    Args:
        path: The folder whose files to hash; None for Python's standard library.
        once: Whether to stop when the job has finished, instead of serving until Ctrl-C.
        port: The TCP port of the service; 0 for a free one.

    Returns:
        The exit status: 0 if the job succeeded, 1 if not, 130 if the demo was interrupted.

    Raises:
        DemoError: the demo cannot be run.
    """
    root = (path or Path(sysconfig.get_paths()["stdlib"])).resolve()
    if not root.is_dir():
        raise DemoError(f"{root} is not a folder")
    if port:
        _check_free(port)
    results: Path | None = None
    is_kept = False
    _raise_on_stop_signals()
    try:
        results = Path(tempfile.mkdtemp(prefix=_TEMPORARY_PREFIX))
        manifest = results / "MANIFEST.sha256"
        print("Starting Valkey, the service and a worker.\n", flush=True)
        with _running_processes(port or free_port()) as (redis_url, service_url, api_key):
            status = _run_job(redis_url, service_url, api_key, root, manifest)
            if not once:
                print("The page is still live, and the service still answers the commands above.")
                print("Press Ctrl-C to stop everything and remove all files.", flush=True)
                _sleep_until_interrupted()
        is_kept = status.state is JobState.SUCCEEDED
    except KeyboardInterrupt:
        print("\nInterrupted: all processes are stopped, all files are removed.", flush=True)
        return 130
    finally:
        if results is not None and not is_kept:
            shutil.rmtree(results)
    if not is_kept:
        return 1
    print("Everything is stopped; the manifest was kept. Check it against the files:")
    print(f"  sha256sum -c --quiet {manifest}", flush=True)
    return 0


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise DemoError(f"port {port} can't be used: {error.strerror}") from None


def _raise_on_stop_signals() -> None:
    """Raise KeyboardInterrupt on the first signal to stop; ignore further ones while cleaning up.

    SIGINT is handled even if it was ignored by the parent, as in background jobs of scripts. An
    ignored SIGHUP stays ignored: that is what nohup is for. The child processes are not affected:
    a signal with a handler has its default action in a new process.
    """

    def handle(_: int, __: FrameType | None) -> None:
        for number in _STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in _STOP_SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handle)


def _sleep_until_interrupted() -> NoReturn:
    """Sleep until a signal handler raises.

    `signal.pause` could miss a signal that arrives just before it is called: the signal would be
    handled only after the next one.
    """
    while True:
        time.sleep(_SIGNAL_DELIVERY_SECONDS)


@contextlib.contextmanager
def _running_processes(port: int) -> Iterator[tuple[str, str, str]]:
    """Run all three processes; yield the URLs of Redis and of the service, and an API key."""
    api_key = secrets.token_urlsafe(12)
    with (
        tempfile.TemporaryDirectory(prefix=_TEMPORARY_PREFIX) as name,
        running_valkey(Path(name)) as redis_url,
        running_service(Path(name), redis_url, port, api_key) as service_url,
        running_worker(Path(name), redis_url),
    ):
        yield redis_url, service_url, api_key


def _run_job(
    redis_url: str, service_url: str, api_key: str, root: Path, manifest: Path
) -> JobStatus:
    """Enqueue the job, and show its progress until it has finished. Return its final status."""
    job_id = job_uuid(asyncio.run(_enqueue(redis_url, root, manifest)))
    print(f"Job:       {job_id}")
    print(f"It writes: {manifest}")
    print(f"with the SHA-256 of every file in {root}\n")
    print("Watch it live in a browser (the link logs in):")
    print(f"  {service_url}/#key={api_key}\n")
    print("Read its status, or list all jobs, yourself while the service runs:")
    print(f"  export JOBSTATUS_URL={service_url} JOBSTATUS_KEY={api_key}")
    command = sys.argv[0] if sys.argv[0].endswith("jobstatus") else "jobstatus"
    print(f"  {command} get {job_id}")
    print(f"  {command} watch")
    print(f"  curl -H 'Authorization: {api_key}' {service_url}/api/jobs/{job_id}\n", flush=True)
    with Client(service_url, api_key) as client, output({}) as shown:
        details = client.wait(job_id, on_change=shown.show)
        status = client.get(job_id)
    print(f"\nThe service's last response:\n  {status.to_json().decode()}\n", flush=True)
    return details


async def _enqueue(redis_url: str, root: Path, manifest: Path) -> str:
    pool = await create_pool(RedisSettings.from_dsn(redis_url))
    try:
        job = await pool.enqueue_job("checksum", str(root), str(manifest))
    finally:
        await pool.aclose()
    if job is None:
        raise DemoError("the job could not be enqueued")
    return job.job_id
