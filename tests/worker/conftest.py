"""A publisher to the empty server."""

from collections.abc import Iterator

import pytest

from jobstatus import Publisher
from jobstatus.settings import PublisherSettings
from jobstatus.storage.store import Store


@pytest.fixture
def publisher(settings: PublisherSettings) -> Iterator[Publisher]:
    with Publisher(Store.from_settings(settings), settings) as publisher:
        yield publisher
