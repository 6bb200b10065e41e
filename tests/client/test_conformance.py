"""Both Python clients behave as the scenarios of `tests/conformance` demand."""

from typing import Any

import pytest
from tests.conformance.python_drivers import async_driver, sync_driver
from tests.conformance.suite import REAL, SCRIPTED, Driver, names_of, run_real, run_scripted
from tests.processes import service
from tests.service.conftest import Put, put

__all__ = ["put"]


@pytest.fixture(scope="module", params=[async_driver, sync_driver], ids=["async", "sync"])
def driver(request: pytest.FixtureRequest) -> Any:
    """Return what carries out scenarios with one of the clients."""
    return request.param


@pytest.fixture(scope="module")
def faults(driver: Driver, pytestconfig: pytest.Config) -> dict[str, list[str]]:
    """Return the faults of the client towards the scripted server, by scenario."""
    return run_scripted(driver, pytestconfig.getoption("--cut-step"))


@pytest.mark.parametrize("name", names_of(SCRIPTED))
def test_scripted_server(name: str, faults: dict[str, list[str]]) -> None:
    """The client behaves towards the scripted server as the scenario demands."""
    assert faults[name] == []


@pytest.mark.parametrize("client", [async_driver, sync_driver], ids=["async", "sync"])
def test_real_service(client: Driver, service_url: str, put: Put) -> None:
    """The client behaves towards the real service as each scenario demands."""
    with service(service_url) as http:
        faults = run_real(client, str(http.base_url), put)
    assert sorted(faults) == sorted(names_of(REAL))
    assert {name: found for name, found in faults.items() if found} == {}
