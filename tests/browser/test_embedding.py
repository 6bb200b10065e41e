"""`<job-status>` and `client.js` in a page of another origin."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import httpx
import jwt
import pytest
from playwright.sync_api import BrowserContext, Page, expect
from tests.browser.conftest import PRIVATE_KEY, Log, Service
from tests.browser.site import Site
from tests.service.conftest import JOB, Put
from tests.waiting import eventually

from jobstatus.status import JobState
from jobstatus.tokens import _private_key

Sign = Callable[..., str]

JOBS = [UUID(int=n + 1) for n in range(100)]

CONFIGURED = """
import {{ configure }} from "{url}/assets/element.js";
window.client = configure({{ credentials: async (ids) => {{
  const response = await fetch("/token?ids=" + ids);
  return response.text();
}} }});
window.seen = [];
document.addEventListener("jobchange", ({{ detail }}) => {{
  window.seen.push([detail.id, detail.progress]);
}});
"""


@pytest.fixture
def embedded(site: Site, service: Service, sign: Sign) -> Callable[..., str]:
    """Return a function that makes a page with elements for jobs; tokens come from the site."""

    def make(jobs: list[UUID], **options: Any) -> str:
        site.pages["/token"] = lambda query: sign(*query["ids"][0].split(","), **options)
        body = "".join(f'<job-status job="{job}"></job-status>' for job in jobs)
        return site.page(CONFIGURED.format(url=service.url), body)

    return make


Embedded = Callable[..., str]


def bar(page: Page, number: int = 0) -> Any:
    """Return the progress bar of an element."""
    return page.locator("job-status").nth(number).get_by_role("progressbar")


def streams(log: Log) -> list[str]:
    """Return the streams that were opened."""
    return [url for url in log.urls if "/events" in url]


def test_hundred_elements(page: Page, log: Log, embedded: Embedded, put: Put, site: Site) -> None:
    """A hundred elements show their jobs with one stream and one token."""
    for n, job in enumerate(JOBS):
        put(job, progress=n, reason=f"step {n}")
    page.goto(embedded(JOBS))
    for n in (0, 50, 99):
        expect(bar(page, n)).to_have_attribute("aria-valuenow", str(n))
    put(JOBS[7], progress=99.5)
    expect(bar(page, 7)).to_have_attribute("aria-valuenow", "99.5")
    for job in JOBS:
        put(job, state=JobState.SUCCEEDED, progress=100)
    for n in (0, 50, 99):
        expect(page.locator("job-status").nth(n)).to_have_attribute("state", "succeeded")
    assert len(streams(log)) == 1
    assert len([path for path in site.requests if path.startswith("/token")]) == 1


def test_attributes(page: Page, site: Site, service: Service, sign: Sign, put: Put) -> None:
    """An element needs no script of the page's own; its attributes may change at any time."""
    put(JOB, progress=40, name="render", reason="frame 4 of 10")
    other = JOBS[0]
    put(other, state=JobState.FAILED, reason="ValueError", name="resize")
    token = sign(JOB, other)
    page.goto(
        site.page(
            f'import "{service.url}/assets/element.js";',
            f'<job-status job="{JOB}" token="{token}"></job-status>',
        )
    )
    element = page.locator("job-status")
    expect(element).to_contain_text("render")
    expect(element).to_contain_text("frame 4 of 10")
    expect(bar(page)).to_have_attribute("aria-valuetext", "40 %, in progress")
    expect(bar(page)).to_have_accessible_name("render")
    element.evaluate("(element, id) => element.setAttribute('job', id)", str(other))
    expect(element).to_have_attribute("state", "failed")
    expect(element).to_contain_text("ValueError")
    element.evaluate("(element) => element.setAttribute('label', 'My picture')")
    expect(bar(page)).to_have_accessible_name("My picture")
    element.evaluate("(element) => element.setAttribute('job', 'a job of somebody else')")
    expect(element).to_contain_text("does not name the job")


def test_events(page: Page, site: Site, service: Service, sign: Sign, put: Put) -> None:
    """A page hears of changes, and of the end, by events."""
    put(JOB, progress=1)
    script = f"""
      import "{service.url}/assets/element.js";
      window.events = [];
      for (const type of ["jobchange", "jobdone"]) {{
        document.addEventListener(type, ({{ detail }}) => {{
          window.events.push(`${{type}} ${{detail.state}}`);
        }});
      }}"""
    page.goto(site.page(script, f'<job-status job="{JOB}" token="{sign(JOB)}"></job-status>'))
    expect(bar(page)).to_have_attribute("aria-valuenow", "1")
    put(JOB, state=JobState.ABORTED)
    expect(page.locator("job-status")).to_have_attribute("state", "aborted")
    assert page.evaluate("window.events") == [
        *("jobchange in_progress", "jobchange aborted", "jobdone aborted"),
    ]


def test_element_that_is_removed_by_its_own_event(
    page: Page, embedded: Embedded, put: Put, service: Service
) -> None:
    """An element that a listener removes at once is no longer watched; `jobdone` comes once."""
    put(JOBS[0], progress=1)
    put(JOBS[1], progress=1)
    page.goto(embedded(JOBS[:1]))
    expect(bar(page)).to_have_attribute("aria-valuenow", "1")
    page.evaluate(
        """(id) => {
          const element = document.createElement("job-status");
          element.addEventListener("jobchange", () => element.remove(), { once: true });
          element.setAttribute("job", id);
          document.body.append(element);
        }""",
        str(JOBS[0]),
    )
    expect(page.locator("job-status")).to_have_count(1)
    page.evaluate("document.querySelector('job-status').remove()")
    open_streams = "jobstatus_streams_open 0.0"
    eventually(lambda: open_streams in httpx.get(f"{service.url}/metrics").text)


def test_done_once(page: Page, embedded: Embedded, put: Put) -> None:
    """An element that is moved in the page does not report the end of its job again."""
    put(JOBS[0], state=JobState.SUCCEEDED)
    page.goto(embedded(JOBS[:1]))
    page.evaluate("window.done = 0; addEventListener('jobdone', () => (window.done += 1))")
    expect(page.locator("job-status")).to_have_attribute("state", "succeeded")
    for _ in range(3):
        page.evaluate("document.body.append(document.querySelector('job-status'))")
        page.wait_for_timeout(50)
    assert page.evaluate("window.done") <= 1


def test_elements_come_and_go(page: Page, log: Log, embedded: Embedded, put: Put) -> None:
    """Elements that are removed are no longer watched; the stream ends with the last one."""
    for job in JOBS[:3]:
        put(job, progress=1)
    page.goto(embedded(JOBS[:2]))
    expect(bar(page, 1)).to_have_attribute("aria-valuenow", "1")
    page.evaluate(
        "(id) => document.body.append(Object.assign(document.createElement('job-status'), "
        "{ id: 'new' })) ?? document.getElementById('new').setAttribute('job', id)",
        str(JOBS[2]),
    )
    expect(bar(page, 2)).to_have_attribute("aria-valuenow", "1")
    assert len(streams(log)) == 2
    page.evaluate("document.querySelectorAll('job-status').forEach((each) => each.remove())")
    put(JOBS[0], progress=50)
    time.sleep(0.3)
    assert [str(JOBS[0]), 50] not in page.evaluate("window.seen")


@pytest.fixture
def worker(put: Put) -> Iterator[threading.Event]:
    """Change a job ten times a second until the event is set, with progress that grows."""
    done = threading.Event()
    put(JOB, progress=0)

    def work() -> None:
        progress = 0.0
        while not done.wait(0.1):
            progress = min(99.0, progress + 0.05)
            put(JOB, progress=progress, reason=str(time.time() * 1000))
        put(JOB, state=JobState.SUCCEEDED, progress=100)

    thread = threading.Thread(target=work)
    thread.start()
    yield done
    done.set()
    thread.join()


def seen_progress(page: Page) -> list[float]:
    """Return the progress that the page has seen; check that it never went backwards."""
    progress = [progress for _, progress in page.evaluate("window.seen")]
    assert progress == sorted(progress)
    return progress


def is_after_pause(page: Page, check: Callable[[], bool]) -> bool:
    """Return the result of a check of what Playwright reports while it waits."""
    page.wait_for_timeout(50)
    return check()


def grows(page: Page, timeout: float = 20) -> None:
    """Wait until the page has seen a change."""
    before = len(seen_progress(page))
    eventually(lambda: len(seen_progress(page)) > before, timeout)


def test_rolling_restart(
    page: Page, embedded: Embedded, service: Service, worker: threading.Event
) -> None:
    """A page goes on when the service is restarted, twice, without a reload."""
    page.goto(embedded([JOB]))
    grows(page)
    for _ in range(2):
        service.stop()
        page.wait_for_timeout(1_000)
        before = len(seen_progress(page))
        page.wait_for_timeout(500)
        assert len(seen_progress(page)) == before
        service.start()
        grows(page)
    worker.set()
    expect(page.locator("job-status")).to_have_attribute("state", "succeeded")
    seen_progress(page)


def test_offline(
    page: Page, context: BrowserContext, embedded: Embedded, worker: threading.Event, offline: float
) -> None:
    """A page goes on when the computer is online again, within seconds."""
    page.goto(embedded([JOB]))
    grows(page)
    context.set_offline(True)
    page.wait_for_timeout(1_000 * offline)
    before = len(seen_progress(page))
    context.set_offline(False)
    eventually(lambda: len(seen_progress(page)) > before, 10)
    worker.set()
    expect(page.locator("job-status")).to_have_attribute("state", "succeeded")


def test_sleep(
    page: Page, context: BrowserContext, embedded: Embedded, worker: threading.Event
) -> None:
    """A page goes on after the computer has slept: its timers are suspended, then resumed."""
    page.goto(embedded([JOB]))
    grows(page)
    session = context.new_cdp_session(page)
    session.send("Page.setWebLifecycleState", {"state": "frozen"})
    time.sleep(5)
    session.send("Page.setWebLifecycleState", {"state": "active"})
    grows(page)
    worker.set()
    expect(page.locator("job-status")).to_have_attribute("state", "succeeded")


def test_dead_connection_after_sleep(
    page: Page, log: Log, embedded: Embedded, worker: threading.Event
) -> None:
    """When the clock has jumped, as after a sleep, the stream is opened again at once."""
    del worker
    page.goto(embedded([JOB]))
    grows(page)
    assert len(streams(log)) == 1
    page.evaluate("() => { const now = Date.now; Date.now = () => now() + 60_000; }")
    eventually(lambda: is_after_pause(page, lambda: len(streams(log)) == 2), 10)
    grows(page)


def test_expired_token(
    page: Page, log: Log, embedded: Embedded, site: Site, worker: threading.Event
) -> None:
    """When the token expires, the page gets a new one, and goes on."""
    del log
    # The service allows 30 s more: so the token has expired before, and is valid for 2 s.
    make = site.pages
    page_url = embedded([JOB])
    good = make["/token"]
    assert callable(good)
    calls: list[float] = []

    def token(query: dict[str, list[str]]) -> str:
        calls.append(time.monotonic())
        return short_token() if len(calls) == 1 else good(query)

    make["/token"] = token
    page.goto(page_url)
    grows(page)
    eventually(lambda: is_after_pause(page, lambda: len(calls) >= 2), 15)
    grows(page)
    worker.set()
    expect(page.locator("job-status")).to_have_attribute("state", "succeeded")
    seen_progress(page)


def short_token() -> str:
    """Return a token that is valid for 2 s more."""
    _, key = _private_key(PRIVATE_KEY)
    now = int(time.time())
    claims = {"iss": "web", "iat": now - 60, "exp": now - 27, "jobs": [str(JOB)]}
    return jwt.encode(claims, key, algorithm="EdDSA")


def test_hidden_page(page: Page, log: Log, embedded: Embedded, worker: threading.Event) -> None:
    """A hidden page sends nothing; when it is shown, it is up to date at once."""
    page.goto(embedded([JOB]))
    grows(page)
    hide = """(state) => {
      Object.defineProperty(document, "visibilityState", { value: state, configurable: true });
      document.dispatchEvent(new Event("visibilitychange"));
    }"""
    page.evaluate(hide, "hidden")
    page.wait_for_timeout(2_500)
    before, requests = len(seen_progress(page)), len(log.urls)
    page.wait_for_timeout(3_000)
    assert len(seen_progress(page)) == before
    assert len(log.urls) == requests
    page.evaluate(hide, "visible")
    eventually(lambda: len(seen_progress(page)) > before, 2)
    worker.set()
    expect(page.locator("job-status")).to_have_attribute("state", "succeeded")


def test_connections_are_left_for_others(
    page: Page, site: Site, service: Service, sign: Sign, put: Put
) -> None:
    """Ten clients with a token each leave connections of the browser's six for other requests."""
    for job in JOBS[:10]:
        put(job, progress=5)
    body = "".join(
        f'<job-status job="{job}" token="{sign(job)}"></job-status>' for job in JOBS[:10]
    )
    page.goto(site.page(f'import "{service.url}/assets/element.js";', body))
    for n in range(10):
        expect(bar(page, n)).to_have_attribute("aria-valuenow", "5")
    began_at = time.monotonic()
    assert page.evaluate(f"fetch('{service.url}/assets/client.js').then((r) => r.status)") == 200
    assert time.monotonic() - began_at < 2
    for job in JOBS[:10]:
        put(job, state=JobState.SUCCEEDED, progress=100)
    for n in range(10):
        expect(page.locator("job-status").nth(n)).to_have_attribute("state", "succeeded")


def test_strict_policy(page: Page, site: Site, service: Service, sign: Sign, put: Put) -> None:
    """The element works in a page with a strict Content-Security-Policy."""
    put(JOB, progress=40)
    site.headers["Content-Security-Policy"] = (
        f"default-src 'none'; script-src 'self' {service.url}; connect-src {service.url}; "
        "style-src 'none'; img-src data:; require-trusted-types-for 'script'"
    )
    site.pages["/main.js"] = f'import "{service.url}/assets/element.js";'
    site.pages["/"] = (
        "<!doctype html><html lang=en><title>Test</title><link rel=icon href=data:,>"
        f'<job-status job="{JOB}" token="{sign(JOB)}"></job-status>'
        "<script type=module src=/main.js></script>"
    )
    page.goto(site.url)
    expect(bar(page)).to_have_attribute("aria-valuenow", "40")


def test_other_origin(page: Page, log: Log, service: Service, sign: Sign, put: Put) -> None:
    """A page of an origin that is not allowed runs the element, but reads nothing."""
    put(JOB, progress=40)
    log.allowed = re.compile("CORS policy|Failed to load resource|JOBSTATUS_CORS_ORIGINS")
    with Site().running() as other:
        page.goto(
            other.page(
                f'import "{service.url}/assets/element.js";',
                f'<job-status job="{JOB}" token="{sign(JOB)}"></job-status>',
            )
        )
        expect(page.locator("job-status")).to_have_attribute("disconnected", "")
        expect(page.locator("job-status")).to_contain_text("No connection to 127.0.0.1")
        assert "40" not in page.locator("job-status").inner_text()
    (warning,) = [each for each in log.messages if each.startswith("warning")]
    assert f"JOBSTATUS_CORS_ORIGINS contain {other.url}?" in warning


def test_no_secret_leaks(
    page: Page, log: Log, embedded: Embedded, service: Service, put: Put, sign: Sign, site: Site
) -> None:
    """A token is in one header only: not in a URL, a referrer, the service's log, or an error."""
    put(JOB, progress=1)
    tokens: list[str] = []
    url = embedded([JOB])

    def token(query: dict[str, list[str]]) -> str:
        tokens.append(sign(*query["ids"][0].split(",")))
        return tokens[-1]

    site.pages["/token"] = token
    page.goto(url)
    expect(bar(page)).to_have_attribute("aria-valuenow", "1")
    error = page.evaluate("window.client.list().catch((error) => String(error))")
    assert "only the jobs that it names" in error
    assert tokens
    signature = tokens[0].rpartition(".")[2]
    texts = [*log.urls, *log.messages, *site.requests, service.log(), error]
    texts += [f"{h.get('referer')}" for h in log.headers]
    assert not [text for text in texts if signature in text]


def test_buffering_proxy(
    page: Page, site: Site, service: Service, sign: Sign, put: Put, log: Log
) -> None:
    """Behind a proxy that buffers everything, the page falls back to long polls."""
    put(JOB, progress=30)

    def answer(path: str) -> Callable[[dict[str, list[str]]], str]:
        def ask(query: dict[str, list[str]]) -> str:
            headers = {"Authorization": "secret"}
            parameters = "&".join(f"{name}={v}" for name, values in query.items() for v in values)
            return httpx.get(f"{service.url}{path}?{parameters}", headers=headers, timeout=60).text

        return ask

    site.pages["/api/jobs"] = answer("/api/jobs")
    site.pages["/api/jobs/events"] = answer("/api/jobs/events")
    page.goto(
        site.page(
            f'import "{service.url}/assets/element.js";',
            f'<job-status job="{JOB}" url="{site.url}" token="{sign(JOB)}"></job-status>',
        )
    )
    expect(bar(page)).to_have_attribute("aria-valuenow", "30", timeout=15_000)
    put(JOB, progress=40)
    expect(bar(page)).to_have_attribute("aria-valuenow", "40", timeout=15_000)
    put(JOB, state=JobState.SUCCEEDED, progress=100)
    expect(page.locator("job-status")).to_have_attribute("state", "succeeded", timeout=30_000)
    assert [url for url in log.urls if "/api/jobs?" in url]
