"""`instrument`: every pool of the process publishes the jobs that it enqueues as `pending`.

For applications whose pool is made by a library, or is of a class of their own.
"""

import functools
from typing import Any

from arq.connections import ArqRedis
from arq.jobs import Job

from jobstatus.arq.names import StatusName
from jobstatus.arq.pending import PendingReporter, observed, serializer_of, set_serializer
from jobstatus.publishing.publisher import Publisher
from jobstatus.settings import PublisherSettings
from jobstatus.storage.cluster_store import store_for

_REPLACED = ("enqueue_job", "pipeline", "job_serializer")
"""The attributes of the class that `instrument` replaces."""

_publishers: list[Publisher] = []
"""The publisher that all instrumented pools share, if there is one."""

_plain: dict[str, Any] = {}
"""What they were before; None: the class had no such attribute. Empty: nothing is replaced."""

_REPORTER = "_jobstatus_reporter"
"""The attribute of a pool that holds its reporter."""


def instrument(
    *, status: PublisherSettings | None = None, status_name: StatusName | None = None
) -> None:
    """Make every `ArqRedis` of this process publish the jobs that it enqueues as `pending`.

    Call it once, at the start. Pools that exist already and classes derived from `ArqRedis` are
    included. It changes nothing else about them, and an enqueue never fails because the status
    can't be written. A second call does nothing.

    Args:
        status: Where and for how long the status is stored; None: from the environment.
        status_name: Returns the name under which a job is shown, from its function's name,
            arguments and keyword arguments; None: the function's name.

    Raises:
        SettingsError: A `JOBSTATUS_` variable has an invalid value.
    """
    if _plain:
        return
    settings = status or PublisherSettings.from_env()
    publisher = None
    if settings.redis_url is not None:  # one thread for all pools; it starts with the first report
        publisher = Publisher(store_for(settings), settings)
        _publishers.append(publisher)
    plain_enqueue, plain_pipeline = ArqRedis.enqueue_job, ArqRedis.pipeline

    @functools.wraps(plain_enqueue)
    async def enqueue_job(self: ArqRedis, function: str, *args: Any, **kwargs: Any) -> Job | None:
        reporter = self.__dict__.get(_REPORTER)
        if reporter is None:
            reporter = PendingReporter(self, settings, publisher, status_name)
            self.__dict__[_REPORTER] = reporter
        enqueue = functools.partial(plain_enqueue, self)
        job: Job | None = await reporter.enqueue(enqueue, function, args, kwargs)
        return job

    @functools.wraps(plain_pipeline)
    def pipeline(self: ArqRedis, *args: Any, **kwargs: Any) -> Any:
        return observed(self, plain_pipeline(self, *args, **kwargs))

    untyped: Any = ArqRedis
    _plain.update({name: untyped.__dict__.get(name) for name in _REPLACED})
    untyped.enqueue_job = enqueue_job
    untyped.pipeline = pipeline
    untyped.job_serializer = property(serializer_of, set_serializer)


def uninstrument() -> None:
    """Undo `instrument`, for tests. What has wrapped its methods since then is undone as well."""
    for name, value in _plain.items():
        if value is None:
            delattr(ArqRedis, name)
        else:
            setattr(ArqRedis, name, value)
    _plain.clear()
    while _publishers:
        _publishers.pop().close()
