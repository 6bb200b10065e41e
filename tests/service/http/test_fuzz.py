"""Schemathesis finds no response that the OpenAPI document doesn't describe, and no 5xx."""

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


def without_known_faults(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document without what is wrong or missing in it.

    The contract's default name doesn't match its own pattern, and it doesn't describe the 401. It
    can't be described that the parameters `id` and `key` together have 1 to 100 values.
    """
    document = copy.deepcopy(document)
    del document["components"]["schemas"]["JobStatus"]["properties"]["name"]["pattern"]
    for path in document["paths"].values():
        path["get"]["responses"].setdefault("401", {"description": "No API key, or a wrong one"})
        for parameter in path["get"].get("parameters", []):
            if parameter["name"] in {"id", "key"}:
                parameter["schema"] |= {"minItems": 1, "maxItems": 50}
                parameter["required"] = parameter["name"] == "id"
    return document


def fuzz(document: dict[str, Any], url: str, folder: Path) -> None:
    file = folder / "openapi.json"
    file.write_text(json.dumps(without_known_faults(document)))
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
    """The service conforms to the document that it serves, and to the published contract.

    No watcher may be open, so that long polls and streams are a 429 at once instead of waiting.
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
        metrics = client.get("/metrics").text
    assert 'jobstatus_reads_total{outcome="error"} 0.0' in metrics
