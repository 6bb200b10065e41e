"""The HTTP service: a Litestar application that answers from what stands in Redis."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from functools import partial
from importlib.metadata import version

from litestar import Litestar

from jobstatus.tracing import tracer
from jobstatus_service.http import openapi
from jobstatus_service.http.access_log import AccessLog
from jobstatus_service.http.api_keys import ApiKeys
from jobstatus_service.http.drain import on_shutdown_signal
from jobstatus_service.http.errors import handlers
from jobstatus_service.http.fast_path import FastPathApp
from jobstatus_service.http.health import Readiness, livez, metrics_text, readyz
from jobstatus_service.http.rate_limit import rate_limit_of
from jobstatus_service.http.routes import get_job_events, get_job_status, get_job_statuses
from jobstatus_service.lookup.statuses import Statuses
from jobstatus_service.metrics.metrics import Metrics
from jobstatus_service.metrics.multiprocess import ProcessMetrics
from jobstatus_service.settings import ServiceSettings


def application() -> FastPathApp | AccessLog:
    """The application as the environment says, with its requests logged and traced if it says so.

    Raises:
        SettingsError: a setting can't be used, or there is no API key.
        MissingExtraError: traces are asked for, and OpenTelemetry isn't installed.
    """
    app = create_app()
    traces = tracer("jobstatus-service")
    logs: bool = app.state.settings.access_log
    return AccessLog(app, traces, logs=logs) if logs or traces is not None else app


def create_app(settings: ServiceSettings | None = None) -> FastPathApp:
    """The application.

    Args:
        settings: None: as the environment says.

    Raises:
        SettingsError: a setting can't be used, or there is no API key.
    """
    settings = settings or ServiceSettings.from_env()
    keys = ApiKeys(settings)
    metrics = Metrics()
    statuses = Statuses(settings, metrics)
    keys.changed = partial(statuses.watchers.revoke, keys.is_valid)

    @contextlib.asynccontextmanager
    async def connected(app: Litestar) -> AsyncGenerator[None, None]:
        processes = ProcessMetrics(statuses.sample)
        app.state.readiness = Readiness(statuses)
        app.state.processes = processes
        tasks = [
            asyncio.create_task(keys.watch()),
            asyncio.create_task(processes.save_periodically()),
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

    app = FastPathApp(
        [get_job_status, get_job_statuses, get_job_events, livez, readyz, metrics_text],
        lifespan=[connected],
        openapi_config=openapi.config(version("jobstatus")),
        exception_handlers=handlers,
        logging_config=None,
    )
    app.keys = app.state.api_keys = keys
    app.statuses = app.state.statuses = statuses
    app.metrics = app.state.metrics = metrics
    app.rate = app.state.rate = rate_limit_of(settings)
    app.state.settings = settings
    openapi.publish_contract(app.openapi_schema)
    return app
