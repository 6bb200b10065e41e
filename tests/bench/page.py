"""Measure what a person sees, in a real Chromium: the live page, and elements in another page.

The service, Valkey, the writer of the changes and Chromium share the machine's cores.
"""

import argparse
import functools
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from uuid import UUID

from playwright.sync_api import Browser, Page, sync_playwright
from tests.bench import load
from tests.bench.table import markdown
from tests.browser.conftest import CHROMIUM_ARGUMENTS, Service
from tests.browser.site import Site

from jobstatus.status import JobState, Record
from jobstatus.storage.write import Write

LISTED_JOBS = 1_000
ELEMENTS = 100

EMBEDDED = """
import {{ configure }} from "{url}/assets/element.js";
configure({{ credentials: "secret" }});
window.delays = [];
document.addEventListener("jobchange", ({{ detail }}) => {{
  const written = Number(detail.reason);
  if (written) requestAnimationFrame(() => window.delays.push(Date.now() - written));
}});
"""

OBSERVE_FRAMES = """
window.longFrames = [];
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) window.longFrames.push(Math.round(entry.duration));
}).observe({ type: "long-animation-frame" });
"""

PAINTED = """(rows) => new Promise((resolve) => {
  const look = () => {
    if (document.querySelectorAll(".rows .row").length < rows) return requestAnimationFrame(look);
    requestAnimationFrame(() => setTimeout(() => resolve(performance.now())));
  };
  look();
})"""


def write_job(number: int, progress: float, reason: str = "") -> Write:
    """Return a write to a job, in one of all states for a list; running if it has a reason."""
    states = [state for state in JobState if state is not JobState.UNKNOWN]
    state = JobState.IN_PROGRESS if reason else states[number % len(states)]
    record = Record(
        name="render-video",
        state=state,
        created=round(time.time() * 1000) - 1_000 * number if not reason else 1_700_000_000_000,
        attempt=0 if state is JobState.PENDING else 1,
        reason=reason or f"frame {number} of 2000",
        progress=progress,
    )
    return Write(f"job:{UUID(int=number + 1)}", record, 3_600_000, 3_600_000)


def change(jobs: int, step: int) -> Write:
    """Return the write of one step of the changes: to each job in turn; its reason is the time."""
    return write_job(step % jobs, min(99.0, step / 100), f"{time.time() * 1000:.0f}")


def delays_of_elements(
    browser: Browser, service: Service, site: Site, url: str, seconds: float
) -> tuple[float, float, int]:
    """Return median and 95th percentile of the ms from a write to the frame, and their number."""
    body = "".join(f'<job-status job="{UUID(int=n + 1)}"></job-status>' for n in range(ELEMENTS))
    page = browser.new_page()
    page.goto(site.page(EMBEDDED.format(url=service.url), body))
    page.wait_for_timeout(1_000)
    page.evaluate("window.delays.length = 0")  # of what was written before
    with load.changing(url, functools.partial(change, ELEMENTS), 50):
        page.wait_for_timeout(1_000 * seconds)
    found = page.evaluate("window.delays")
    page.close()
    return median(found), quantiles(found, n=20)[-1], len(found)


def opened_list(browser: Browser, service: Service) -> tuple[Page, float, float, int]:
    """Open the list; return the page, ms to its first 50 and to all rows, and bytes of files."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.add_init_script(OBSERVE_FRAMES)
    session = context.new_cdp_session(page)
    session.send("Network.enable")
    sizes: list[int] = []
    session.on("Network.loadingFinished", lambda each: sizes.append(each["encodedDataLength"]))
    page.goto(f"{service.url}/#key=secret", wait_until="commit")
    first: float = page.evaluate(PAINTED, 50)
    loaded = sum(sizes)
    began_at = time.monotonic()
    while page.locator(".rows .row").count() < LISTED_JOBS:
        page.mouse.wheel(0, 20_000)
        page.wait_for_timeout(10)
    return page, first, 1_000 * (time.monotonic() - began_at), loaded


def heap_bytes(page: Page) -> int:
    """Return the size of the heap of JavaScript after a garbage collection."""
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    usage: dict[str, Any] = session.send("Runtime.getHeapUsage")
    return int(usage["usedSize"])


def main(arguments: list[str]) -> None:
    """Print what was measured."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench page", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="visits of the page (%(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=60, help="length of the live measurements (%(default)s)"
    )
    options = parser.parse_args(arguments)
    with (
        load.valkey() as url,
        tempfile.TemporaryDirectory() as folder,
        Site().running() as site,
        sync_playwright() as playwright,
    ):
        store = load.store_at(url)
        store.write([write_job(number, number % 100) for number in range(LISTED_JOBS)])
        service = Service(url, Path(folder), site.url)
        service.start(JOBSTATUS_ACCESS_LOG="0")
        load.require("chromium")
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=CHROMIUM_ARGUMENTS
        )
        visits = []
        for _ in range(options.rounds):
            page, first, all_rows, loaded = opened_list(browser, service)
            visits.append((first, all_rows))
            page.context.close()
        page, *_ = opened_list(browser, service)
        page.evaluate("scrollTo(0, 0)")
        with load.changing(url, functools.partial(change, 50), 10):
            page.wait_for_timeout(5_000)
            page.evaluate("window.longFrames.length = 0")
            before = heap_bytes(page)
            page.wait_for_timeout(1_000 * options.seconds)
            after = heap_bytes(page)
        long_frames = page.evaluate("window.longFrames")
        page.context.close()
        middle, high, count = delays_of_elements(browser, service, site, url, options.seconds)
        browser.close()
        service.stop()
    first_rows, further_rows = (median(times) for times in zip(*visits, strict=True))
    rows = [
        ("the list: from the navigation to its first 50 rows, ms", f"{first_rows:.0f}"),
        ("its further 950 rows, as they are scrolled to, ms", f"{further_rows:.0f}"),
        ("everything that the page loads before its jobs, KB", f"{loaded / 1_000:.1f}"),
        (
            f"frames of 50 ms or more in {options.seconds:g} s with 10 changes a second",
            f"{len(long_frames)} {long_frames or ''}".strip(),
        ),
        ("heap before and after, MB", f"{before / 1e6:.2f}; {after / 1e6:.2f}"),
        (
            f"{ELEMENTS} elements, 50 changes a second: from a write to its frame, ms",
            f"median {middle:.0f}, p95 {high:.0f} ({count} changes)",
        ),
    ]
    print(markdown(("", "measured"), rows))
