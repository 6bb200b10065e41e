"""The npm package, packed and installed as its users do."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Final

from tests.processes import ROOT

NODE_MODULES: Final = ROOT / ".tools" / "node_modules"
"""What `.ci/tools` has installed."""

WEB: Final = ROOT / "service" / "jobstatus_web"

_LINKED: Final = ("react", "react-dom", "scheduler", "@types", "csstype", "typescript")
"""Packages of the user's project beside ours."""


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command that must succeed; return its output."""
    result = subprocess.run(
        command, cwd=cwd, check=False, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def install(folder: Path) -> Path:
    """Pack the package, and install it in a project with React; return the project's folder."""
    clone = folder / "clone"
    source = clone / "service" / "jobstatus_web"
    shutil.copytree(WEB, source, ignore=shutil.ignore_patterns("node_modules", "types"))
    shutil.copy(ROOT / "LICENSE", clone)
    (source / "node_modules").symlink_to(NODE_MODULES)
    (packed,) = json.loads(run("npm", "pack", "--json", cwd=source))
    project = folder / "project"
    project.mkdir()
    (project / "package.json").write_text('{"type":"module"}')
    file = source / packed["filename"]
    options = ("--no-audit", "--no-fund", "--offline", "--legacy-peer-deps")
    run("npm", "install", *options, file, cwd=project)
    for name in _LINKED:
        (project / "node_modules" / name).symlink_to(NODE_MODULES / name)
    return project
