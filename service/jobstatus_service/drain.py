"""SIGTERM: who waits is sent away, so that the server's own shutdown has nobody to wait for."""

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Final

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def on_shutdown_signal(drain: Callable[[], None]) -> Iterator[None]:
    """Call `drain` in the running event loop when the process is told to end.

    What the server itself does about the signal, it does as well: a handler of the event loop
    hears of the signal by another way, and a plain one is called from here.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may ask for signals; whoever runs us there has a say
        return
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def handle(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(drain)
        handler = before[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    for number in _SIGNALS:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
