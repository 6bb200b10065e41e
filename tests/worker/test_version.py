"""The version of the package."""

from importlib.metadata import version

import jobstatus


def test_version() -> None:
    """`jobstatus.__version__` is the version of the installed distribution."""
    assert jobstatus.__version__ == version("jobstatus")
