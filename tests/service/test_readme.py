"""The example client of service/README.md works, and its table of metrics is complete."""

import re
import subprocess
import sys
from typing import Any
from uuid import UUID

from tests.processes import ROOT, environment, service
from tests.service.conftest import Put
from tests.waiting import eventually

from jobstatus.status import JobState
from jobstatus_service.metrics.prometheus import COUNTERS, GAUGES, HISTOGRAMS

JOB = UUID("67c73c6b-ecba-4a4c-bb18-3f37aa64c2f8")
TEXT = (ROOT / "service" / "README.md").read_text(encoding="utf-8")


def test_example_client(service_url: str, put: Put) -> None:
    """The example client prints each change once, and exits when the job has finished."""
    (code,) = re.findall(r"<!-- a test runs this -->\n```python\n(.*?)```", TEXT, re.DOTALL)
    put(JOB, progress=1.0)
    with service(service_url) as client:
        example = subprocess.Popen(
            [sys.executable, "-u", "-c", code],
            env=environment(JOB=str(JOB), KEY="secret", SERVICE=str(client.base_url)),
            stdout=subprocess.PIPE,
            text=True,
        )

        def stream_is_open() -> bool:
            return "jobstatus_streams_open 1.0" in client.get("/metrics").text

        assert example.stdout is not None
        lines = [example.stdout.readline()]
        changes: list[dict[str, Any]] = [{"progress": 2.0}, {"state": JobState.SUCCEEDED}]
        for change in changes:
            eventually(stream_is_open)
            put(JOB, reason="x", **change)
            lines.append(example.stdout.readline())
        rest, _ = example.communicate(timeout=20)
    assert lines == ["in_progress 1.0 \n", "in_progress 2.0 x\n", "succeeded 100.0 x\n"]
    assert rest == ""
    assert example.returncode == 0


def test_every_metric_is_documented() -> None:
    """The table names every metric that exists, and no other."""
    table = TEXT.partition("| `jobstatus_…` |")[2]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = re.findall(r"`([a-z_]+?)(?:_total)?(?:\{\w+\})?`", " ".join(cells))
    assert sorted(named) == sorted([*COUNTERS, *GAUGES, *HISTOGRAMS])
