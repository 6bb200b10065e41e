"""Programs that these tests need and the test environment doesn't bring.

`.ci/tools` installs them: Debian's packages, and a virtual environment `.tools` of their own for
those from PyPI, since they pin what others use.
"""

import shutil
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / ".tools" / "bin"

_PATH = f"{TOOLS}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def tool(name: str) -> str:
    """The program's path; the test fails where it isn't installed."""
    found = shutil.which(name, path=_PATH)
    if found is None:
        pytest.fail(f"{name} is not installed; `.ci/tools` does that")
    return found
