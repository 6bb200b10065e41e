"""From a `WorkerSettings` to a running worker."""

from inspect import signature
from typing import Any

from arq.worker import Worker

from jobstatus.arq.queue import redis_settings
from jobstatus.arq.worker import StatusWorker

_PARAMETERS = {*signature(Worker).parameters, "status"}


def settings_of(settings: Any) -> dict[str, Any]:
    """What `StatusWorker` takes of a settings class, dict or object; inherited settings too.

    arq's own reading ignores what a settings class inherits.
    """
    if isinstance(settings, dict):
        return {k: v for k, v in settings.items() if k in _PARAMETERS}
    return {k: getattr(settings, k) for k in _PARAMETERS if hasattr(settings, k)}


def create_worker(settings: Any, **kwargs: Any) -> StatusWorker:
    """A `StatusWorker` of a `WorkerSettings`; `kwargs` win over it.

    Where neither says which Redis the queue is in, `jobstatus.arq.redis_settings` does.

    Raises:
        SettingsError: a `JOBSTATUS_` variable can't be used.
    """
    known = {**settings_of(settings), **kwargs}
    if known.get("redis_settings") is None and known.get("redis_pool") is None:
        known["redis_settings"] = redis_settings()
    return StatusWorker(**known)


def run_worker(settings: Any, **kwargs: Any) -> StatusWorker:
    """Run a `StatusWorker` until it is stopped, or in burst mode until the queue is empty."""
    worker = create_worker(settings, **kwargs)
    worker.run()
    return worker
