"""SIGTERM: nobody is left hanging, nobody holds the process up."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from tests.processes import free_port, run, running
from tests.service.conftest import Put
from tests.waiting import eventually

JOB = UUID("67c73c6b-ecba-4a4c-bb18-3f37aa64c2f8")
URL = f"/api/jobs/{JOB}"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_drain(service_url: str, put: Put, workers: str) -> None:
    """Waits are answered, streams end with a delay, the process ends well within 5 s."""
    put(JOB)
    with serving(service_url, workers) as (process, client):
        told: list[httpx.Response] = []
        paths = [f"{URL}?wait=30", f"{URL}?wait=30&until=done", f"{URL}/events"] * 5
        pollers = [
            threading.Thread(target=lambda path=path: told.append(client.get(path)))
            for path in paths
        ]
        for poller in pollers:
            poller.start()
        eventually(lambda: _open(client) == len(paths))
        began_at = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert time.monotonic() - began_at < 5
        for poller in pollers:
            poller.join()
        assert [response.status_code for response in told] == [200] * len(paths)
        assert sum("retry: " in response.text for response in told) == 5
        assert process.stdout is not None
        output = process.stdout.read()
    assert "Traceback" not in output
    assert "rror" not in output


def test_drain_command(service_url: str, put: Put) -> None:
    """A drained server is not ready and sends clients away, but answers until SIGTERM."""
    put(JOB)
    with (
        serving(service_url, "2") as (process, client),
        ThreadPoolExecutor(2) as threads,
    ):
        waiting = threads.submit(client.get, f"{URL}?wait=30")
        following = threads.submit(client.get, f"{URL}/events")
        eventually(lambda: _open(client) == 2)
        assert "connection" not in client.get(URL).headers
        status, output = run("jobstatus", "drain", "--pid", str(process.pid), "--wait", "0.5")
        assert (status, output) == (0, "")
        assert waiting.result(5).headers["connection"] == "close"
        assert "retry: " in following.result(5).text
        for path in (URL, f"{URL}?wait=30", f"{URL}/events", "/api/jobs/none", "/livez"):
            for _ in range(4):  # whichever process it is
                answer = client.get(path)
                assert answer.headers["connection"] == "close"
                assert answer.status_code == (422 if "none" in path else 200)
        assert client.get("/readyz").status_code == 503
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_child_that_dies_while_draining(service_url: str) -> None:
    """A process that takes the place of one that died while draining drains as well."""
    with serving(service_url, "2") as (process, client):
        process.send_signal(signal.SIGUSR1)
        eventually(lambda: client.get("/readyz").status_code == 503)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        before = children.read_text().split()
        os.kill(int(before[0]), signal.SIGKILL)
        eventually(lambda: len(set(children.read_text().split()) - {before[0]}) == 2)

        def all_drain() -> bool:
            with contextlib.suppress(httpx.TransportError):
                answers = [client.get("/readyz") for _ in range(20)]
                return {answer.status_code for answer in answers} == {503}
            return False

        eventually(all_drain, 15)


def test_drain_while_starting(service_url: str) -> None:
    """A server that is told to drain while it starts does so as soon as it serves."""
    with serving(service_url, "1", state=503, early=[signal.SIGUSR1]) as (process, client):
        assert client.get("/livez").headers["connection"] == "close"
        assert process.poll() is None


@pytest.mark.parametrize("whose", ["the container's", "this test's", "nobody's"])
def test_nobody_to_drain(whose: str) -> None:
    """What is no server of ours is left alone, with one line."""
    pid = {"the container's": None, "this test's": os.getpid(), "nobody's": 2**22 + 1}[whose]
    options = [] if pid is None else ["--pid", str(pid)]
    status, output = run("jobstatus", "drain", *options)
    assert status == 1
    assert output.startswith(f"jobstatus: process {pid or 1} is not `jobstatus serve`")
    assert output.count("\n") == 1


@contextlib.contextmanager
def serving(
    service_url: str, workers: str, *, state: int = 200, early: Sequence[signal.Signals] = ()
) -> Iterator[tuple["subprocess.Popen[str]", httpx.Client]]:
    """`jobstatus serve`, once `/readyz` answers with `state`; signals are sent before that."""
    port = free_port()
    environ = {"JOBSTATUS_REDIS_URL": service_url, "JOBSTATUS_API_KEYS": "secret"}
    command = ("jobstatus", "serve", "--port", str(port), "--workers", workers)
    with (
        running(*command, **environ) as process,
        httpx.Client(
            base_url=f"http://127.0.0.1:{port}", headers={"Authorization": "secret"}, timeout=20
        ) as client,
    ):

        def is_there() -> bool:
            assert process.poll() is None
            if early:
                blocked = Path(f"/proc/{process.pid}/status").read_text().partition("SigBlk:")[2]
                if int(blocked.split()[0], 16) & 1 << (signal.SIGUSR1 - 1):
                    for number in early:
                        process.send_signal(number)
            with contextlib.suppress(httpx.TransportError):
                return client.get("/readyz").status_code == state
            return False

        eventually(is_there, 30)
        yield process, client


def _open(client: httpx.Client) -> float:
    text = client.get("/metrics").text
    names = ("jobstatus_long_polls_open ", "jobstatus_streams_open ")
    return sum(float(line.split()[1]) for line in text.splitlines() if line.startswith(names))
