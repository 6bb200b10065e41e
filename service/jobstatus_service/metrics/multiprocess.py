"""The numbers of all processes that share a port: whichever is asked answers for all."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from jobstatus_service.metrics.metrics import Sample

DIRECTORY_VARIABLE: Final = "JOBSTATUS_METRICS_DIR"
"""Names the folder where they are left; set by the server for its own processes."""

_EVERY: Final = 1.0
"""Seconds between two times that a process leaves its numbers for the others."""


class ProcessMetrics:
    """Leaves the numbers of this process for the others, and finds theirs.

    A process that has ended still counts with what it has counted, or counters would fall.
    """

    def __init__(self, own: Callable[[], Sample], folder: str | None = None) -> None:
        """Numbers to share.

        Args:
            own: Takes a sample of this process.
            folder: Where to leave it; None: as the environment says, or nowhere.
        """
        self._own = own
        folder = folder or os.environ.get(DIRECTORY_VARIABLE)
        self._folder = Path(folder) if folder else None

    def samples(self) -> list[Sample]:
        """One sample of each process, this one's first."""
        found = [self._own()]
        for path in self._folder.glob("*.json") if self._folder else ():
            if int(path.stem) == os.getpid():
                continue
            sample = msgspec.json.decode(path.read_bytes(), type=Sample)
            lives = _lives(int(path.stem))
            found.append(sample if lives else msgspec.structs.replace(sample, gauges={}))
        return found

    def save(self) -> None:
        """Leave the numbers of this process."""
        if self._folder is not None:
            path = self._folder / f"{os.getpid()}.json"
            new = path.with_suffix(".new")
            new.write_bytes(msgspec.json.encode(self._own()))
            new.replace(path)

    async def save_periodically(self) -> None:
        """Leave them every second, for ever, where there is anybody to find them."""
        while self._folder is not None:
            self.save()
            await asyncio.sleep(_EVERY)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
