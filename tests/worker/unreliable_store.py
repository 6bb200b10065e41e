"""A store that can be made unavailable, and a publisher that uses it."""

import threading
from collections.abc import Sequence
from typing import Any

from jobstatus import Publisher
from jobstatus.settings import PublisherSettings
from jobstatus.status import WriteResult
from jobstatus.storage.refusals import Refusal
from jobstatus.storage.store import Store
from jobstatus.storage.write import Run, Write


class UnreliableStore(Store):
    """A store that can be made unavailable, and records how it is used.

    Attributes:
        is_available: Whether the store can be used.
        requested: The number of writes or reads of each exchange, including those that failed.
        threads: The names of the threads that have used the store.
    """

    def __init__(self, client: Any) -> None:
        super().__init__(client)
        self.is_available = True
        self.requested: list[int] = []
        self.threads: set[str] = set()

    def write(self, writes: Sequence[Write]) -> list[WriteResult | Refusal]:
        """Write if the store is available."""
        self._use(len(writes))
        return super().write(writes)

    def runs(self, keys: Sequence[str]) -> list[Run | Refusal | None]:
        """Read if the store is available."""
        self._use(len(keys))
        return super().runs(keys)

    def _use(self, count: int) -> None:
        self.requested.append(count)
        self.threads.add(threading.current_thread().name)
        if not self.is_available:
            raise ConnectionError("the store is unavailable")


def unreliable(url: str, **settings: Any) -> tuple[UnreliableStore, Publisher]:
    """Create a store and its publisher, which reads reports every 20 ms."""
    known = PublisherSettings(redis_url=url, report_interval=0.02, **settings)
    store = UnreliableStore.from_settings(known)
    return store, Publisher(store, known)


def run_jobs(publisher: Publisher, count: int, created: int | None = None) -> None:
    """Run the jobs `job-0`, `job-1`, ..., which report progress and succeed."""
    for n in range(count):
        with publisher.job(f"job-{n}", name="x", created=created) as report:
            report.progress(50)
