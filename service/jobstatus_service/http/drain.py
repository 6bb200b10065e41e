"""Leaving without a failed request.

SIGUSR1 drains: `/readyz` says no, each answer closes its connection, waits are answered, streams
end. The process goes on answering until SIGTERM, since whoever balances the load learns late; that
does the same and ends the process. `jobstatus drain` sends the first, for a `preStop` hook.
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
"""As in ASGI. (Litestar's own takes longer to import than a hook should.)"""

DRAIN: Final = signal.SIGUSR1

_ENDS: Final = (signal.SIGTERM, signal.SIGINT)

_LOOK: Final = 0.5
"""Seconds between two looks for new child processes while draining."""


@contextlib.contextmanager
def on_shutdown_signal(drain: Callable[[], None]) -> Iterator[None]:
    """Call `drain` in the running event loop when the process is told to drain or to end.

    What the server itself does about the signal, it does as well: a handler of the event loop
    hears of the signal by another way, and a plain one is called from here.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may ask for signals; whoever runs us there has a say
        return
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (*_ENDS, DRAIN)}

    def handle(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(drain)
        handler = before[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    for number in before:
        signal.signal(number, handle)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {DRAIN})  # see `forward_drain_signal`
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def forward_drain_signal() -> None:
    """Have this process pass the signal to drain on to its child processes.

    It is blocked here and so, until they can hear it, in each child: sent to one that is still
    starting it waits, where it would end it.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {DRAIN})
    threading.Thread(target=_pass_on, name="drain", daemon=True).start()


def _pass_on() -> None:
    signal.sigwait({DRAIN})
    told: set[int] = set()
    while True:  # one that takes the place of a child that died is told, too
        for child in multiprocessing.active_children():
            if child.pid is not None and child.pid not in told:
                told.add(child.pid)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child.pid, DRAIN)
        signal.sigtimedwait({DRAIN}, _LOOK)


def drain_command(pid: int | None, wait: float) -> None:
    """Tell a server to drain, then wait.

    Args:
        pid: The process of `jobstatus serve`; None: the first of a container.
        wait: Seconds to wait afterwards, for whoever balances the load to hear of it.

    Raises:
        JobStatusError: there is no such server.
    """
    found = 1 if pid is None else pid
    if not _serves(found):
        hint = "" if pid is not None else "; outside a container name its process with --pid"
        raise JobStatusError(f"process {found} is no `jobstatus serve`{hint}")
    try:
        os.kill(found, DRAIN)
    except OSError as error:
        raise JobStatusError(f"process {found} can't be told to drain: {error}") from None
    time.sleep(wait)


def _serves(pid: int) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"serve" in words and any(b"jobstatus" in word for word in words)


def closing(send: Send, is_draining: Callable[[], bool]) -> Send:
    """The same, but an answer that begins while draining says that its connection is closed."""

    async def close(message: Any) -> None:
        if message["type"] == "http.response.start" and is_draining():
            headers = [*message.get("headers", ()), (b"connection", b"close")]
            message = {**message, "headers": headers}
        await send(message)

    return close
