"""Both Python clients behave as the scenarios of `tests/conformance` demand."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from tests.conformance.python_drivers import async_driver, sync_driver
from tests.conformance.suite import REAL, SCRIPTED, Driver, names_of, run_real, run_scripted
from tests.processes import service
from tests.service.conftest import Put, put

__all__ = ["put"]


DRIVERS = {"async": async_driver, "sync": sync_driver}

Faults = dict[str, list[str]]


@pytest.fixture(scope="module")
def faults_of(pytestconfig: pytest.Config) -> Iterator[dict[str, Future[Faults]]]:
    """Run the scenarios with both clients at the same time, since they wait most of the time."""
    step = pytestconfig.getoption("--cut-step")
    with ThreadPoolExecutor() as pool:
        yield {name: pool.submit(run_scripted, each, step) for name, each in DRIVERS.items()}


@pytest.mark.parametrize("client", DRIVERS)
@pytest.mark.parametrize("name", names_of(SCRIPTED))
def test_scripted_server(client: str, name: str, faults_of: dict[str, Future[Faults]]) -> None:
    """The client behaves towards the scripted server as the scenario demands."""
    assert faults_of[client].result()[name] == []


@pytest.mark.parametrize("client", DRIVERS.values(), ids=DRIVERS)
def test_real_service(client: Driver, service_url: str, put: Put) -> None:
    """The client behaves towards the real service as each scenario demands."""
    with service(service_url) as http:
        faults = run_real(client, str(http.base_url), put)
    assert sorted(faults) == sorted(names_of(REAL))
    assert {name: found for name, found in faults.items() if found} == {}
