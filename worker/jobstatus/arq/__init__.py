"""Status for arq: a pool that shows `pending`, and a worker that shows everything else."""

from jobstatus.arq.factory import create_worker, run_worker
from jobstatus.arq.pool import StatusRedis, create_pool
from jobstatus.arq.queue import redis_settings
from jobstatus.arq.worker import StatusWorker

__all__ = [
    "StatusRedis",
    "StatusWorker",
    "create_pool",
    "create_worker",
    "redis_settings",
    "run_worker",
]
