"""Run some jobs with Sentry and OpenTelemetry, and print what these have seen.

`python -m tests.worker.arq.observed_run arq|jobstatus REDIS_URL sentry|opentelemetry…` runs the
same jobs under arq's own pool and worker, or under ours. Nothing leaves the process. Ids and times
are left out, so that the two outputs can be compared.
"""

import asyncio
import json
import sys
from typing import Any, cast

import arq
import arq.worker
import sentry_sdk
from arq import Retry, cron
from arq.connections import RedisSettings
from opentelemetry.instrumentation.arq import ArqInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sentry_sdk.integrations.arq import ArqIntegration
from sentry_sdk.transport import Transport

import jobstatus.arq

Ctx = dict[str, Any]


async def add(_: Ctx, x: int, y: int) -> int:
    """Return the sum."""
    return x + y


async def fail(_: Ctx) -> None:
    """Raise an exception."""
    raise ValueError("no such file")


async def again(ctx: Ctx) -> None:
    """Raise `Retry` in the first attempt."""
    if ctx["job_try"] == 1:
        raise Retry


async def slow(_: Ctx) -> None:
    """Take longer than arq allows."""
    await asyncio.sleep(5)


async def tick(_: Ctx) -> None:
    """Run as a cron job."""


class Settings:
    """arq's settings."""

    functions: Any = (add, fail, again, arq.func(cast("Any", slow), timeout=0.1))
    cron_jobs = (cron(cast("Any", tick), run_at_startup=True, hour=4, minute=5),)
    poll_delay = 0.05


class MemoryTransport(Transport):
    """Keeps what Sentry would send."""

    def __init__(self) -> None:
        super().__init__()
        self.items: list[Any] = []

    def capture_envelope(self, envelope: Any) -> None:
        """Keep the events and transactions of an envelope."""
        self.items += [item.payload.json for item in envelope.items]


def sentry_view(item: dict[str, Any]) -> dict[str, Any]:
    """Return the parts of an event or a transaction that do not differ between two runs."""
    exceptions = item.get("exception", {}).get("values", [])
    trace = item["contexts"]["trace"]
    return {
        "type": item.get("type", "event"),
        "transaction": item["transaction"],
        "level": item.get("level"),
        "retry": item.get("tags", {}).get("arq_task_retry"),
        "job": item.get("extra", {}).get("arq-job"),
        "exceptions": [(e["type"], e["value"], e.get("mechanism", {})) for e in exceptions],
        "operation": (trace["op"], trace.get("status"), trace["origin"]),
        "spans": sorted((s["op"], s["description"], s["origin"]) for s in item.get("spans", [])),
    }


def span_view(span: Any, names: dict[int, str]) -> dict[str, Any]:
    """Return the parts of a span that do not differ between two runs."""
    hidden = {"arq.job.id", "arq.job.score"}
    return {
        "name": span.name,
        "kind": span.kind.name,
        "parent": names.get(span.parent.span_id) if span.parent else None,
        "attributes": {k: v for k, v in span.attributes.items() if k not in hidden},
        "hidden": sorted(hidden & set(span.attributes)),
        "status": span.status.status_code.name,
        "events": [event.name for event in span.events],
    }


async def enqueue(module: Any, settings: RedisSettings) -> None:
    """Enqueue the jobs, within a transaction of the producer's."""
    pool = await module.create_pool(settings)
    with sentry_sdk.start_transaction(op="test", name="producer"):
        await pool.enqueue_job("add", 1, y=2, _job_id="first")
        await pool.enqueue_job("add", 1, y=2, _job_id="first")
        for name in ("fail", "again", "slow"):
            await pool.enqueue_job(name)
    await pool.close()


def main(kind: str, url: str, *tools: str) -> None:
    """Run the jobs, and print what was seen as JSON."""
    transport, exporter = MemoryTransport(), InMemorySpanExporter()
    if "sentry" in tools:
        sentry_sdk.init(
            "http://key@127.0.0.1/1",
            transport=transport,
            traces_sample_rate=1.0,
            default_integrations=False,
            auto_enabling_integrations=False,
            integrations=[ArqIntegration()],
        )
    if "opentelemetry" in tools:
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        ArqInstrumentor().instrument(tracer_provider=provider)

    settings = RedisSettings.from_dsn(url)
    producer: Any = arq if kind == "arq" else jobstatus.arq
    consumer: Any = arq.worker if kind == "arq" else jobstatus.arq
    asyncio.set_event_loop(asyncio.new_event_loop())
    asyncio.get_event_loop().run_until_complete(enqueue(producer, settings))
    consumer.run_worker(Settings, redis_settings=settings, burst=True)

    spans = exporter.get_finished_spans()
    names = {span.context.span_id: span.name for span in spans}
    seen = {
        "sentry": [sentry_view(item) for item in transport.items],
        "opentelemetry": [span_view(span, names) for span in spans],
    }
    for views in seen.values():
        views.sort(key=lambda view: json.dumps(view, sort_keys=True))
    print(json.dumps(seen, sort_keys=True, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
