"""Shutting down without failing a request.

SIGUSR1 drains the process: `/readyz` responds 503, each response closes its connection, long polls
are answered and event streams end. The process still responds until SIGTERM, since load balancers
learn late that it is not ready. SIGTERM drains as well and ends the process. `jobstatus drain`
sends SIGUSR1, for a `preStop` hook.
"""

import asyncio
import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final

from jobstatus.errors import JobStatusError

Send = Callable[[Any], Awaitable[None]]
"""As in ASGI. Litestar's own type would slow the import, and so the `preStop` hook."""

DRAIN: Final = signal.SIGUSR1

_SHUTDOWN_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

_NEW_CHILD_CHECK_SECONDS: Final = 0.5
"""Interval at which a draining parent process checks for new child processes."""


@contextlib.contextmanager
def on_shutdown_signal(drain: Callable[[], None]) -> Iterator[None]:
    """Call `drain` in the running event loop when a signal has the process drain or end.

    The server's own reaction to the signal stays: a handler of the event loop is notified through
    another mechanism, and a plain signal handler is called from here.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python allows only the main thread to handle signals
        return
    loop = asyncio.get_running_loop()
    previous = {number: signal.getsignal(number) for number in (*_SHUTDOWN_SIGNALS, DRAIN)}

    def handle(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(drain)
        handler = previous[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    for number in previous:
        signal.signal(number, handle)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {DRAIN})  # see `forward_drain_signal`
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def forward_drain_signal() -> None:
    """Have this process forward the drain signal to its child processes.

    The signal is blocked here, and thereby in each child until it has a handler: sent to a child
    that is still starting, the signal waits instead of ending it.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {DRAIN})
    threading.Thread(target=_forward, name="drain", daemon=True).start()


def _forward() -> None:
    signal.sigwait({DRAIN})
    notified: set[int] = set()
    while True:  # a child that replaces one that died must drain, too
        for child in multiprocessing.active_children():
            if child.pid is not None and child.pid not in notified:
                notified.add(child.pid)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child.pid, DRAIN)
        signal.sigtimedwait({DRAIN}, _NEW_CHILD_CHECK_SECONDS)


def drain_command(pid: int | None, wait: float) -> None:
    """Have a server drain, then wait.

    Args:
        pid: The process of `jobstatus serve`; None for process 1, as in a container.
        wait: Seconds to wait afterwards, until load balancers have noticed.

    Raises:
        JobStatusError: There is no such server, or it can't be sent the signal.
    """
    target = 1 if pid is None else pid
    if not _is_server(target):
        hint = "" if pid is not None else "; outside a container, name its process with --pid"
        raise JobStatusError(f"process {target} is not `jobstatus serve`{hint}")
    try:
        os.kill(target, DRAIN)
    except OSError as error:
        raise JobStatusError(f"process {target} can't be sent the drain signal: {error}") from None
    time.sleep(wait)


def _is_server(pid: int) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"serve" in words and any(b"jobstatus" in word for word in words)


def closing_while_draining(send: Send, is_draining: Callable[[], bool]) -> Send:
    """Wrap `send` so that a response that begins while draining closes its connection."""

    async def send_and_close(message: Any) -> None:
        if message["type"] == "http.response.start" and is_draining():
            headers = [*message.get("headers", ()), (b"connection", b"close")]
            message = {**message, "headers": headers}
        await send(message)

    return send_and_close
