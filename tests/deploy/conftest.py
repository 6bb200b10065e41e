"""Fixtures of the deployment tests; some are those of the service's and of the workers' tests."""

import os

import pytest
from tests.service.conftest import put
from tests.worker.arq.conftest import pool

__all__ = ["pool", "put"]


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the settings of the shell that runs the tests."""
    for name in list(os.environ):
        if name.startswith("JOBSTATUS_"):
            monkeypatch.delenv(name)
