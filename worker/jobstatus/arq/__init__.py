"""The integration with arq: a pool and a worker that publish the status of every job."""

from jobstatus.errors import MissingExtraError

try:
    from jobstatus.arq.factory import create_worker, run_worker
    from jobstatus.arq.instrument import instrument
    from jobstatus.arq.pool import StatusRedis, create_pool
    from jobstatus.arq.queue_settings import redis_settings
    from jobstatus.arq.worker import StatusWorker
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "arq":
        raise
    raise MissingExtraError("jobstatus.arq needs arq: pip install 'jobstatus[arq]'") from None

__all__ = [
    "StatusRedis",
    "StatusWorker",
    "create_pool",
    "create_worker",
    "instrument",
    "redis_settings",
    "run_worker",
]
