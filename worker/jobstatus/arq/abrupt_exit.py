"""The end of a process whose worker was not closed.

With `handle_signals=False` arq leaves signals to the application. If nobody handles SIGTERM, the
process ends at once, and its jobs would be shown as `in_progress` until their leases expire. The
process still ends in the same way; before that, the jobs are reported as cut short.
"""

import atexit
import logging
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

_log = logging.getLogger("jobstatus")


class AbruptExit:
    """Calls a function before the process ends, by SIGTERM or by reaching its end."""

    def __init__(self, report: Callable[[], None], claim_lease: float) -> None:
        """Prepare for the end of the process; call this in the thread of the event loop.

        Args:
            report: Reports the running jobs as cut short.
            claim_lease: Seconds after which such a job is run again.
        """
        self._report = report
        self._pid = os.getpid()
        self._is_registered = False
        is_main_thread = threading.current_thread() is threading.main_thread()
        handler = signal.getsignal(signal.SIGTERM)
        self._handles_sigterm = handler is signal.SIG_DFL and is_main_thread
        if self._handles_sigterm:
            signal.signal(signal.SIGTERM, self._on_sigterm)
            _log.info(
                "handle_signals is off: SIGTERM ends the process at once, its running jobs are "
                "shown as retrying, and are run again within %g s",
                claim_lease,
            )
        else:
            _log.warning(
                "handle_signals is off, and SIGTERM is left to the application: if that ends "
                "without calling worker.close(), running jobs are reported as retrying only when "
                "the process ends, and are run again within %g s after that",
                claim_lease,
            )

    def before_exit(self) -> None:
        """Also call the function when the interpreter ends.

        Call this when the publisher's thread has started: functions that are registered last are
        called first, and the publisher must still be open then.
        """
        if not self._is_registered:
            self._is_registered = True
            atexit.register(self._report_once)

    def cancel(self) -> None:
        """Do nothing any more: the worker is closed."""
        atexit.unregister(self._report_once)
        # A bound method is another object each time, but equal.
        if self._handles_sigterm and signal.getsignal(signal.SIGTERM) == self._on_sigterm:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _report_once(self) -> None:
        if os.getpid() == self._pid:  # the jobs of a forked child's parent go on
            self._report()

    def _on_sigterm(self, *_: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        try:
            self._report_once()
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
