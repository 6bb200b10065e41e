"""Tools that wrap arq's functions see under our worker and pool what they see under arq's own."""

import json
import subprocess
import sys
from datetime import timedelta
from typing import Any, cast

import pytest
from arq import func
from arq_prometheus import ArqPrometheusMetrics
from prometheus_client import CollectorRegistry
from tests.processes import ROOT
from tests.records import ANY_RECORD
from tests.worker.arq import app
from tests.worker.arq.conftest import Work, enqueue, soon

from jobstatus.arq import StatusRedis


def seen(kind: str, url: str, *tools: str) -> dict[str, list[Any]]:
    """Run the jobs of `observed_run`; return what the tools have seen."""
    result = subprocess.run(
        [sys.executable, "-m", "tests.worker.arq.observed_run", kind, url, *tools],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    views: dict[str, list[Any]] = json.loads(result.stdout)
    return views


@pytest.mark.parametrize(
    ("tools", "events", "spans"),
    [
        # One error (arq itself raises the timeout); six attempts and the producer's transaction.
        (["sentry"], {"event": 1, "transaction": 7}, 0),
        # Six attempts, and one span for each of the five enqueued jobs and for the cron job.
        (["opentelemetry"], {}, 12),
        # Each of the tools wraps the functions of the settings once more, as under arq.
        (["sentry", "opentelemetry"], {"event": 1, "transaction": 7}, 18),
    ],
    ids=["sentry", "opentelemetry", "both"],
)
def test_same_as_under_arq(
    redis: Any, redis_url: str, tools: list[str], events: dict[str, int], spans: int
) -> None:
    """Sentry and OpenTelemetry get the same events, transactions and spans."""
    plain = seen("arq", redis_url, *tools)
    types = [view["type"] for view in plain["sentry"]]
    assert {kind: types.count(kind) for kind in types} == events
    assert len(plain["opentelemetry"]) == spans
    redis.flushdb()
    ours = seen("jobstatus", redis_url, *tools)
    assert ours == plain
    assert len(redis.keys(ANY_RECORD)) == 5


async def test_prometheus(pool: StatusRedis, work: Work) -> None:
    """arq-prometheus reads the counts of the worker's health check."""
    registry = CollectorRegistry()

    async def start(ctx: dict[str, Any]) -> None:
        delay = timedelta(seconds=0.02)
        metrics = ArqPrometheusMetrics(ctx, delay=delay, enable_webserver=False, registry=registry)
        ctx["metrics"] = await metrics.start()

    async def stop(ctx: dict[str, Any]) -> None:
        await ctx["metrics"].stop()

    async def wait(_: Any) -> None:
        await soon(lambda: registry.get_sample_value("arq_jobs_completed") == 1)

    await enqueue(pool, "add", 1, 2)
    await enqueue(pool, "wait", _defer_by=0.01)
    settings = {
        "functions": [app.add, func(cast("Any", wait), name="wait")],
        "health_check_interval": 0.02,
    }
    worker = await work(settings, on_startup=start, on_shutdown=stop, max_jobs=1)
    assert worker.jobs_complete == 2
