"""Calls the progress functions of jobs, in a thread of its own: one that blocks delays no lease."""

import threading
from collections.abc import Iterable

from jobstatus.publishing.attempt import Attempt


class SamplerThread:
    """Calls the progress functions of running attempts. It starts when it is first needed."""

    def __init__(self) -> None:
        self._requested = threading.Event()
        self._attempts: list[Attempt] = []
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def request(self, attempts: Iterable[Attempt]) -> None:
        """Have the progress functions called, in time for the next reading. Does not wait."""
        self._attempts = [attempt for attempt in attempts if attempt.reader.needs_sampling]
        if not self._attempts:
            return
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="jobstatus-sampler", daemon=True)
            self._thread.start()
        self._requested.set()

    def close(self) -> None:
        """Stop calling progress functions."""
        self._is_closed = True
        self._requested.set()

    def _run(self) -> None:
        while not self._is_closed:
            self._requested.wait()
            self._requested.clear()
            for attempt in self._attempts:
                if not attempt.has_ended:
                    attempt.reader.take_samples()
