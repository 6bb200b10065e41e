"""What the demo does, in order, and what it prints."""

import asyncio
import contextlib
import secrets
import shutil
import signal
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from types import FrameType

from arq.connections import RedisSettings

from jobstatus import JobState, JobStatus, job_uuid
from jobstatus.arq import create_pool
from jobstatus_service.demo.processes import DemoError, free_port, service, valkey, worker

_POLL = 0.2
"""Seconds between two polls."""

_BAR = 30
"""Characters of the progress bar."""


def run(path: Path | None, *, once: bool, port: int) -> int:
    """Run the demo.

    Args:
        path: The folder whose files to checksum; None: the standard library.
        once: Whether to end when the job is over.
        port: TCP port of the service; 0 for a free one.

    Returns:
        The exit status: 0 if the job succeeded, 130 if the demo was interrupted.

    Raises:
        DemoError: it can't be done.
    """
    root = (path or Path(sysconfig.get_paths()["stdlib"])).resolve()
    if not root.is_dir():
        raise DemoError(f"{root} is no folder")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    manifest = Path(tempfile.mkdtemp(prefix="jobstatus-demo-")) / "MANIFEST.sha256"
    try:
        with _everything(port or free_port()) as (redis_url, connection, key):
            status = _one_job(redis_url, connection, key, root, manifest)
            if not once:
                print("Ctrl-C ends the demo and removes its files, the manifest too.", flush=True)
                signal.pause()
    except KeyboardInterrupt:
        print("\ninterrupted: everything is stopped and removed", flush=True)
        shutil.rmtree(manifest.parent)
        return 130
    if status.state is JobState.SUCCEEDED:
        print(f"check it with: sha256sum -c --quiet {manifest}", flush=True)
        return 0
    shutil.rmtree(manifest.parent)
    return 1


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def _everything(port: int) -> Iterator[tuple[str, HTTPConnection, str]]:
    """All three processes; gives Redis's URL, a connection to the service, and an API key."""
    key = secrets.token_urlsafe(12)
    with (
        tempfile.TemporaryDirectory(prefix="jobstatus-demo-") as folder,
        valkey(Path(folder)) as redis_url,
        service(Path(folder), redis_url, port, key) as connection,
        worker(Path(folder), redis_url),
    ):
        yield redis_url, connection, key


def _one_job(
    redis_url: str, connection: HTTPConnection, key: str, root: Path, manifest: Path
) -> JobStatus:
    """Enqueue the job, say how to ask for it, and show its progress until it is over."""
    job_id = asyncio.run(_enqueue(redis_url, root, manifest))
    path = f"/api/jobs/{job_uuid(job_id)}"
    print(f"folder:    {root}")
    print(f"manifest:  {manifest}")
    print(f"job:       {job_uuid(job_id)}")
    print(f"ask:       curl -H 'Authorization: {key}' http://127.0.0.1:{connection.port}{path}")
    print(flush=True)
    shown = None
    while True:
        connection.request("GET", path, headers={"Authorization": key})
        response = connection.getresponse()
        body = response.read()
        if response.status != 200:  # noqa: PLR2004
            raise DemoError(f"the service answered {response.status}: {body.decode()}")
        status = JobStatus.from_json(body)
        shown = _show(status, shown)
        if status.state.is_final:
            print(f"\nthe last answer:\n{body.decode()}\n", flush=True)
            return status
        time.sleep(_POLL)


async def _enqueue(redis_url: str, root: Path, manifest: Path) -> str:
    pool = await create_pool(RedisSettings.from_dsn(redis_url))
    try:
        job = await pool.enqueue_job("checksum", str(root), str(manifest))
    finally:
        await pool.aclose()
    if job is None:
        raise DemoError("the job could not be enqueued")
    return job.job_id


def _show(status: JobStatus, last: str | None) -> str:
    """Show the progress: one line that is drawn anew in a terminal, else a line per change."""
    done = round(_BAR * status.progress / 100)
    bar = f"[{'#' * done:{_BAR}}] {status.state}"
    text = f"[{'#' * done:{_BAR}}] {status.progress:6.2f} %  {status.state}"
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
        print(f"\r\x1b[K{f'{text}  {status.reason}'[: width - 1]}", end="", flush=True)
    elif bar != last:
        print(f"{text}  {status.reason}".rstrip(), flush=True)
    return bar
