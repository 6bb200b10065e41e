"""Making `current_job()` work in the threads that a job starts."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, TypeVar

T = TypeVar("T")


def carry_context_into_threads(loop: asyncio.AbstractEventLoop) -> None:
    """Make `loop.run_in_executor` copy the caller's context, as `asyncio.to_thread` does.

    Process pools are unchanged, because a context can't be pickled. A second call does nothing.
    """
    plain = loop.run_in_executor
    if getattr(plain, "carries_context", False):
        return

    def run_in_executor(
        executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        if executor is None or isinstance(executor, ThreadPoolExecutor):
            return plain(executor, copy_context().run, func, *args)
        return plain(executor, func, *args)

    run_in_executor.carries_context = True  # type: ignore[attr-defined]
    loop.run_in_executor = run_in_executor  # type: ignore[assignment]
