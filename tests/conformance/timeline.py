"""Jobs that change while a scenario runs against the real service."""

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from tests.conformance.scenario import Run
from tests.service.conftest import Put

from jobstatus.status import JobState

_START_MS = 1_700_000_000_000


@contextlib.contextmanager
def play(runs: list[Run], put: Put) -> Iterator[None]:
    """Write what the scenarios' jobs do, while the block runs."""
    changes: list[tuple[float, UUID, dict[str, Any]]] = []
    for run in runs:
        for at, text in run.scenario["world"].items():
            name, state, *progress = text.split()
            fields = {
                "state": JobState(state),
                "progress": float(progress[0]) if progress else None,
            }
            fields |= {"created": _START_MS, "attempt": 0 if state == "pending" else 1}
            changes.append((float(at), UUID(run.statuses.ids[name]), fields))
    changes.sort(key=lambda change: change[0])
    began = time.monotonic()

    def write() -> None:
        for at, job, fields in changes:
            time.sleep(max(0.0, began + at - time.monotonic()))
            put(job, **fields)

    for at, job, fields in [change for change in changes if change[0] <= 0]:
        put(job, **fields)
        changes.remove((at, job, fields))
    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        thread.join()
