"""Redis over TLS: a server of its own CA, which asks for a client certificate."""

import asyncio
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.deploy.tools import tool
from tests.processes import free_port, run, running, service
from tests.waiting import eventually

from jobstatus import Publisher, job_uuid
from jobstatus.arq import create_pool

WORKER = ("jobstatus-worker", "tests.deploy.app.WorkerSettings")


class Tls(NamedTuple):
    """A server, and the files that it takes to speak to it."""

    url: str
    ca: Path
    cert: Path
    key: Path

    @property
    def environ(self) -> dict[str, str]:
        """What both sides are told."""
        return {
            "JOBSTATUS_REDIS_URL": self.url,
            "JOBSTATUS_REDIS_CA_FILE": str(self.ca),
            "JOBSTATUS_REDIS_CERT_FILE": str(self.cert),
            "JOBSTATUS_REDIS_KEY_FILE": str(self.key),
        }


def _openssl(*words: str) -> None:
    subprocess.run([tool("openssl"), *words], check=True, capture_output=True)


def _certify(folder: Path, name: str, ca: str) -> None:
    """A certificate for 127.0.0.1 by a CA that lies in the same folder."""
    request, extension = folder / f"{name}.csr", folder / f"{name}.ext"
    extension.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    _openssl(
        *("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}"),
        *("-keyout", str(folder / f"{name}.key"), "-out", str(request)),
    )
    _openssl(
        *("x509", "-req", "-in", str(request), "-days", "2", "-extfile", str(extension)),
        *("-CA", str(folder / f"{ca}.crt"), "-CAkey", str(folder / f"{ca}.key"), "-CAcreateserial"),
        *("-out", str(folder / f"{name}.crt")),
    )


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tls]:
    """Debian's Redis, which has TLS; the embedded Valkey hasn't."""
    folder = tmp_path_factory.mktemp("tls")
    for ca in ("ca", "stranger"):
        _openssl(
            *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={ca}"),
            *("-keyout", str(folder / f"{ca}.key"), "-out", str(folder / f"{ca}.crt")),
        )
    _certify(folder, "server", "ca")
    _certify(folder, "client", "ca")
    _certify(folder, "other", "stranger")
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
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [tool("redis-server"), *words], stdout=log, stderr=log, cwd=folder
        )
    try:
        eventually(lambda: "eady to accept" in (folder / "log").read_text())
        yield Tls(
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


def test_both_sides(tls: Tls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job is published and polled over TLS, near cache and all; the queue is there too."""
    environ = tls.environ | {"RUNS": str(tmp_path / "runs")}
    url = environ.pop("JOBSTATUS_REDIS_URL")
    files = {"ca_file": str(tls.ca), "cert_file": str(tls.cert), "key_file": str(tls.key)}
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
        z = f"/api/jobs/{job_uuid('z')}"
        eventually(lambda: client.get(z).json()["state"] == "succeeded")
        assert worker.poll() is None


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("JOBSTATUS_REDIS_CA_FILE", "stranger.crt"),
        ("JOBSTATUS_REDIS_CERT_FILE", ""),
    ],
)
def test_strangers(tls: Tls, name: str, file: str) -> None:
    """A server that a stranger vouches for is not believed; nobody is let in uncertified."""
    environ = tls.environ
    if file:
        environ[name] = str(tls.ca.with_name(file))
    else:
        del environ["JOBSTATUS_REDIS_CERT_FILE"], environ["JOBSTATUS_REDIS_KEY_FILE"]
    status, output = run("jobstatus-report", "x", "--state", "succeeded", **environ)
    assert status == 1
    assert output.startswith("jobstatus-report: ")
    assert output.count("\n") == 1


def test_plain_client(tls: Tls) -> None:
    """A client without TLS gets one clear line, soon."""
    began_at = time.monotonic()
    url = tls.url.replace("rediss", "redis")
    status, output = run("jobstatus-report", "x", JOBSTATUS_REDIS_URL=url)
    assert status == 1
    assert output.count("\n") == 1
    assert time.monotonic() - began_at < 10
