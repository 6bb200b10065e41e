"""What a worker process does, for Prometheus, on a port of its own; and the liveness probe.

The queue is asked when somebody scrapes: nothing is counted for nobody, and what is told is not
old. Every worker of a queue tells the same of it, so look at the greatest, not at the sum.
"""

import contextlib
import logging
import socket
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from socketserver import ThreadingMixIn
from threading import Thread
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from arq.constants import in_progress_key_prefix
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from jobstatus.arq.worker import StatusWorker
from jobstatus.errors import JobStatusError
from jobstatus.publishing.stats import PublisherStats, cumulative
from jobstatus.status import JobState
from jobstatus.storage.refusals import REDIS_ERRORS

_PAGE: Final = 1000
"""Jobs that are looked at in one round trip."""

_PAGES: Final = 50
"""Round trips at most; where so many run, those that wait behind them are not told of."""

_REFUSALS: Final = ("NOPERM", "NOREPLICAS", "OOM", "READONLY", "other")
"""Error codes that are shown from the beginning; others, when they have occurred."""

_ENDS: Final = (JobState.SUCCEEDED, JobState.FAILED, JobState.ABORTED, JobState.RETRYING)

_log = logging.getLogger("jobstatus")


class WorkerMetrics:
    """A collector of one worker's numbers."""

    def __init__(self, worker: StatusWorker) -> None:
        self._worker = worker

    def collect(self) -> Iterator[Metric]:
        """Every family there is now."""
        worker = self._worker
        publisher = worker.publisher
        if publisher is not None:
            yield from _of_reports(publisher.stats, worker.queue_name)
            yield _of_refusals(publisher.stats.refusals + worker.refusals)
            yield self._own("jobs_running", "Attempts that run now.", publisher.running)
            yield GaugeMetricFamily(
                "jobstatus_worker_final_states_pending",
                "Attempts that have ended, and whose end is still to be written.",
                publisher.unwritten_final_states,
            )
        yield self._own("max_jobs", "Jobs that it runs at once at most.", worker.max_jobs)
        yield GaugeMetricFamily(
            "jobstatus_worker_heartbeat_timestamp_seconds",
            "When it last looked into the queue, seconds since the epoch.",
            worker.polled_at,
        )
        yield GaugeMetricFamily(
            "jobstatus_worker_redis_up",
            "Whether the queue's Redis answered when it was last asked.",
            int(not worker.is_waiting_for_redis),
        )
        yield from self._of_queue()

    def _own(self, name: str, text: str, value: float) -> Metric:
        """A gauge with the name of the worker's queue."""
        family = GaugeMetricFamily(f"jobstatus_worker_{name}", text, labels=["queue"])
        family.add_metric([self._worker.queue_name], value)
        return family

    def _of_queue(self) -> Iterable[Metric]:
        with contextlib.suppress(*REDIS_ERRORS):
            client = self._worker.queue_client()
            if client is not None:
                return _queue(client, self._worker.queue_name)
        return ()


def _of_reports(stats: PublisherStats, queue: str) -> Iterator[Metric]:
    ends = CounterMetricFamily(
        "jobstatus_worker_attempts", "Attempts that have ended, by how.", labels=["queue", "state"]
    )
    for state in _ENDS:
        ends.add_metric([queue, state], stats.finished_attempts[state])
    yield ends
    yield CounterMetricFamily(
        "jobstatus_worker_attempts_lost",
        "Attempts begun although an earlier one never ended: its worker died.",
        stats.lost_attempts,
    )
    reports = CounterMetricFamily(
        "jobstatus_worker_reports",
        "Reports of running jobs: written, or replaced before they were (coalesced).",
        labels=["outcome"],
    )
    reports.add_metric(["written"], stats.written_reports)
    reports.add_metric(["coalesced"], stats.coalesced_reports)
    yield reports
    yield CounterMetricFamily(
        "jobstatus_worker_redis_errors", "Times that Redis could not take status.", stats.outages
    )
    refused = CounterMetricFamily(
        "jobstatus_worker_writes_failed",
        "Writes that came to nothing: Redis refused them, or a later attempt had reported.",
        labels=["reason"],
    )
    refused.add_metric(["refused"], stats.refused_writes)
    refused.add_metric(["superseded"], stats.superseded_writes)
    yield refused
    yield CounterMetricFamily(
        "jobstatus_worker_final_states_dropped",
        "Final states dropped because more than JOBSTATUS_MAX_HELD_RECORDS were held.",
        stats.dropped_final_states,
    )
    buckets, total = stats.write_delays.values
    yield HistogramMetricFamily(
        "jobstatus_worker_report_lag_seconds",
        "From a change of state to its being written.",
        cumulative(stats.write_delays.bounds, buckets),
        total,
    )


def _of_refusals(refusals: Counter[str]) -> Metric:
    family = CounterMetricFamily(
        "jobstatus_worker_redis_refusals",
        "Commands that Redis refused for now, by error code. They are held and retried.",
        labels=["code"],
    )
    for code in sorted({*_REFUSALS, *refusals}):
        family.add_metric([code], refusals[code])
    return family


def _queue(client: Any, queue: str) -> list[Metric]:
    """What stands in the queue: arq takes a job out only when it is over."""
    now = time.time() * 1000
    since = _oldest_waiting(client, queue, now)
    jobs = GaugeMetricFamily(
        "jobstatus_queue_jobs",
        "Jobs in the queue, those that run and those that are deferred too.",
        labels=["queue"],
    )
    jobs.add_metric([queue], client.zcard(queue))
    age = GaugeMetricFamily(
        "jobstatus_queue_oldest_job_age_seconds",
        "For how long the oldest job that waits could have been run; 0: none waits.",
        labels=["queue"],
    )
    age.add_metric([queue], 0.0 if since is None else max(0.0, (now - since) / 1000))
    return [jobs, age]


def _oldest_waiting(client: Any, queue: str, now: float) -> float | None:
    """Since when, in ms, the first job that nobody runs could have been run; None: there is none.

    Jobs that run stand at the head of the queue, so it is looked through page by page.
    """
    for start in range(0, _PAGES * _PAGE, _PAGE):
        due = client.zrangebyscore(queue, "-inf", now, start=start, num=_PAGE, withscores=True)
        with client.pipeline(transaction=False) as pipe:
            for job_id, _ in due:
                pipe.exists(in_progress_key_prefix + job_id.decode())
            runs = pipe.execute() if due else []
        for (_, score), is_running in zip(due, runs, strict=True):
            if not is_running:
                return float(score)
        if len(due) < _PAGE:
            break
    return None


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET

    def server_bind(self) -> None:
        """Bind to every address, of either family."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


class _Quiet(WSGIRequestHandler):
    timeout = 5  # seconds for which a client may be slow

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def serving(worker: StatusWorker, port: int) -> Iterator[None]:
    """Serve `/metrics` and `/livez` while the block runs, from a thread.

    `/livez` says that the process is there. It asks neither Redis nor the event loop: a job that
    blocks the loop, or an outage, is no reason to kill a worker.

    Args:
        worker: Whose numbers.
        port: TCP port, on every address; 0: don't.

    Raises:
        JobStatusError: the port can't be listened on.
    """
    if not port:
        yield
        return
    registry = CollectorRegistry(auto_describe=False)
    registry.register(WorkerMetrics(worker))
    metrics: Any = make_wsgi_app(registry)

    def answer(environ: Any, start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/metrics":
            return metrics(environ, start_response)
        known = environ["PATH_INFO"] == "/livez"
        status = "200 OK" if known else "404 Not Found"
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [b"ok\n" if known else b"/metrics and /livez are here\n"]

    try:
        server = make_server("", port, answer, server_class=_Server, handler_class=_Quiet)
    except OSError as error:
        raise JobStatusError(f"JOBSTATUS_METRICS_PORT: can't listen on {port}: {error}") from None
    thread = Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    _log.info("metrics are at port %d", port)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(1)
