"""SIGTERM: nobody is left hanging, nobody holds the process up."""

import signal
import threading
import time
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from tests.processes import free_port, running
from tests.service.conftest import Put
from tests.waiting import eventually

JOB = UUID("67c73c6b-ecba-4a4c-bb18-3f37aa64c2f8")
URL = f"/api/jobs/{JOB}"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_drain(redis_url: str, put: Put, workers: str, tmp_path: Path) -> None:
    """Waits are answered, streams end with a delay, the process ends well within 5 s."""
    put(JOB)
    port = free_port()
    environ = {"JOBSTATUS_REDIS_URL": redis_url, "JOBSTATUS_API_KEYS": "secret"}
    command = ("jobstatus", "serve", "--port", str(port), "--workers", workers)
    with (
        running(*command, **environ) as process,
        httpx.Client(
            base_url=f"http://127.0.0.1:{port}", headers={"Authorization": "secret"}, timeout=20
        ) as client,
    ):

        def ready() -> bool:
            try:
                return client.get("/readyz").status_code == 200
            except httpx.TransportError:
                return False

        eventually(ready, 30)
        told: list[httpx.Response] = []
        paths = [f"{URL}?wait=30", f"{URL}?wait=30&until=done", f"{URL}/events"] * 5
        pollers = [
            threading.Thread(target=lambda path=path: told.append(client.get(path)))
            for path in paths
        ]
        for poller in pollers:
            poller.start()
        eventually(lambda: _open(client) == len(paths))
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert time.monotonic() - begun < 5
        for poller in pollers:
            poller.join()
        assert [response.status_code for response in told] == [200] * len(paths)
        assert sum("retry: " in response.text for response in told) == 5
        assert process.stdout is not None
        output = process.stdout.read()
    assert "Traceback" not in output
    assert "rror" not in output


def _open(client: httpx.Client) -> float:
    text = client.get("/metrics").text
    names = ("jobstatus_waits_open ", "jobstatus_streams_open ")
    return sum(float(line.split()[1]) for line in text.splitlines() if line.startswith(names))
