"""`jobstatus.arq` without arq installed."""

import subprocess
import sys

import pytest

BLOCK = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name == "{blocked}" or name.startswith("{blocked}."):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Block())
"""


def error_of(blocked: str, statement: str) -> list[str]:
    """Run a statement in a process in which `blocked` can't be imported; return the traceback."""
    result = subprocess.run(
        [sys.executable, "-c", BLOCK.format(blocked=blocked) + statement],
        check=False,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    return result.stderr.splitlines()


@pytest.mark.parametrize(
    "statement", ["import jobstatus.arq", "from jobstatus.arq import create_pool"]
)
def test_missing_arq_is_named(statement: str) -> None:
    """The error names the extra to install, and hides the failed import behind it."""
    traceback = error_of("arq", statement)
    assert traceback[-1] == (
        "jobstatus.errors.MissingExtraError: jobstatus.arq needs arq: pip install 'jobstatus[arq]'"
    )
    assert sum(line.startswith("Traceback") for line in traceback) == 1


@pytest.mark.parametrize("blocked", ["redis", "jobstatus.arq.claims"])
def test_other_import_errors_are_not_hidden(blocked: str) -> None:
    """Any other module that is missing is named by Python itself."""
    traceback = error_of(blocked, "import jobstatus.arq")
    assert traceback[-1].startswith(f"ModuleNotFoundError: No module named '{blocked}")
