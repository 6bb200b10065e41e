"""Calling what jobs gave to `sample`, in a thread of its own: one that blocks holds up no lease."""

import threading
from collections.abc import Iterable

from jobstatus.publishing.attempt import Attempt


class SamplerThread:
    """Calls the samplers of running attempts when asked; its thread starts when first needed."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._attempts: list[Attempt] = []
        self._thread: threading.Thread | None = None
        self._closed = False

    def ask(self, attempts: Iterable[Attempt]) -> None:
        """Have the samplers called, in time for the next look at the reports. Doesn't wait."""
        self._attempts = [attempt for attempt in attempts if attempt.report.wants_sampling]
        if not self._attempts:
            return
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="jobstatus-sampler", daemon=True)
            self._thread.start()
        self._asked.set()

    def close(self) -> None:
        """Call no more samplers."""
        self._closed = True
        self._asked.set()

    def _run(self) -> None:
        while not self._closed:
            self._asked.wait()
            self._asked.clear()
            for attempt in self._attempts:
                if not attempt.has_ended:
                    attempt.report.take_samples()
