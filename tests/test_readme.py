"""The README's example runs as it is printed, from the enqueue to the end."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.processes import ROOT, environment, service, start, stopping

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_example_application(redis_url: str, service_url: str, tmp_path: Path) -> None:
    """app.py is enqueued by itself, run by jobstatus-worker, and waited for."""
    (app,) = re.findall(r"<!-- a test runs this: app.py -->\n```python\n(.*?)```", TEXT, re.DOTALL)
    (wait,) = re.findall(r"```python\nfrom jobstatus_client(.*?)```", TEXT, re.DOTALL)
    (tmp_path / "app.py").write_text(app.replace("sleep(0.1)", "sleep(0.01)"), encoding="utf-8")
    job = subprocess.run(
        [sys.executable, "app.py"],
        env=environment(JOBSTATUS_REDIS_URL=redis_url),
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    with service(service_url) as client:
        body: dict[str, Any] = client.get(f"/api/jobs/{job}").json()
        assert (body["state"], body["name"]) == ("pending", "render")
        worker = start(
            *("jobstatus-worker", "app.WorkerSettings"),
            JOBSTATUS_REDIS_URL=redis_url,
            PYTHONPATH=str(tmp_path),
        )
        names: dict[str, Any] = {"job": job}
        url = str(client.base_url)
        with stopping(worker):
            exec(f"from jobstatus_client{wait}".replace("http://127.0.0.1:8000", url), names)
        status = names["status"]
        assert (status.state, status.progress) == ("succeeded", 100)
