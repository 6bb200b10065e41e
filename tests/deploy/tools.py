"""Programs that these tests need and that the extra `dev` does not install.

`.ci/tools` installs them: Debian packages, and a folder `.tools` with virtual environments and with
npm packages.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.processes import ROOT

TOOLS = ROOT / ".tools" / "bin"

PACKAGING = ROOT / ".tools" / "packaging" / "bin"
"""The virtual environment of the tools that build and check packages."""

_FOLDERS = (
    *(TOOLS, PACKAGING, ROOT / ".tools" / "node_modules" / ".bin"),
    *("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"),
)


def tool(name: str) -> str:
    """Return the path of the program, and fail the test if it is not installed."""
    found = shutil.which(name, path=os.pathsep.join(map(str, _FOLDERS)))
    if found is None:
        pytest.fail(f"{name} is not installed; run .ci/tools to install it")
    return found


def run_tool(
    name: str, *arguments: object, folder: Path | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run a program, in `folder` if that is given; fail the test if its exit status is not 0."""
    command = [tool(name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done
