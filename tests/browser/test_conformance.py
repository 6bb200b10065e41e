"""The JavaScript client behaves as `tests/conformance` demands, in Node and Chromium."""

from functools import partial

import pytest
from playwright.sync_api import Browser
from tests.browser.conftest import Service
from tests.browser.site import Site
from tests.conformance.javascript_drivers import CLIENT, DRIVER, in_page, node_driver
from tests.conformance.suite import REAL, SCRIPTED, Driver, names_of, run_real, run_scripted
from tests.service.conftest import Put


@pytest.fixture(params=["Node", "Chromium"])
def driver(request: pytest.FixtureRequest, chromium: Browser, site: Site) -> Driver:
    """Return what carries out scenarios with the client in Node, or in a page."""
    if request.param == "Node":
        return node_driver
    site.pages |= {
        "/": "<!doctype html><title>driver</title>",
        "/client.js": CLIENT.read_text(encoding="utf-8"),
        "/driver.js": DRIVER.read_text(encoding="utf-8"),
    }
    page = chromium.new_context().new_page()
    page.goto(site.url)
    return partial(in_page, page)


def test_scripted_server(driver: Driver, pytestconfig: pytest.Config) -> None:
    """The client behaves towards the scripted server as each scenario demands."""
    faults = run_scripted(driver, pytestconfig.getoption("--cut-step"))
    assert sorted(faults) == sorted(names_of(SCRIPTED))
    assert {name: found for name, found in faults.items() if found} == {}


def test_real_service(driver: Driver, service: Service, put: Put) -> None:
    """The client behaves towards the real service as each scenario demands."""
    faults = run_real(driver, service.url, put)
    assert sorted(faults) == sorted(names_of(REAL))
    assert {name: found for name, found in faults.items() if found} == {}
