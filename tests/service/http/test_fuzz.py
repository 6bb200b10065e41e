"""Schemathesis finds no response that the OpenAPI document doesn't describe, and no 5xx."""

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import pytest
import yaml
from tests.processes import service
from tests.service.conftest import Put

from jobstatus.status import JobState

CONTRACT = Path("tests/contract/job-status.openapi.yaml")


NAMED = {"id", "key", "wait", "until"}
"""The parameters of a request that names jobs."""

LIST = {"state", "name", "limit", "cursor"}
"""The parameters of a request for a list."""


CONFIG: Final = """
[checks]
negative_data_rejection.expected-statuses = [401, 403, 404, 405, 414, 422, 429, 503]
"""
"""More ids than a URL may have are a 414."""


def without_known_faults(document: dict[str, Any], which: str) -> dict[str, Any]:
    """Return the document without what is wrong or missing in it.

    The contract's default name doesn't match its own pattern, and it doesn't describe the 401. It
    can't be described that a request either names jobs or asks for a list, that the parameters
    `id` and `key` together have 1 to 100 values, and which cursors are valid.
    """
    document = copy.deepcopy(document)
    schemas = document["components"]["schemas"]
    for name in schemas.keys() & {"JobStatus", "JobDetails"}:
        del schemas[name]["properties"]["name"]["pattern"]
    left_out = NAMED | {"Prefer", "cursor"} if which == "list" else LIST | {"key"}
    for name, path in document["paths"].items():
        path["get"]["responses"].setdefault("401", {"description": "No API key, or a wrong one"})
        if name in {"/api/jobs", "/api/jobs/events"}:
            parameters = path["get"]["parameters"]
            path["get"]["parameters"] = [p for p in parameters if p["name"] not in left_out]
        for parameter in path["get"].get("parameters", []):
            if parameter["name"] == "id":
                parameter["schema"] |= {"minItems": 1, "maxItems": 100}
                parameter["required"] = True
    return document


def fuzz(document: dict[str, Any], which: str, url: str, folder: Path) -> None:
    file = folder / "openapi.json"
    file.write_text(json.dumps(without_known_faults(document, which)))
    config = folder / "schemathesis.toml"
    config.write_text(CONFIG)
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run"]
    command += [str(file), "--url", url]
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


@pytest.mark.parametrize("which", ["named", "list", "contract"])
def test_fuzz(service_url: str, put: Put, tmp_path: Path, which: str) -> None:
    """The service conforms to the document that it serves, and to the published contract.

    No watcher may be open, so that long polls and streams are a 429 at once instead of waiting.
    """
    for number, state in enumerate(JobState):
        if state is not JobState.UNKNOWN:
            put(UUID(int=number), state=state)
    with service(service_url, JOBSTATUS_MAX_WATCHERS_PER_KEY="0") as client:
        if which == "contract":
            document = yaml.safe_load(CONTRACT.read_text(encoding="utf-8"))
            fuzz(document, which, f"{client.base_url}/api", tmp_path)
        else:
            document = client.get("/schema/openapi.json").json()
            fuzz(document, which, str(client.base_url), tmp_path)
        metrics = client.get("/metrics").text
    assert 'jobstatus_reads_total{outcome="error"} 0.0' in metrics
