"""Whatever is asked, the answer is one that the document describes, and never a 5xx."""

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml
from tests.processes import service
from tests.service.conftest import Put

from jobstatus.status import JobState

CONTRACT = Path("tests/contract/job-status.openapi.yaml")


def answerable(document: dict[str, Any]) -> dict[str, Any]:
    """The document without what it can't mean: its default name doesn't match its pattern.

    The contract says nothing of what is said without a key; the design does.
    """
    document = copy.deepcopy(document)
    del document["components"]["schemas"]["JobStatus"]["properties"]["name"]["pattern"]
    for path in document["paths"].values():
        path["get"]["responses"].setdefault("401", {"description": "No API key, or a wrong one"})
    return document


def fuzz(document: dict[str, Any], url: str, folder: Path) -> None:
    file = folder / "openapi.json"
    file.write_text(json.dumps(answerable(document)))
    command = [sys.executable, "-m", "schemathesis.cli", "run", str(file), "--url", url]
    options = ["--header", "Authorization: secret", "--checks", "all", "--max-examples", "40"]
    result = subprocess.run(
        [*command, *options, "--no-color", "--seed", "1", "--generation-database", "none"],
        capture_output=True,
        check=False,
        text=True,
        cwd=folder,
        timeout=120,
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("which", ["served", "contract"])
def test_fuzz(service_url: str, put: Put, tmp_path: Path, which: str) -> None:
    """Schemathesis finds nothing in the served document, nor in the contract.

    There is room for no wait and no stream, or it would wait with them: those are a 429.
    """
    for number, state in enumerate(JobState):
        if state is not JobState.UNKNOWN:
            put(UUID(int=number), state=state)
    with service(service_url, JOBSTATUS_MAX_WATCHERS_PER_KEY="0") as client:
        if which == "served":
            fuzz(client.get("/schema/openapi.json").json(), str(client.base_url), tmp_path)
        else:
            document = yaml.safe_load(CONTRACT.read_text(encoding="utf-8"))
            fuzz(document, f"{client.base_url}/api", tmp_path)
        errors = client.get("/metrics").text
    assert 'jobstatus_reads_total{outcome="error"} 0.0' in errors
