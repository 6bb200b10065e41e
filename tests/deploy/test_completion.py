"""The completion scripts work in zsh and fish; in bash, the suite tests it."""

import subprocess
from pathlib import Path

from tests.processes import run


def output_of(*command: str) -> str:
    """Run a shell; return its output."""
    result = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
    assert result.stderr == ""
    return result.stdout


def test_fish(tmp_path: Path) -> None:
    """Fish completes commands, options and states."""
    file = tmp_path / "jobstatus.fish"
    file.write_text(run("jobstatus", "completion", "fish")[1])

    def completed(line: str) -> list[str]:
        found = output_of("fish", "-c", f"source {file}; complete -C '{line}'")
        return [each.partition("\t")[0] for each in found.splitlines()]

    assert completed("jobstatus wa") == ["wait", "watch"]
    assert completed("jobstatus wait --timeo") == ["--timeout"]
    assert completed("jobstatus list --state f") == ["failed"]


def test_zsh(tmp_path: Path) -> None:
    """Zsh finds the script in its path, and can load it."""
    file = tmp_path / "_jobstatus"
    file.write_text(run("jobstatus", "completion", "zsh")[1])
    output_of("zsh", "-fn", str(file))
    code = (
        f"fpath=({tmp_path} $fpath); autoload -Uz compinit; compinit -u -d {tmp_path}/dump; "
        "print ${_comps[jobstatus]}; autoload -Uz +X _jobstatus && print loaded"
    )
    assert output_of("zsh", "-fc", code).split() == ["_jobstatus", "loaded"]
