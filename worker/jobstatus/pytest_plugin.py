"""The pytest plugin of jobstatus, loaded by pytest itself: the fixture `job_statuses`."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from jobstatus.testing import RecordedStatuses


@pytest.fixture
def job_statuses() -> Iterator["RecordedStatuses"]:
    """Record what jobs report, in memory; see `jobstatus.testing`."""
    from jobstatus.testing import recorded_statuses  # noqa: PLC0415 - needs fakeredis

    with recorded_statuses() as statuses:
        yield statuses
