"""How many jobs there are in each state, for the metrics: read now and then, for all tenants."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

from jobstatus.status import JobState
from jobstatus_service.lookup.listing import Listing
from jobstatus_service.storage.link import UnavailableError

READ_INTERVAL_SECONDS: Final = 15.0
"""Seconds between two readings: as often as Prometheus usually scrapes."""

_log = logging.getLogger("jobstatus.service")


class JobCounts:
    """The number of jobs by state, of all tenants that have an API key.

    Attributes:
        by_state: The numbers that were read last; empty before the first reading.
    """

    def __init__(self, listing: Listing, prefixes: Callable[[], Iterable[str]]) -> None:
        self.by_state: dict[JobState, int] = {}
        self._listing = listing
        self._prefixes = prefixes

    async def read_periodically(self) -> None:
        """Read the numbers again and again; keep the last ones while Redis is unavailable."""
        while True:
            try:
                await self.read()
            except UnavailableError:
                pass  # the link logs it
            except Exception:
                _log.exception("the jobs can't be counted because of a bug, retrying")
            await asyncio.sleep(READ_INTERVAL_SECONDS)

    async def read(self) -> None:
        """Read the numbers.

        Raises:
            UnavailableError: Redis does not answer in time.
        """
        total: Counter[JobState] = Counter()
        for prefix in sorted(set(self._prefixes())):
            total.update(await self._listing.counts(prefix))
        self.by_state = dict(total)
