"""Making and running a worker from arq's settings class."""

from inspect import signature
from typing import Any

from arq.worker import Worker

from jobstatus.arq.queue_settings import redis_settings
from jobstatus.arq.worker import StatusWorker

_PARAMETERS = {*signature(Worker).parameters, "status"}


def worker_arguments(settings: Any) -> dict[str, Any]:
    """Return the arguments for `StatusWorker` in a settings class, dict or object.

    They include what a settings class inherits, which arq's own function ignores.
    """
    if isinstance(settings, dict):
        return {k: v for k, v in settings.items() if k in _PARAMETERS}
    return {k: getattr(settings, k) for k in _PARAMETERS if hasattr(settings, k)}


def create_worker(settings: Any, **kwargs: Any) -> StatusWorker:
    """Return a `StatusWorker` for arq's settings.

    If neither argument names the queue's Redis, `jobstatus.arq.redis_settings` does.

    Args:
        settings: A settings class, dict or object, such as arq's `WorkerSettings`.
        **kwargs: Arguments for `StatusWorker`, which override those of the settings.

    Raises:
        SettingsError: A `JOBSTATUS_` variable has an invalid value.
    """
    arguments = {**worker_arguments(settings), **kwargs}
    if arguments.get("redis_settings") is None and arguments.get("redis_pool") is None:
        arguments["redis_settings"] = redis_settings()
    return StatusWorker(**arguments)


def run_worker(settings: Any, **kwargs: Any) -> StatusWorker:
    """Run a worker until it is stopped, or in burst mode until the queue is empty.

    Args:
        settings: As for `create_worker`.
        **kwargs: As for `create_worker`.

    Raises:
        SettingsError: A `JOBSTATUS_` variable has an invalid value.
    """
    worker = create_worker(settings, **kwargs)
    worker.run()
    return worker
