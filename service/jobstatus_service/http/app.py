"""The service's application: a Litestar application that answers from the records in Redis."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from importlib.metadata import version
from typing import Any

from litestar import Litestar

from jobstatus.tracing import tracer
from jobstatus_service.http import openapi
from jobstatus_service.http.access_log import AccessLogApp
from jobstatus_service.http.api_keys import ApiKeys
from jobstatus_service.http.assets import get_asset, get_page, read_assets
from jobstatus_service.http.collection_routes import get_job_counts, get_jobs, get_jobs_events
from jobstatus_service.http.cors import Cors
from jobstatus_service.http.drain import on_shutdown_signal
from jobstatus_service.http.errors import exception_handlers
from jobstatus_service.http.fast_path import FastPathApp
from jobstatus_service.http.health import Readiness, livez, metrics_text, readyz
from jobstatus_service.http.rate_limit import rate_limit_of
from jobstatus_service.http.routes import (
    get_job_details,
    get_job_events,
    get_job_result,
    get_job_status,
)
from jobstatus_service.lookup.job_counts import JobCounts
from jobstatus_service.lookup.list_feed import ListFeeds
from jobstatus_service.lookup.listing import Listing
from jobstatus_service.lookup.statuses import Statuses
from jobstatus_service.metrics.metrics import Metrics
from jobstatus_service.metrics.multiprocess import ProcessMetrics
from jobstatus_service.settings import ServiceSettings


def create_app(settings: ServiceSettings | None = None) -> FastPathApp:
    """Create the application.

    Its requests are logged if the settings say so, and traced if `JOBSTATUS_TRACES` is set.

    Args:
        settings: The settings; None to take them from the environment.

    Raises:
        SettingsError: A setting is invalid, or there is no API key.
        MissingExtraError: Traces are asked for, and OpenTelemetry isn't installed.
    """
    settings = settings or ServiceSettings.from_env()
    api_keys = ApiKeys(settings)
    metrics = Metrics()
    statuses = Statuses(settings, metrics)
    statuses.watchers.is_valid = api_keys.is_valid
    api_keys.on_change = statuses.watchers.end_revoked

    listing = Listing(statuses)
    job_counts = JobCounts(listing, api_keys.prefixes)

    @contextlib.asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncGenerator[None, None]:
        processes = ProcessMetrics(lambda: statuses.sample(job_counts.by_state))
        app.state.readiness = Readiness(statuses)
        app.state.processes = processes
        tasks = [
            asyncio.create_task(api_keys.watch()),
            asyncio.create_task(processes.save_periodically()),
            asyncio.create_task(job_counts.read_periodically()),
        ]
        statuses.start()
        try:
            with on_shutdown_signal(statuses.watchers.drain):
                yield
        finally:
            for task in tasks:
                task.cancel()
            await statuses.close()
            processes.save()

    app = _app_for(
        settings,
        route_handlers=[
            get_job_status,
            get_job_details,
            get_job_events,
            get_job_result,
            get_jobs,
            get_job_counts,
            get_jobs_events,
            livez,
            readyz,
            metrics_text,
            get_asset,
            *([get_page] if settings.ui else []),
        ],
        lifespan=[lifespan],
        openapi_config=openapi.config(version("jobstatus"), read_assets().schema_page),
        exception_handlers=exception_handlers,
        logging_config=None,
    )
    app.api_keys = app.state.api_keys = api_keys
    app.statuses = app.state.statuses = statuses
    app.state.listing = listing
    app.state.job_counts = job_counts
    app.state.list_feeds = ListFeeds(statuses, listing)
    app.metrics = app.state.metrics = metrics
    app.rate_limit = app.state.rate_limit = rate_limit_of(settings)
    app.cors = Cors(settings.cors_origins) if settings.cors_origins else None
    app.state.settings = settings
    openapi.publish_contract(app.openapi_schema)
    return app


def _app_for(settings: ServiceSettings, **options: Any) -> FastPathApp:
    """Create the application's object, which observes its requests only if that is asked for."""
    request_tracer = tracer("jobstatus-service")
    if not settings.access_log and request_tracer is None:
        return FastPathApp(**options)
    app = AccessLogApp(**options)
    app.logs_requests = settings.access_log
    app.tracer = request_tracer
    return app
