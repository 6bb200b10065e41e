"""A real Chromium, the service that it talks to, and a web site of another origin."""

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from tests.browser import npm_package as npm
from tests.browser.site import Site
from tests.processes import free_port, start, stopping
from tests.service.conftest import put
from tests.waiting import eventually, is_ready

from jobstatus import tokens
from jobstatus_service.http.api_keys import digest

__all__ = ["put"]

PRIVATE_KEY, PUBLIC_KEY = tokens.new_key_pair("web")

CHROMIUM_ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--js-flags=--expose-gc",
)

EXPECTED_MESSAGES = re.compile(
    r"Failed to load resource: .*(net::ERR|status of)|Download the React DevTools"
)
"""Chromium reports lost connections and error statuses, which tests cause, by itself."""


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the settings of the shell that runs the tests."""
    for name in list(os.environ):
        if name.startswith("JOBSTATUS_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """Run Debian's Chromium."""
    path = shutil.which("chromium")
    assert path, "Chromium is missing: run .ci/tools"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM_ARGUMENTS)
        yield browser
        browser.close()


class Log:
    """What happened in the pages of a context.

    Attributes:
        messages: Messages of the console, and exceptions.
        urls: The addresses of all requests.
        headers: The headers of all requests.
        allowed: Which messages are expected.
    """

    def __init__(self, context: BrowserContext) -> None:
        self.messages: list[str] = []
        self.urls: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.allowed = EXPECTED_MESSAGES
        context.on("console", lambda each: self.messages.append(f"{each.type}: {each.text}"))
        context.on("weberror", lambda each: self.messages.append(str(each.error)))
        context.on("request", lambda each: self._add(each.url, each.headers))

    def _add(self, url: str, headers: dict[str, str]) -> None:
        self.urls.append(url)
        self.headers.append(headers)

    def hosts(self) -> set[str]:
        """Return the hosts that requests went to."""
        return {host for url in self.urls if (host := urlsplit(url).hostname)}

    def unexpected(self) -> list[str]:
        """Return the messages that no test causes on purpose."""
        return [each for each in self.messages if not self.allowed.search(each)]


@pytest.fixture
def context(chromium: Browser) -> Iterator[BrowserContext]:
    """Make a context of its own, without anything stored."""
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(15_000)
    yield context
    context.close()


@pytest.fixture
def log(context: BrowserContext) -> Iterator[Log]:
    """Record what happens; fail if a page logs anything, or asks another host."""
    log = Log(context)
    yield log
    assert not log.unexpected()
    assert log.hosts() <= {"127.0.0.1", "localhost"}


@pytest.fixture
def page(context: BrowserContext, log: Log) -> Page:
    """Return a new page."""
    del log
    return context.new_page()


@pytest.fixture
def site() -> Iterator[Site]:
    """Run a web site of another origin."""
    with Site().running() as site:
        yield site


class Service:
    """The service at an address that stays the same when it is restarted.

    Attributes:
        url: Its address.
    """

    def __init__(self, redis_url: str, folder: Path, origin: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._stack = contextlib.ExitStack()
        keys = folder / "keys"
        keys.write_text(f"ops {digest('secret')}\nweb {PUBLIC_KEY}\n")
        self.log_file = folder / "service.log"
        self._environ = {
            "JOBSTATUS_REDIS_URL": redis_url,
            "JOBSTATUS_API_KEYS_FILE": str(keys),
            "JOBSTATUS_CORS_ORIGINS": origin,
            "JOBSTATUS_ACCESS_LOG": "1",
        }

    def start(self, **environ: str) -> None:
        """Start it, and wait until it is ready."""
        log = self._stack.enter_context(self.log_file.open("a"))
        environment = self._environ | environ
        self._stack.enter_context(
            stopping(start("jobstatus", "serve", "--port", str(self.port), log=log, **environment))
        )
        eventually(lambda: is_ready(self.url), 30)

    def stop(self) -> None:
        """Stop it with SIGTERM, after which it drains."""
        self._stack.close()
        self._stack = contextlib.ExitStack()

    def log(self) -> str:
        """Return everything that it has logged."""
        return self.log_file.read_text()


@pytest.fixture
def service(service_url: str, tmp_path: Path, site: Site) -> Iterator[Service]:
    """Run the service, whose responses the pages of `site` may read."""
    service = Service(service_url, tmp_path, site.url)
    service.start()
    yield service
    service.stop()


@pytest.fixture
def sign() -> Callable[..., str]:
    """Return a function that signs job tokens."""

    def sign(*ids: Any, **options: Any) -> str:
        return tokens.sign([str(job_id) for job_id in ids], **{"key": PRIVATE_KEY, **options})

    return sign


@pytest.fixture
def offline(request: pytest.FixtureRequest) -> float:
    """Return for how many seconds the browser is offline."""
    seconds: float = request.config.getoption("--offline")
    return seconds


@pytest.fixture(scope="session")
def npm_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project in which the npm package is installed."""
    return npm.install(tmp_path_factory.mktemp("npm"))
