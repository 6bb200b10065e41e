"""The screenshots of the README."""

import re
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from playwright.sync_api import Browser, expect
from tests.browser.conftest import Service
from tests.processes import ROOT
from tests.service.conftest import Put

from jobstatus.status import JobState

SCREENSHOTS = ROOT / "service" / "screenshots"


@pytest.fixture
def example_jobs(put: Put) -> None:
    """Write jobs as a real application has them."""
    now = round(time.time() * 1000)
    examples: list[tuple[str, JobState, float | None, int, str]] = [
        ("render-video", JobState.IN_PROGRESS, 62.4, 1, "frame 1248 of 2000"),
        ("send-invoices", JobState.IN_PROGRESS, 18, 1, "invoice 90 of 500"),
        ("import-catalogue", JobState.RETRYING, 40, 2, "ConnectionError; again in 30 s"),
        ("resize-images", JobState.PENDING, None, 0, ""),
        ("resize-images", JobState.PENDING, None, 0, ""),
        ("nightly-report", JobState.SUCCEEDED, 100, 1, "12 pages"),
        ("backup-database", JobState.SUCCEEDED, 100, 1, "3.1 GiB"),
        ("import-catalogue", JobState.FAILED, 71, 3, "ValueError: row 7113: no price"),
        ("render-video", JobState.ABORTED, 12, 1, "aborted by the user"),
        ("send-newsletter", JobState.SUCCEEDED, 100, 1, "4,210 recipients"),
    ]
    for number, (name, state, progress, attempt, reason) in enumerate(examples):
        put(
            UUID(int=0x67C73C6BECBA4A4CBB183F37AA64C200 + number),
            name=name,
            state=state,
            progress=progress,
            attempt=attempt,
            reason=reason,
            created=now - 47_000 * (number + 1),
            started=now - 45_000 * (number + 1) if attempt else 0,
            worker="render-7d9f8b6c5d-x2x9z" if attempt else "",
            eta=41.0 if name == "render-video" else None,
        )


@pytest.mark.usefixtures("example_jobs")
@pytest.mark.parametrize("name", ["list", "job", "dark", "phone"])
def test_screenshot(
    chromium: Browser,
    service: Service,
    put: Put,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    name: str,
) -> None:
    """The screenshots of the README show the page as it is (`--screenshots` writes them)."""
    dark, phone = name in {"dark", "phone"}, name == "phone"
    context = chromium.new_context(
        viewport={"width": 390, "height": 720} if phone else {"width": 1100, "height": 520},
        device_scale_factor=2 if phone else 1,
        color_scheme="dark" if dark else "light",
    )
    page = context.new_page()
    page.goto(f"{service.url}/#key=secret")
    expect(page.locator(".rows .row")).to_have_count(10)
    if name == "job":
        page.set_viewport_size({"width": 1100, "height": 680})
        page.locator(".rows .row").filter(has_text="frame 1248").get_by_role("link").click()
        now = round(time.time() * 1000)
        job = UUID(int=0x67C73C6BECBA4A4CBB183F37AA64C200)
        for frame in range(1_250, 1_420, 10):
            fields: dict[str, Any] = {
                "progress": frame / 20,
                "reason": f"frame {frame} of 2000",
                "eta": 40.0,
                "created": now - 47_000,
                "started": now - 45_000,
                "worker": "render-7d9f8b6c5d-x2x9z",
            }
            put(job, name="render-video", **fields)
            page.wait_for_timeout(120 if frame % 60 else 700)
    folder = SCREENSHOTS if request.config.getoption("--screenshots") else tmp_path
    folder.mkdir(exist_ok=True)
    page.screenshot(path=folder / f"{name}.png")
    context.close()
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(rf"service/screenshots/{name}\.png", text)
    assert (SCREENSHOTS / f"{name}.png").stat().st_size < 150_000
