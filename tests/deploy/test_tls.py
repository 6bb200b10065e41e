"""Redis over TLS, with a private certificate authority and required client certificates."""

import asyncio
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.deploy.app import WORKER
from tests.deploy.certificates import make_authority, make_certificate
from tests.deploy.tools import tool
from tests.processes import free_port, run, running, service
from tests.waiting import eventually

from jobstatus import Publisher, job_uuid
from jobstatus.arq import create_pool


class TlsServer(NamedTuple):
    """The URL of a server, and the files that a client needs."""

    url: str
    ca: Path
    cert: Path
    key: Path

    @property
    def environ(self) -> dict[str, str]:
        """The environment variables for the service and for workers."""
        return {
            "JOBSTATUS_REDIS_URL": self.url,
            "JOBSTATUS_REDIS_CA_FILE": str(self.ca),
            "JOBSTATUS_REDIS_CERT_FILE": str(self.cert),
            "JOBSTATUS_REDIS_KEY_FILE": str(self.key),
        }


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsServer]:
    """Debian's Redis server with TLS, which the embedded Valkey does not support."""
    folder = tmp_path_factory.mktemp("tls")
    make_authority(folder, "ca")
    make_authority(folder, "other-ca")
    make_certificate(folder, "server", "ca")
    make_certificate(folder, "client", "ca")
    port = free_port()
    options: dict[str, Any] = {
        "port": 0,
        "tls-port": port,
        "tls-cert-file": folder / "server.crt",
        "tls-key-file": folder / "server.key",
        "tls-ca-cert-file": folder / "ca.crt",
        "tls-auth-clients": "yes",
        "save": "",
    }
    arguments = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [tool("redis-server"), *arguments], stdout=log, stderr=log, cwd=folder
        )
    try:
        eventually(lambda: "eady to accept" in (folder / "log").read_text())
        yield TlsServer(
            f"rediss://127.0.0.1:{port}/0",
            folder / "ca.crt",
            folder / "client.crt",
            folder / "client.key",
        )
    finally:
        server.terminate()
        server.wait()


async def _enqueue() -> None:
    pool = await create_pool()
    await pool.enqueue_job("work", 2, 0.01, _job_id="z")
    await pool.aclose()


def test_jobs(tls: TlsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Publishing, polling with the cache, the queue and the command-line tool work over TLS."""
    environ = tls.environ | {"RUNS": str(tmp_path / "runs")}
    url = environ.pop("JOBSTATUS_REDIS_URL")
    files: dict[str, Any] = {
        "ca_file": str(tls.ca),
        "cert_file": str(tls.cert),
        "key_file": str(tls.key),
    }
    with (
        service(url, **environ) as client,
        Publisher.from_url(url, **files) as publisher,
        running(*WORKER, JOBSTATUS_REDIS_URL=url, **environ) as worker,
    ):
        with publisher.job("x", name="tls") as report:
            report.progress(40)
            path = f"/api/jobs/{job_uuid('x')}"
            eventually(lambda: client.get(path).json()["progress"] == 40)
        eventually(lambda: client.get(path).json()["state"] == "succeeded", 2)
        assert "jobstatus_cache_valid 1.0" in client.get("/metrics").text
        status, output = run("jobstatus-report", "y", "--state", "succeeded", **tls.environ)
        assert status == 0, output
        assert client.get(f"/api/jobs/{job_uuid('y')}").json()["state"] == "succeeded"
        for name, value in tls.environ.items():
            monkeypatch.setenv(name, value)
        asyncio.run(_enqueue())
        path = f"/api/jobs/{job_uuid('z')}"
        eventually(lambda: client.get(path).json()["state"] == "succeeded")
        assert worker.poll() is None


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("JOBSTATUS_REDIS_CA_FILE", "other-ca.crt"),
        ("JOBSTATUS_REDIS_CERT_FILE", ""),
    ],
)
def test_rejected_certificates(tls: TlsServer, name: str, file: str) -> None:
    """One line reports that the server's certificate is not trusted, or the client's is missing."""
    environ = tls.environ
    if file:
        environ[name] = str(tls.ca.with_name(file))
    else:
        del environ["JOBSTATUS_REDIS_CERT_FILE"], environ["JOBSTATUS_REDIS_KEY_FILE"]
    status, output = run("jobstatus-report", "x", "--state", "succeeded", **environ)
    assert status == 1
    assert output.startswith("jobstatus-report: ")
    assert output.count("\n") == 1


def test_client_without_tls(tls: TlsServer) -> None:
    """A client that does not use TLS fails within 10 s with one line."""
    began_at = time.monotonic()
    url = tls.url.replace("rediss", "redis")
    status, output = run("jobstatus-report", "x", JOBSTATUS_REDIS_URL=url)
    assert status == 1
    assert output.count("\n") == 1
    assert time.monotonic() - began_at < 10
