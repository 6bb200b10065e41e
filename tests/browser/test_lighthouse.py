"""Lighthouse, the audit of web pages."""

import json
import shutil
from pathlib import Path

import pytest
from tests.browser.conftest import Service
from tests.browser.npm_package import NODE_MODULES, run
from tests.service.conftest import JOB, Put

CHROME_FLAGS = "--headless=new --no-sandbox --disable-gpu --disable-background-networking"


@pytest.mark.parametrize("path", ["/", "/schema"])
def test_scores(service: Service, put: Put, tmp_path: Path, path: str) -> None:
    """The page has full marks for accessibility and best practices."""
    put(JOB, progress=40)
    service.stop()
    service.start(JOBSTATUS_NO_AUTH="1")
    lighthouse = NODE_MODULES / ".bin" / "lighthouse"
    chromium = shutil.which("chromium")
    options = [
        *("--quiet", "--output=json", "--output-path=report.json", f"--chrome-path={chromium}"),
        *("--only-categories=accessibility,best-practices", f"--chrome-flags={CHROME_FLAGS}"),
    ]
    run(lighthouse, service.url + path, *options, cwd=tmp_path)
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    failed = {
        name: audit["title"]
        for name, audit in report["audits"].items()
        if audit["score"] is not None and audit["score"] < 1
    }
    scores = {name: each["score"] for name, each in report["categories"].items()}
    assert scores == {"accessibility": 1, "best-practices": 1}, failed
    assert "runtimeError" not in report
