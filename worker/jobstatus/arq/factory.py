"""Making and running a worker from arq's settings class.

arq's own `create_worker` makes the worker, because tools such as Sentry replace that function to
wrap the functions of the settings.
"""

import difflib
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from inspect import signature
from typing import Any, cast

import arq.worker
from arq.worker import Worker

from jobstatus.arq.worker import StatusWorker

_PARAMETERS = frozenset(signature(StatusWorker).parameters)

_log = logging.getLogger("jobstatus")

_creating = threading.Lock()

_is_creating: ContextVar[bool] = ContextVar("jobstatus_is_creating", default=False)


def worker_arguments(settings: Any) -> dict[str, Any]:
    """Return the arguments for `StatusWorker` in a settings class, dict or object.

    They include what a settings class inherits, which arq's own function ignores.
    """
    if isinstance(settings, dict):
        return {k: v for k, v in settings.items() if k in _PARAMETERS}
    return {k: getattr(settings, k) for k in _PARAMETERS if hasattr(settings, k)}


def create_worker(
    settings: Any, *, worker_class: type[StatusWorker] = StatusWorker, **kwargs: Any
) -> StatusWorker:
    """Return a `StatusWorker` for arq's settings, made by `arq.worker.create_worker`.

    If neither argument names the queue's Redis, `jobstatus.arq.redis_settings` does.

    Args:
        settings: A settings class, dict or object, such as arq's `WorkerSettings`.
        worker_class: A class derived from `StatusWorker`.
        **kwargs: Arguments for the worker, which override those of the settings.

    Raises:
        TypeError: `worker_class` is not derived from `StatusWorker`.
        SettingsError: A `JOBSTATUS_` variable has an invalid value.
    """
    if not issubclass(worker_class, StatusWorker):
        raise TypeError(f"worker_class must be derived from StatusWorker: {worker_class.__name__}")
    known = settings if isinstance(settings, dict) else vars(settings)
    # arq's function takes only what the class itself defines.
    inherited = {k: v for k, v in worker_arguments(settings).items() if k not in known}
    arguments = {**inherited, **kwargs}
    _warn_about_unknown_settings(settings)
    if _is_creating.get():  # `arq.worker.create_worker` is this function, or calls it
        return worker_class(**{**worker_arguments(settings), **arguments})
    token = _is_creating.set(True)
    try:
        with _creating, _arq_creates(worker_class):
            return cast("StatusWorker", arq.worker.create_worker(settings, **arguments))
    finally:
        _is_creating.reset(token)


def _warn_about_unknown_settings(settings: Any) -> None:
    """Log each setting whose name begins like ours and is unknown, with the most similar one."""
    ours = {name for name in _PARAMETERS if name.startswith("status_")}
    names = settings if isinstance(settings, dict) else dir(settings)
    for name in sorted(each for each in names if each.startswith("status_") and each not in ours):
        similar = difflib.get_close_matches(name, ours, 1)
        hint = f"did you mean {similar[0]}?" if similar else f"there are {', '.join(sorted(ours))}"
        _log.warning("the worker's setting %s is ignored: %s", name, hint)


@contextmanager
def _arq_creates(worker_class: type[Worker]) -> Iterator[None]:
    """Have `arq.worker.create_worker` make workers of another class while the block runs."""
    module: Any = arq.worker
    plain, module.Worker = module.Worker, worker_class
    try:
        yield
    finally:
        module.Worker = plain


def run_worker(
    settings: Any, *, worker_class: type[StatusWorker] = StatusWorker, **kwargs: Any
) -> StatusWorker:
    """Run a worker until it is stopped, or in burst mode until the queue is empty.

    Args:
        settings: As for `create_worker`.
        worker_class: As for `create_worker`.
        **kwargs: As for `create_worker`.

    Raises:
        SettingsError: A `JOBSTATUS_` variable has an invalid value.
    """
    worker = create_worker(settings, worker_class=worker_class, **kwargs)
    worker.run()
    return worker
