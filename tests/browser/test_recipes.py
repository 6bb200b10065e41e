"""The recipes of service/browser.md, as they are written there, in a real browser."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from playwright.sync_api import Locator, Page, expect
from tests.browser.conftest import PRIVATE_KEY, Log, Service
from tests.browser.npm_package import NODE_MODULES, WEB, run
from tests.browser.site import Site
from tests.processes import ROOT, environment, free_port, stopping
from tests.service.conftest import JOB, Put
from tests.waiting import eventually

from jobstatus.status import JobState

Sign = Callable[..., str]

NGINX_FOLDERS = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
"""Kinds of temporary files, which nginx would keep in a folder of the system."""

RECIPES: dict[str, str] = dict(
    re.findall(
        r"<!-- a browser test runs this: (\S+) -->\n```\w+\n(.*?)```",
        (ROOT / "service" / "browser.md").read_text(encoding="utf-8"),
        re.DOTALL,
    )
)
"""The code of the recipes by file name."""


def recipe(name: str, service: Service) -> str:
    """Return the code of a recipe, for the service of the test."""
    return RECIPES[name].replace("http://127.0.0.1:8000", service.url)


@contextlib.contextmanager
def process(*command: str, cwd: Path, **environ: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a process in a folder while the block runs."""
    with (cwd / "log").open("w") as log:
        started = subprocess.Popen(
            command,
            cwd=cwd,
            env=environment(**environ),
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
        )
        with stopping(started):
            yield started


def bar(page: Page) -> Locator:
    """Return the progress bar of the only element."""
    return page.get_by_role("progressbar")


def answers(url: str) -> bool:
    """Return whether a server answers."""
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(url, timeout=30).status_code < 500
    return False


def test_progress_bar(
    page: Page, service: Service, site: Site, redis_url: str, tmp_path: Path
) -> None:
    """FastAPI enqueues, signs a token, and the page shows the bar of the real job."""
    for name in ("jobs.py", "backend.py", "page.html"):
        (tmp_path / name).write_text(recipe(name, service))
    port = free_port()
    service.stop()
    service.start(JOBSTATUS_CORS_ORIGINS=f"http://localhost:{port}")
    environ = {"REDIS_URL": redis_url, "JOBSTATUS_TOKEN_KEY": PRIVATE_KEY, "PYTHONPATH": "."}
    backend = (sys.executable, "-m", "uvicorn", "backend:app", "--port", str(port))
    worker = (str(Path(sys.executable).with_name("jobstatus-worker")), "jobs.WorkerSettings")
    (tmp_path / "worker").mkdir()
    shutil.copy(tmp_path / "jobs.py", tmp_path / "worker")
    with (
        process(*backend, cwd=tmp_path, **environ),
        process(*worker, cwd=tmp_path / "worker", **environ),
    ):
        eventually(lambda: answers(f"http://localhost:{port}"), 30)
        page.goto(f"http://localhost:{port}")
        page.get_by_role("button").click()
        bar = page.get_by_role("progressbar")
        expect(bar).to_have_attribute("aria-valuenow", re.compile("[1-9]"), timeout=20_000)
        expect(page.locator("job-status")).to_contain_text(re.compile(r"frame \d+ of 100"))
        expect(page.locator("job-status")).to_contain_text("left")
        expect(page.locator("job-status")).to_have_attribute("state", "succeeded", timeout=20_000)
        token = httpx.get(f"http://localhost:{port}/tokens?ids={JOB},{UUID(int=1)}").text
        for job in (JOB, UUID(int=1)):
            headers = {"Authorization": f"Bearer {token}"}
            assert httpx.get(f"{service.url}/api/jobs/{job}", headers=headers).status_code == 200


def test_many(page: Page, site: Site, service: Service, sign: Sign, put: Put) -> None:
    """One client for all elements, with tokens that the back end signs."""
    put(JOB, progress=30)
    site.pages["/tokens"] = lambda query: sign(*query["ids"][0].split(","))
    site.pages["/"] = (
        "<!doctype html><html lang=en><title>Test</title><link rel=icon href=data:,>"
        f'<job-status job="{JOB}"></job-status>{recipe("many.html", service)}'
    )
    page.goto(site.url)
    expect(page.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "30")


def test_plain_javascript(page: Page, site: Site, service: Service, sign: Sign, put: Put) -> None:
    """A loop with `for await` shows each change."""
    put(JOB, progress=30, reason="frame 3 of 10")
    site.pages["/watch.js"] = recipe("watch.js", service)
    script = 'import { show } from "/watch.js"; '
    script += f'show("{JOB}", "{sign(JOB)}", document.querySelector("p"));'
    page.goto(site.page(script, "<p></p>"))
    expect(page.locator("p")).to_have_text("in_progress: 30 % frame 3 of 10")
    put(JOB, state=JobState.SUCCEEDED, progress=100)
    expect(page.locator("p")).to_have_text(re.compile("succeeded: 100 %"))


@pytest.mark.parametrize("strict", [False, True])
def test_react(
    page: Page,
    site: Site,
    service: Service,
    sign: Sign,
    put: Put,
    npm_package: Path,
    strict: bool,
    log: Log,
) -> None:
    """A component shows the job, bundled from the npm package; two of them share one stream."""
    put(JOB, progress=30)
    (npm_package / "Progress.jsx").write_text(recipe("Progress.jsx", service))
    wrapper = "StrictMode" if strict else "Fragment"
    (npm_package / "main.jsx").write_text(
        f'import {{ {wrapper} as Wrapper }} from "react";\n'
        'import { createRoot } from "react-dom/client";\n'
        'import { Progress } from "./Progress.jsx";\n'
        'createRoot(document.getElementById("root")).render(\n'
        f'  <Wrapper><Progress id="{JOB.hex}" /><Progress id="{JOB}" /></Wrapper>);\n'
    )
    esbuild = NODE_MODULES / ".bin" / "esbuild"
    options = ("--bundle", "--format=esm", "--jsx=automatic")
    site.pages["/main.js"] = run(esbuild, "main.jsx", *options, cwd=npm_package)
    site.pages["/tokens"] = lambda query: sign(*query["ids"][0].split(","))
    page.goto(site.page('import "/main.js";', '<div id="root"></div>'))
    for n in (0, 1):
        expect(page.get_by_role("progressbar").nth(n)).to_have_attribute("value", "30")
    put(JOB, state=JobState.SUCCEEDED, progress=100)
    expect(page.locator("p").nth(1)).to_contain_text("succeeded")
    assert len([url for url in log.urls if "/events" in url]) == 1


def test_proxy(
    page: Page, service: Service, sign: Sign, put: Put, tmp_path: Path, log: Log
) -> None:
    """Behind nginx the page asks its own origin, and streams pass unbuffered."""
    put(JOB, progress=30)
    port = free_port()
    (tmp_path / "index.html").write_text(
        "<!doctype html><html lang=en><title>Test</title><link rel=icon href=data:,>"
        '<script type=module src="/assets/element.js"></script>'
        f'<job-status job="{JOB}" token="{sign(JOB)}"></job-status>'
    )
    (tmp_path / "nginx.conf").write_text(
        # As root nginx would serve as another user, who can't read the folder.
        ("user root; " if os.geteuid() == 0 else "")
        + f"daemon off; pid {tmp_path}/pid; worker_processes 1; events {{}} "
        "http { access_log off; "
        + "".join(f"{kind}_temp_path {tmp_path}/{kind}; " for kind in NGINX_FOLDERS)
        + f"server {{ listen 127.0.0.1:{port}; root {tmp_path};\n"
        + recipe("nginx.conf", service)
        + "}}\n"
    )
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    assert nginx, "nginx is missing: run .ci/tools"
    with process(nginx, "-c", str(tmp_path / "nginx.conf"), "-e", "stderr", cwd=tmp_path):
        eventually(lambda: answers(f"http://127.0.0.1:{port}"))
        page.goto(f"http://127.0.0.1:{port}/index.html")
        expect(page.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "30")
        put(JOB, progress=40)
        expect(bar(page)).to_have_attribute("aria-valuenow", "40", timeout=1_000)
    assert all(f":{port}/" in url for url in log.urls if url.startswith("http"))
    assert not [url for url in log.urls if "wait=" in url]


def test_next(page: Page, service: Service, put: Put, tmp_path: Path, log: Log) -> None:
    """A route of Next.js streams through, and keeps the API key on the server."""
    put(JOB, progress=30)
    port = free_port()
    name = "app/backend/[...path]/route.js"
    route = tmp_path / name
    route.parent.mkdir(parents=True)
    owned = f'return ids.every((id) => id === "{JOB}");'
    code = recipe(name, service)
    assert code.count("throw new Error(") == 1
    route.write_text(re.sub(r"throw new Error\(.*\);", owned, code))
    layout = "export default ({ children }) => <html lang='en'><body>{children}</body></html>;"
    (tmp_path / "app" / "layout.jsx").write_text(layout)
    (tmp_path / "app" / "page.jsx").write_text("export default () => <p>none</p>;")
    (tmp_path / "package.json").write_text('{"type":"module"}')
    (tmp_path / "public").mkdir()
    for module in ("client.js", "element.js"):
        shutil.copy(WEB / module, tmp_path / "public")
    (tmp_path / "public" / "test.html").write_text(
        "<!doctype html><html lang=en><title>Test</title><link rel=icon href=data:,>"
        '<script type=module src="/element.js"></script>'
        f'<job-status job="{JOB}" url="/backend"></job-status>'
    )
    (tmp_path / "node_modules").symlink_to(NODE_MODULES)
    environ = {
        "JOBSTATUS_URL": service.url,
        "JOBSTATUS_KEY": "secret",
        "NEXT_TELEMETRY_DISABLED": "1",
    }
    command = (str(NODE_MODULES / ".bin" / "next"), "dev", "--webpack", "-p", str(port))
    with process(*command, cwd=tmp_path, **environ):
        eventually(lambda: answers(f"http://127.0.0.1:{port}/backend/api/jobs/{JOB}"), 90)
        page.goto(f"http://127.0.0.1:{port}/test.html")
        expect(bar(page)).to_have_attribute("aria-valuenow", "30", timeout=30_000)
        put(JOB, progress=40)
        expect(bar(page)).to_have_attribute("aria-valuenow", "40", timeout=2_000)
        forbidden = (
            *(
                "/api/jobs",
                "/api/jobs/events",
                "/api/jobs/counts",
                "/metrics",
                "/schema/openapi.json",
            ),
            *(f"/api/jobs/{UUID(int=1)}", f"/api/jobs/{UUID(int=1)}/result?id={JOB}"),
            *(f"/api/jobs?id={JOB}&key=nightly", f"/api/jobs?id={JOB}&id={UUID(int=1)}"),
        )
        for path in forbidden:
            assert httpx.get(f"http://127.0.0.1:{port}/backend{path}").status_code == 403
    assert not [url for url in log.urls if "wait=" in url]
    assert not [headers for headers in log.headers if "authorization" in headers]
