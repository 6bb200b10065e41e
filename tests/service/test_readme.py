"""The poller of service/README.md sees a job through, and its table of metrics is whole."""

import re
import subprocess
import sys
import time
from typing import Any
from uuid import UUID

from tests.processes import ROOT, environment, service
from tests.service.conftest import Put
from tests.waiting import eventually

from jobstatus.status import JobState
from jobstatus_service.metrics.prometheus import COUNTERS, GAUGES, HISTOGRAMS

JOB = UUID("67c73c6b-ecba-4a4c-bb18-3f37aa64c2f8")
TEXT = (ROOT / "service" / "README.md").read_text(encoding="utf-8")


def test_poller(service_url: str, put: Put) -> None:
    """It prints each change once, and ends with the job."""
    (code,) = re.findall(r"<!-- a test runs this -->\n```python\n(.*?)```", TEXT, re.DOTALL)
    put(JOB, progress=1.0)
    with service(service_url) as client:
        poller = subprocess.Popen(
            [sys.executable, "-u", "-c", code],
            env=environment(JOB=str(JOB), KEY="secret", SERVICE=str(client.base_url)),
            stdout=subprocess.PIPE,
            text=True,
        )

        def waits() -> bool:
            return "jobstatus_long_polls_open 1.0" in client.get("/metrics").text

        changes: list[dict[str, Any]] = [{"progress": 2.0}, {"state": JobState.SUCCEEDED}]
        for change in changes:
            eventually(waits)
            put(JOB, reason="x", **change)
            time.sleep(0.1)
        output, _ = poller.communicate(timeout=20)
    assert output == "in_progress 1.0 \nin_progress 2.0 x\nsucceeded 100.0 x\n"


def test_every_metric_is_explained() -> None:
    """The page names each metric that there is, and no other."""
    table = TEXT.partition("| `jobstatus_…` |")[2]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = re.findall(r"`([a-z_]+?)(?:_total)?(?:\{\w+\})?`", " ".join(cells))
    assert sorted(named) == sorted([*COUNTERS, *GAUGES, *HISTOGRAMS])
