"""Shutting down without failing a request: SIGTERM, SIGUSR1 and `jobstatus drain`."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from tests.processes import free_port, run, running
from tests.service.conftest import JOB, URL, Put
from tests.waiting import eventually

MAX_SHUTDOWN_SECONDS = 5


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sigterm(service_url: str, put: Put, workers: str) -> None:
    """Long polls are answered, streams end with a reconnect delay, and the process ends soon."""
    put(JOB)
    with serving(service_url, workers) as (process, client):
        responses: list[httpx.Response] = []
        paths = [f"{URL}?wait=30", f"{URL}?wait=30&until=done", f"{URL}/events"] * 5
        pollers = [
            threading.Thread(target=lambda path=path: responses.append(client.get(path)))
            for path in paths
        ]
        for poller in pollers:
            poller.start()
        eventually(lambda: watchers_open(client) == len(paths))
        began_at = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert time.monotonic() - began_at < MAX_SHUTDOWN_SECONDS
        for poller in pollers:
            poller.join()
        assert [response.status_code for response in responses] == [200] * len(paths)
        assert sum("retry: " in response.text for response in responses) == 5
        assert process.stdout is not None
        output = process.stdout.read()
    assert "Traceback" not in output
    assert "rror" not in output


def test_drain_command(service_url: str, put: Put) -> None:
    """A drained server is not ready and closes connections, but responds until SIGTERM."""
    put(JOB)
    with (
        serving(service_url, "2") as (process, client),
        ThreadPoolExecutor(2) as threads,
    ):
        long_poll = threads.submit(client.get, f"{URL}?wait=30")
        stream = threads.submit(client.get, f"{URL}/events")
        eventually(lambda: watchers_open(client) == 2)
        assert "connection" not in client.get(URL).headers
        status, output = run("jobstatus", "drain", "--pid", str(process.pid), "--wait", "0.5")
        assert (status, output) == (0, "")
        assert long_poll.result(5).headers["connection"] == "close"
        assert "retry: " in stream.result(5).text
        for path in (URL, f"{URL}?wait=30", f"{URL}/events", "/api/jobs/none", "/livez"):
            for _ in range(4):  # so that both processes are asked
                response = client.get(path)
                assert response.headers["connection"] == "close"
                assert response.status_code == (422 if "none" in path else 200)
        assert client.get("/readyz").status_code == 503
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_child_that_dies_while_draining(service_url: str) -> None:
    """A process that replaces one that died while draining drains as well."""
    with serving(service_url, "2") as (process, client):
        process.send_signal(signal.SIGUSR1)
        eventually(lambda: client.get("/readyz").status_code == 503)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        before = children.read_text().split()
        os.kill(int(before[0]), signal.SIGKILL)
        eventually(lambda: len(set(children.read_text().split()) - {before[0]}) == 2)

        def all_are_draining() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return {client.get("/readyz").status_code for _ in range(20)} == {503}
            return False

        eventually(all_are_draining, 15)


def test_drain_while_starting(service_url: str) -> None:
    """A server that receives SIGUSR1 while it starts drains as soon as it has started."""
    with serving(service_url, "1", ready_status=503, early=[signal.SIGUSR1]) as (process, client):
        assert client.get("/livez").headers["connection"] == "close"
        assert process.poll() is None


@pytest.mark.parametrize("pid", [None, os.getpid(), 2**22 + 1], ids=["1", "own", "none"])
def test_process_that_is_not_a_server(pid: int | None) -> None:
    """A process that isn't a server, or doesn't exist, is sent no signal; one line says why."""
    options = [] if pid is None else ["--pid", str(pid)]
    status, output = run("jobstatus", "drain", *options)
    assert status == 1
    assert output.startswith(f"jobstatus: process {pid or 1} is not `jobstatus serve`")
    assert output.count("\n") == 1


@contextlib.contextmanager
def serving(
    service_url: str,
    workers: str,
    *,
    ready_status: int = 200,
    early: Sequence[signal.Signals] = (),
) -> Iterator[tuple["subprocess.Popen[str]", httpx.Client]]:
    """Run `jobstatus serve`; gives it and a client once `/readyz` responds as expected.

    Args:
        service_url: The URL of Redis.
        workers: How many processes share the port.
        ready_status: The status of `/readyz` to wait for.
        early: Signals to send while the server starts.
    """
    port = free_port()
    environ = {"JOBSTATUS_REDIS_URL": service_url, "JOBSTATUS_API_KEYS": "secret"}
    command = ("jobstatus", "serve", "--port", str(port), "--workers", workers)
    with (
        running(*command, **environ) as process,
        httpx.Client(
            base_url=f"http://127.0.0.1:{port}", headers={"Authorization": "secret"}, timeout=20
        ) as client,
    ):

        def is_ready() -> bool:
            assert process.poll() is None
            if early:
                blocked = Path(f"/proc/{process.pid}/status").read_text().partition("SigBlk:")[2]
                if int(blocked.split()[0], 16) & 1 << (signal.SIGUSR1 - 1):
                    for number in early:
                        process.send_signal(number)
            with contextlib.suppress(httpx.TransportError):
                return client.get("/readyz").status_code == ready_status
            return False

        eventually(is_ready, 30)
        yield process, client


def watchers_open(client: httpx.Client) -> float:
    text = client.get("/metrics").text
    names = ("jobstatus_long_polls_open ", "jobstatus_streams_open ")
    return sum(float(line.split()[1]) for line in text.splitlines() if line.startswith(names))
