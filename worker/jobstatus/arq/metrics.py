"""Prometheus metrics of a worker process on a port of their own, and the liveness probe.

The queue is read from Redis when the metrics are requested, so its numbers are current. All workers
of a queue report the same numbers for it: aggregate them with the maximum, not with the sum.

To add a metric, add it here, to the table in worker/README.md and to the dashboard or an alert.
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

_PAGE_SIZE: Final = 1000
"""Jobs of the queue that are checked in one round trip."""

_MAX_PAGES: Final = 50
"""Pages of the queue that are checked at most for the oldest waiting job."""

_KNOWN_REFUSAL_CODES: Final = ("NOPERM", "NOREPLICAS", "OOM", "READONLY", "other")
"""Error codes that are exposed from the start; others are exposed after they have occurred."""

_OUTCOME_STATES: Final = (
    JobState.SUCCEEDED,
    JobState.FAILED,
    JobState.ABORTED,
    JobState.RETRYING,
)

_log = logging.getLogger("jobstatus")


class WorkerMetrics:
    """Collects the metrics of one worker."""

    def __init__(self, worker: StatusWorker) -> None:
        self._worker = worker

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics with their current values."""
        worker = self._worker
        publisher = worker.publisher
        if publisher is not None:
            yield from _publisher_metrics(publisher.stats, worker.queue_name)
            yield _refusals(publisher.stats.refusals + worker.refusals)
            yield self._gauge("jobs_running", "Attempts that are running.", publisher.running)
            yield GaugeMetricFamily(
                "jobstatus_worker_final_states_pending",
                "Finished attempts whose outcome is not written to Redis yet.",
                publisher.unwritten_final_states,
            )
        yield self._gauge(
            "max_jobs", "Jobs that the worker runs at the same time at most.", worker.max_jobs
        )
        yield GaugeMetricFamily(
            "jobstatus_worker_heartbeat_timestamp_seconds",
            "Time of the worker's last poll of its queue, in seconds since the epoch.",
            worker.polled_at,
        )
        yield GaugeMetricFamily(
            "jobstatus_worker_redis_up",
            "1 if the queue's Redis was available at the last poll, otherwise 0.",
            int(not worker.is_waiting_for_redis),
        )
        with contextlib.suppress(*REDIS_ERRORS):
            client = worker.queue_client()
            if client is not None:
                yield from _queue_metrics(client, worker.queue_name)

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        """Return a gauge that is labelled with the worker's queue."""
        family = GaugeMetricFamily(f"jobstatus_worker_{name}", text, labels=["queue"])
        family.add_metric([self._worker.queue_name], value)
        return family


def _publisher_metrics(stats: PublisherStats, queue: str) -> Iterator[Metric]:
    attempts = CounterMetricFamily(
        "jobstatus_worker_attempts",
        "Finished attempts, by the state after them.",
        labels=["queue", "state"],
    )
    for state in _OUTCOME_STATES:
        attempts.add_metric([queue, state], stats.finished_attempts[state])
    yield attempts
    yield CounterMetricFamily(
        "jobstatus_worker_attempts_lost",
        "Attempts that began after an earlier attempt stopped without an outcome, because its "
        "worker died.",
        stats.lost_attempts,
    )
    results = CounterMetricFamily(
        "jobstatus_worker_results",
        "Results of finished jobs: stored, or dropped because they were not JSON or too large.",
        labels=["outcome"],
    )
    for kind in ("stored", "dropped"):
        results.add_metric([kind], stats.results[kind])
    yield results
    reports = CounterMetricFamily(
        "jobstatus_worker_reports",
        "Reports of running jobs: written to Redis, or coalesced with a later report.",
        labels=["outcome"],
    )
    reports.add_metric(["written"], stats.written_reports)
    reports.add_metric(["coalesced"], stats.coalesced_reports)
    yield reports
    yield CounterMetricFamily(
        "jobstatus_worker_redis_errors",
        "Failed attempts to write status because Redis was unavailable.",
        stats.outages,
    )
    failed_writes = CounterMetricFamily(
        "jobstatus_worker_writes_failed",
        "Writes that were dropped: Redis refused them permanently, or a later attempt had "
        "already written.",
        labels=["reason"],
    )
    failed_writes.add_metric(["refused"], stats.refused_writes)
    failed_writes.add_metric(["superseded"], stats.superseded_writes)
    yield failed_writes
    yield CounterMetricFamily(
        "jobstatus_worker_final_states_dropped",
        "Final states dropped because JOBSTATUS_MAX_HELD_RECORDS records were held already.",
        stats.dropped_final_states,
    )
    buckets, total = stats.write_delays.values
    yield HistogramMetricFamily(
        "jobstatus_worker_report_lag_seconds",
        "Time from a change of state until it was written to Redis.",
        cumulative(stats.write_delays.bounds, buckets),
        total,
    )


def _refusals(refusals: Counter[str]) -> Metric:
    family = CounterMetricFamily(
        "jobstatus_worker_redis_refusals",
        "Commands that Redis refused with a transient error, by error code. They are tried again.",
        labels=["code"],
    )
    for code in sorted({*_KNOWN_REFUSAL_CODES, *refusals}):
        family.add_metric([code], refusals[code])
    return family


def _queue_metrics(client: Any, queue: str) -> Iterable[Metric]:
    """Return the metrics of the queue. arq removes a job from it when the job has finished."""
    now_ms = time.time() * 1000
    due_ms = _oldest_waiting_ms(client, queue, now_ms)
    jobs = GaugeMetricFamily(
        "jobstatus_queue_jobs",
        "Jobs in the queue, including running and deferred jobs.",
        labels=["queue"],
    )
    jobs.add_metric([queue], client.zcard(queue))
    age = GaugeMetricFamily(
        "jobstatus_queue_oldest_job_age_seconds",
        "Time since the oldest waiting job became due; 0 if no job is waiting.",
        labels=["queue"],
    )
    age.add_metric([queue], 0.0 if due_ms is None else max(0.0, (now_ms - due_ms) / 1000))
    return (jobs, age)


def _oldest_waiting_ms(client: Any, queue: str, now_ms: float) -> float | None:
    """Return when the first job that is due and not running became due; None if there is none.

    Running jobs are at the head of the queue, so the queue is searched page by page. Waiting jobs
    beyond the last page are not found.
    """
    for start in range(0, _MAX_PAGES * _PAGE_SIZE, _PAGE_SIZE):
        due = client.zrangebyscore(
            queue, "-inf", now_ms, start=start, num=_PAGE_SIZE, withscores=True
        )
        with client.pipeline(transaction=False) as pipe:
            for job_id, _ in due:
                pipe.exists(in_progress_key_prefix + job_id.decode())
            running = pipe.execute() if due else []
        for (_, score), is_running in zip(due, running, strict=True):
            if not is_running:
                return float(score)
        if len(due) < _PAGE_SIZE:
            break
    return None


class _Server(ThreadingMixIn, WSGIServer):
    """Listens on every IPv4 and IPv6 address; each request has a thread."""

    daemon_threads = True
    address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


class _SilentHandler(WSGIRequestHandler):
    """Logs no requests."""

    timeout = 5
    """Seconds that a client may take to send its request."""

    def log_message(self, *args: Any) -> None:
        pass


@contextlib.contextmanager
def serving(worker: StatusWorker, port: int) -> Iterator[None]:
    """Serve `/metrics` and `/livez` from a thread while the block runs.

    `/livez` only reports that the process exists. It uses neither Redis nor the event loop, because
    a job that blocks the event loop, or an outage, is no reason to kill a worker.

    Args:
        worker: The worker whose metrics are served.
        port: The TCP port, 1..65535, on every address.

    Raises:
        JobStatusError: The port can't be listened on.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(WorkerMetrics(worker))
    metrics_app: Any = make_wsgi_app(registry)

    def app(environ: Any, start_response: Any) -> Any:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            return metrics_app(environ, start_response)
        is_livez = path == "/livez"
        status = "200 OK" if is_livez else "404 Not Found"
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [b"ok\n" if is_livez else b"this port serves /metrics and /livez\n"]

    try:
        server = make_server("", port, app, server_class=_Server, handler_class=_SilentHandler)
    except OSError as error:
        raise JobStatusError(f"JOBSTATUS_METRICS_PORT: can't listen on {port}: {error}") from None
    thread = Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    _log.info("/metrics and /livez are served on port %d", port)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(1)
