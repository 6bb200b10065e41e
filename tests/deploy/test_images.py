"""The images can be built, and run with restricted rights, on a base image made from Debian."""

import re
import shutil
from collections.abc import Iterator
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from tests.deploy.containers import (
    BASE,
    Container,
    build,
    config,
    missing_requirements,
    prepare,
    running,
)
from tests.processes import ROOT, free_port
from tests.service.conftest import Put
from tests.waiting import eventually, is_ready

from jobstatus import job_uuid
from jobstatus.arq import create_pool, redis_settings

DOCKERFILE = ROOT / "deploy/Dockerfile"
SERVICE, WORKER = "jobstatus-service", "jobstatus-worker"
COMMENTS = [line[2:] for line in DOCKERFILE.read_text().splitlines() if line.startswith("#")]
RECIPES = re.findall(r"^  FROM jobstatus-worker\n(?:  .*\n?)+", "\n".join(COMMENTS), re.MULTILINE)


@pytest.fixture(scope="module")
def images() -> None:
    """Build both images as the head of the Dockerfile shows."""
    if missing := missing_requirements():
        pytest.skip(f"images cannot be built here; missing: {', '.join(missing)}")
    prepare()
    arguments = (f"BASE={BASE}", "VERSION=1.2.3", "REVISION=abc", "SOURCE=here")
    for name in (SERVICE, WORKER):
        target = ("--target", name.removeprefix("jobstatus-"))
        options = (f"--build-arg={argument}" for argument in arguments)
        build(name, DOCKERFILE, ROOT, *target, *options)


@pytest.fixture
def service(images: None, service_url: str, tmp_path: Path) -> Iterator[tuple[Container, str]]:
    """The image of the service, running with its own command on a free port, and its URL."""
    port = str(free_port())
    command = [port if word == "8000" else word for word in config(SERVICE)["Cmd"]]
    environ = {"JOBSTATUS_REDIS_URL": service_url, "JOBSTATUS_API_KEYS": "secret"}
    folder = tmp_path / "service"
    folder.mkdir()
    with running(SERVICE, folder, *command, **environ) as container:
        url = f"http://127.0.0.1:{port}"

        def ready() -> bool:
            assert container.process.poll() is None, (folder / "log").read_text()
            return is_ready(url)

        eventually(ready, 30)
        yield container, url


def poll(url: str, job: object) -> dict[str, Any]:
    """Return the status of a job that the service shows."""
    response = httpx.get(f"{url}/api/jobs/{job}", headers={"Authorization": "Bearer secret"})
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def test_configuration_of_the_images(images: None) -> None:
    """The images define user, command, stop signal, port and labels."""
    service, worker = config(SERVICE), config(WORKER)
    assert (service["Entrypoint"], worker["Entrypoint"]) == (["jobstatus"], ["jobstatus-worker"])
    assert service["Cmd"] == ["serve", "--host", "0.0.0.0", "--port", "8000"]
    assert service["ExposedPorts"] == {"8000/tcp": {}}
    assert not worker.get("Cmd")
    for image in (service, worker):
        assert (image["User"], image["StopSignal"]) == ("10001:10001", "SIGTERM")
        labels = {name.rpartition(".")[2]: text for name, text in image["Labels"].items()}
        assert labels.keys() >= {"title", "description"}
        names = ("licenses", "version", "revision", "source")
        assert [labels[name] for name in names] == ["MIT", "1.2.3", "abc", "here"]


def test_service(service: tuple[Container, str], put: Put) -> None:
    """The service runs as user 10001 on a read-only root, and exits with 0 after SIGTERM."""
    container, url = service
    job = uuid4()
    put(job, lease=60_000, progress=1.0)
    assert poll(url, job)["state"] == "in_progress"
    assert httpx.get(f"{url}/metrics").status_code == 200

    process = Path(f"/proc/{container.pid}")
    arguments = (process / "cmdline").read_text().split("\0")
    assert arguments[1:3] == ["/opt/jobstatus/bin/jobstatus", "serve"]
    status = (process / "status").read_text()
    assert re.search(r"^NSpid:\t.*\t1$", status, re.MULTILINE)
    for line in ("Uid:" + "\t10001" * 4, "Gid:" + "\t10001" * 4, "CapEff:\t" + "0" * 16):
        assert f"{line}\n" in status
    assert "Read-only" in container.call("touch", "/opt/jobstatus/mark").stderr
    assert container.call("find", "/", "-xdev", "-writable").stdout.split() == ["/tmp"]
    assert container.call("touch", "/tmp/mark").returncode == 0

    container.process.terminate()
    assert container.process.wait(10) == 0


def test_service_has_no_build_tools(service: tuple[Container, str]) -> None:
    """The image of the service contains no pip, neither its own nor the base's, and no compiler."""
    container, _ = service
    for tool in ("pip", "pip3", "cc", "gcc", "g++", "ld", "make", "cargo"):
        assert container.call("sh", "-c", f"command -v {tool}").returncode != 0, tool
    for python in ("python", "/usr/bin/python3"):
        for module in ("pip", "ensurepip"):
            assert "No module named" in container.call(python, "-m", module, "--version").stderr


@pytest.mark.parametrize("image", [SERVICE, WORKER])
def test_bytecode(images: None, tmp_path: Path, image: str) -> None:
    """All installed modules have bytecode, because a read-only container cannot write any."""
    with running(image, tmp_path, "--version") as container:
        assert container.process.wait(30) == 0
        library = container.root / "opt/jobstatus/lib/python3.13/site-packages"
        sources = list(library.rglob("*.py"))
        assert len(sources) > 300
        compiled = {cache_from_source(str(path)).rpartition(".cpython")[0] for path in sources}
        found = {str(path).rpartition(".cpython")[0] for path in library.rglob("*.cpython-313.pyc")}
        assert not compiled - found


def test_recipes() -> None:
    """The head of the Dockerfile shows a worker image without and one with dependencies."""
    assert [("pip install" in recipe) for recipe in RECIPES] == [False, True]


@pytest.mark.parametrize("recipe", RECIPES, ids=["plain", "with-dependencies"])
async def test_worker_image_of_a_user(
    service: tuple[Container, str], redis_url: str, tmp_path: Path, recipe: str
) -> None:
    """A worker image built as the Dockerfile shows runs a job, which is shown as succeeded."""
    folder = tmp_path / "worker"
    folder.mkdir()
    (folder / "Dockerfile").write_text(recipe)
    (folder / "requirements.txt").write_text("tqdm\n")
    shutil.copy(ROOT / "tests/deploy/app.py", folder)
    build("jobstatus-tests-user", folder / "Dockerfile", folder)

    _, url = service
    environ = {"JOBSTATUS_REDIS_URL": redis_url, "RUNS": "/tmp/runs"}
    with running("jobstatus-tests-user", folder, **environ) as worker:
        pool = await create_pool(redis_settings(redis_url))
        try:
            job = await pool.enqueue_job("work", steps=3)
        finally:
            await pool.aclose()
        assert job is not None
        eventually(lambda: poll(url, job_uuid(job.job_id))["state"] == "succeeded", 30)
        has_tqdm = worker.call("python", "-c", "import tqdm").returncode == 0
        assert has_tqdm == ("requirements.txt" in recipe)
        worker.process.terminate()
        assert worker.process.wait(10) == 0
