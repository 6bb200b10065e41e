"""Carry out the tasks of scenarios with the two Python clients."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

import msgspec

from jobstatus_client import (
    AsyncClient,
    Client,
    ClientClosedError,
    ListEvent,
    RequestError,
    UnavailableError,
    WaitTimeoutError,
)


def sync_driver(tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Carry out each task in a thread."""
    with ThreadPoolExecutor(max(len(tasks), 1)) as pool:
        return list(pool.map(_run_sync, tasks))


def async_driver(tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Carry out all tasks in one event loop."""

    async def run_all() -> list[dict[str, Any]]:
        return await asyncio.gather(*map(_run_async, tasks))

    return asyncio.run(run_all())


LIMIT_SECONDS = 30.0
"""After this time a task that hangs is cancelled."""


class _Outcome:
    """What a task has led to."""

    def __init__(self, task: dict[str, Any]) -> None:
        self._began = time.monotonic()
        self._task = task
        self._seconds: float | None = None
        self.yielded: list[Any] = []
        self.returned: Any = None
        self.error: BaseException | None = None

    def add(self, each: Any) -> bool:
        """Note what a loop has yielded; return whether the loop is to be left."""
        self.yielded.append(_plain_event(each) if isinstance(each, ListEvent) else _plain(each))
        return len(self.yielded) == self._task.get("stop_after")

    def note_time(self) -> None:
        """Note that it has ended."""
        self._seconds = time.monotonic() - self._began

    def as_dict(self) -> dict[str, Any]:
        """Return it as the drivers of all languages do."""
        error = self.error
        return {
            "yielded": self.yielded,
            "returned": _plain(self.returned),
            "error": None if error is None else _plain_error(error),
            "seconds": self._seconds,
        }


def _plain(value: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(value))


def _plain_event(event: ListEvent) -> dict[str, Any]:
    if event.kind == "status":
        return {"type": "status", "job": _plain(event.jobs[0])}
    return {"type": event.kind, "jobs": _plain(event.jobs)}


def _plain_error(error: BaseException) -> dict[str, Any]:
    kinds: dict[type[BaseException], str] = {
        RequestError: "request",
        WaitTimeoutError: "wait",
        ClientClosedError: "cancelled",
        asyncio.CancelledError: "cancelled",
        UnavailableError: "unavailable",
    }
    kind = next((name for type_, name in kinds.items() if isinstance(error, type_)), repr(error))
    return {"type": kind, "status": getattr(error, "status", None), "message": str(error)}


def _credentials(task: dict[str, Any]) -> str | Callable[[], str]:
    """Return the credential of a task, or a function that returns one after the other."""
    given = task["credentials"]
    if isinstance(given, str):
        return given
    rest = iter(given)
    return lambda: next(rest, given[-1])


def _operation(client: Any, task: dict[str, Any]) -> Any:
    """Begin what the task names."""
    options = task.get("options", {})
    if task["do"] in {"list", "counts", "follow"}:
        return getattr(client, task["do"])(**options)
    return getattr(client, task["do"])(task["ids"], **options)


def _client_options(task: dict[str, Any]) -> dict[str, Any]:
    return {"timeout": task.get("client_timeout", 10), "random": lambda: 0.0}


@contextlib.contextmanager
def _jumping_clock(task: dict[str, Any]) -> Any:
    """Set the clock of the process forward during the block, after some time."""
    if "jump_clock" not in task:
        yield
        return
    began, now = time.monotonic(), time.time

    def jumped() -> float:
        is_later = time.monotonic() - began > task["jump_clock"]["after"]
        return now() + (task["jump_clock"]["seconds"] if is_later else 0)

    with mock.patch("time.time", jumped):
        yield


def _run_sync(task: dict[str, Any]) -> dict[str, Any]:
    outcome = _Outcome(task)
    with (
        _jumping_clock(task),
        Client(task["url"], _credentials(task), **_client_options(task)) as client,
    ):
        timer = threading.Timer(task.get("cancel_after", LIMIT_SECONDS), client.close)
        timer.daemon = True
        timer.start()
        try:
            found = _operation(client, task)
            if task["do"] in {"watch", "follow"}:
                with contextlib.closing(found):
                    for each in found:
                        if outcome.add(each):
                            break
            else:
                outcome.returned = found
        except Exception as error:
            outcome.error = error
        outcome.note_time()
        timer.cancel()
    return outcome.as_dict()


async def _run_async(task: dict[str, Any]) -> dict[str, Any]:
    outcome = _Outcome(task)
    credentials = _credentials(task)

    async def ask() -> str:
        return credentials() if callable(credentials) else credentials

    async with AsyncClient(
        task["url"], ask if callable(credentials) else credentials, **_client_options(task)
    ) as client:

        async def carry_out() -> None:
            found = _operation(client, task)
            if task["do"] in {"watch", "follow"}:
                async with contextlib.aclosing(found):
                    async for each in found:
                        if outcome.add(each):
                            break
            else:
                outcome.returned = await found

        with _jumping_clock(task):
            running = asyncio.create_task(carry_out())
            await asyncio.wait([running], timeout=task.get("cancel_after", LIMIT_SECONDS))
            running.cancel()
            try:
                await running
            except (Exception, asyncio.CancelledError) as error:
                outcome.error = error
            outcome.note_time()
    return outcome.as_dict()
