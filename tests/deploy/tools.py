"""Programs that these tests need and pip doesn't bring; `.ci/tools` installs them."""

import shutil

import pytest


def tool(name: str) -> str:
    """The program's path; the test fails where it isn't installed."""
    found = shutil.which(name, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    if found is None:
        pytest.fail(f"{name} is not installed; `.ci/tools` does that")
    return found
