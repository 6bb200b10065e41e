"""An attempt as a span of the trace in which its job was enqueued."""

import contextlib
import pickle
from collections.abc import Callable, Iterator
from typing import Any

from jobstatus.arq.running_job import RunningJob
from jobstatus.tracing import TRACE_FIELD, Tracer


@contextlib.contextmanager
def attempt_span(
    traces: Tracer | None, job: RunningJob, ctx: dict[Any, Any], name: str
) -> Iterator[None]:
    """The attempt's span around a block, if there are traces.

    Args:
        traces: Where spans are made; None: nowhere.
        job: The job, whose `span` it becomes.
        ctx: arq's, of the attempt.
        name: The function's name.
    """
    if traces is None:
        yield
        return
    number = ctx["job_try"]
    with traces.span(
        name, "CONSUMER", job.carrier, job_id=ctx["job_id"], job_name=name, job_attempt=number
    ) as job.span:
        yield


def with_trace_context(
    plain: Callable[[bytes], Any] | None, current: Callable[[], RunningJob | None]
) -> Callable[[bytes], Any]:
    """A deserializer of jobs that remembers in which trace each was enqueued.

    Args:
        plain: The deserializer proper; None: arq's own.
        current: The job that is being read, if one is.
    """

    def deserialize(data: bytes) -> Any:
        found = (plain or pickle.loads)(data)
        job = current()
        if job is not None and isinstance(found, dict):
            job.carrier = found.get(TRACE_FIELD, {})
        return found

    return deserialize
