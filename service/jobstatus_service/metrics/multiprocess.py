"""Share metrics between the processes that serve one port.

A scrape reaches one of the processes, which answers for all: each process saves its sample every
second in a file `<pid>.json` of a common directory, and reads the files of the others.
"""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from jobstatus_service.metrics.metrics import Sample

DIRECTORY_VARIABLE: Final = "JOBSTATUS_METRICS_DIR"
"""The environment variable that names the directory. `server` sets it for its own processes."""

_SAVE_INTERVAL_SECONDS: Final = 1.0


class ProcessMetrics:
    """Saves the samples of this process, and reads those of all processes."""

    def __init__(self, take_sample: Callable[[], Sample], directory: str | None = None) -> None:
        """Prepare to share samples.

        Args:
            take_sample: Returns a sample of this process.
            directory: Where to save it; by default, the value of `DIRECTORY_VARIABLE`. Without
                that, nothing is saved.
        """
        self._take_sample = take_sample
        directory = directory or os.environ.get(DIRECTORY_VARIABLE)
        self._directory = Path(directory) if directory else None

    def samples(self) -> list[Sample]:
        """Return one sample of each process, this one's first.

        Of a process that has exited, the counts remain, since the total of a counter must not
        decrease; its gauges do not.
        """
        samples = [self._take_sample()]
        for path in self._directory.glob("*.json") if self._directory else ():
            pid = int(path.stem)
            if pid == os.getpid():
                continue
            sample = msgspec.json.decode(path.read_bytes(), type=Sample)
            if not _is_running(pid):
                sample = msgspec.structs.replace(sample, gauges={})
            samples.append(sample)
        return samples

    def save(self) -> None:
        """Save a sample of this process for the others."""
        if self._directory is not None:
            path = self._directory / f"{os.getpid()}.json"
            new = path.with_suffix(".new")
            new.write_bytes(msgspec.json.encode(self._take_sample()))
            new.replace(path)

    async def save_periodically(self) -> None:
        """Save a sample every second until cancelled. Return at once if there is no directory."""
        while self._directory is not None:
            self.save()
            await asyncio.sleep(_SAVE_INTERVAL_SECONDS)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
