"""Traces lead from the enqueue to the attempt and its status writes; requests are spans too."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from arq.connections import RedisSettings
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.service.conftest import Put, put
from tests.worker.arq import app

from jobstatus.arq import create_pool, create_worker
from jobstatus.settings import PublisherSettings
from jobstatus_service.http.app import create_app
from jobstatus_service.settings import ServiceSettings

__all__ = ["put"]

JOB = "67c73c6b-ecba-4a4c-bb18-3f37aa64c2f8"

_SPANS = InMemorySpanExporter()


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """Turn traces on; return the exporter that collects the spans."""
    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(_SPANS))
        trace.set_tracer_provider(provider)
    monkeypatch.setenv("JOBSTATUS_TRACES", "1")
    _SPANS.clear()
    yield _SPANS
    _SPANS.clear()


async def work(redis_url: str, *functions: Any) -> list[str]:
    """Enqueue and run a job for each function with its arguments; return the job ids."""
    redis_settings = RedisSettings.from_dsn(redis_url)
    pool = await create_pool(redis_settings)
    jobs = [await pool.enqueue_job(function, *args) for function, *args in functions]
    await pool.aclose()
    worker = create_worker(
        app.WorkerSettings,
        redis_settings=redis_settings,
        burst=True,
        poll_delay=0.02,
        handle_signals=False,
        status=PublisherSettings(report_interval=0.02),
    )
    try:
        await asyncio.wait_for(worker.main(), 20)
    finally:
        await worker.close()
    return [job.job_id for job in jobs if job is not None]


def children(spans: list[Any], parent: Any) -> set[str]:
    """Return the names of the spans whose parent is `parent`."""
    return {s.name for s in spans if s.parent and s.parent.span_id == parent.context.span_id}


async def test_job(redis_url: str, spans: InMemorySpanExporter) -> None:
    """One trace contains the enqueue, the attempt below it, and below that each state write."""
    (job_id,) = await work(redis_url, ("steps", 4, 0.1))
    found = list(spans.get_finished_spans())
    (enqueued,) = [s for s in found if s.name == "enqueue steps"]
    (attempt,) = [s for s in found if s.name == "steps"]
    assert {s.context.trace_id for s in found} == {enqueued.context.trace_id}
    assert attempt.parent is not None
    assert attempt.parent.span_id == enqueued.context.span_id
    assert attempt.attributes is not None
    assert attempt.attributes["job.id"] == job_id
    assert attempt.attributes["job.attempt"] == 1
    assert children(found, attempt) == {"status in_progress", "status succeeded"}


async def test_failure(redis_url: str, spans: InMemorySpanExporter) -> None:
    """The span of a failed attempt has the exception as an event and the state write as a child."""
    await work(redis_url, ("fail",))
    found = list(spans.get_finished_spans())
    (attempt,) = [s for s in found if s.name == "fail"]
    assert attempt.events[0].name == "exception"
    assert "status failed" in children(found, attempt)  # `in_progress` may have been skipped


async def test_traces_are_off_by_default(
    redis_url: str, spans: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without JOBSTATUS_TRACES there are no spans."""
    monkeypatch.delenv("JOBSTATUS_TRACES")
    await work(redis_url, ("fail",))
    assert not spans.get_finished_spans()


async def test_request(
    service_settings: ServiceSettings, spans: InMemorySpanExporter, put: Put
) -> None:
    """A request is a span in its client's trace, with its route, job id and status code."""
    put(JOB)
    app: Any = create_app(service_settings)
    transport = httpx.ASGITransport(app=app)
    headers = {"Authorization": "secret", "traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
    async with (
        app.lifespan(),
        httpx.AsyncClient(transport=transport, base_url="http://t", headers=headers) as client,
    ):
        response = await client.get(f"/api/jobs/{JOB}?wait=0")
        assert response.status_code == 200
        assert len(response.headers["x-request-id"]) == 32
        assert (await client.get("/api/jobs/none")).status_code == 422
    successful, invalid = spans.get_finished_spans()
    assert successful.name == "GET /api/jobs/{job_id}"
    assert successful.context is not None
    assert successful.context.trace_id == int("a" * 32, 16)
    assert successful.attributes is not None
    assert successful.attributes["job.id"] == JOB
    assert successful.attributes["http.response.status_code"] == 200
    assert invalid.attributes is not None
    assert invalid.attributes["http.response.status_code"] == 422
    assert "job.id" not in invalid.attributes
