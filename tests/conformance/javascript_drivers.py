"""Carry out the tasks of scenarios with the JavaScript client, in Node and in a page."""

import json
import subprocess
from pathlib import Path
from typing import Any

from playwright.sync_api import Page
from tests.processes import ROOT

DRIVER = Path(__file__).parent / "driver.js"
CLIENT = ROOT / "service" / "jobstatus_web" / "client.js"


def node_driver(tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Carry out all tasks in one process."""
    result = subprocess.run(
        ["node", str(DRIVER)],
        input=json.dumps(tasks),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    outcomes: list[dict[str, Any]] = json.loads(result.stdout)
    return outcomes


def in_page(page: Page, tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Carry out the tasks in a page, whose origin has the client and the driver."""
    outcomes: list[dict[str, Any]] = page.evaluate(
        """async (tasks) => {
            const driver = await import("/driver.js");
            return driver.runAll(await import("/client.js"), tasks);
        }""",
        tasks,
    )
    return outcomes
