"""`jobstatus-worker`: arq's command line, with `StatusWorker` in it."""

import asyncio
import logging.config
import sys
from importlib.metadata import version
from pathlib import Path
from signal import Signals
from typing import Any

import click
from arq.logs import default_log_config
from arq.utils import import_string
from arq.worker import check_health

from jobstatus.arq.factory import create_worker, settings_of
from jobstatus.arq.settings import ProcessSettings
from jobstatus.errors import JobStatusError, MissingExtraError
from jobstatus.logs import formatter
from jobstatus.tracing import tracer

_EPILOG = """\b
Example:
  jobstatus-worker app.WorkerSettings
  jobstatus-worker app.WorkerSettings --burst
\b
Environment (all optional):
  JOBSTATUS_REDIS_URL    where status is kept (default: the worker's own Redis)
  JOBSTATUS_KEY_PREFIX   first part of every key (default: job)
  JOBSTATUS_LEASE        seconds for which a silent worker is believed (default: 30)
  JOBSTATUS_RETENTION    seconds for which a finished job is shown (default: 86400)
  JOBSTATUS_REPORT_INTERVAL     seconds between two samples of progress (default: 0.1)
  JOBSTATUS_CLAIM_LEASE  seconds within which the job of a killed worker is run again (default: 45)
  JOBSTATUS_MAX_HELD_RECORDS     records held at most while Redis is unavailable (default: 1000000)
  JOBSTATUS_QUEUE_URL    where the queue is, if the settings don't say (default: where status is)
  JOBSTATUS_JOB_COMPLETION_WAIT
                         seconds that jobs get to complete on SIGTERM (default: as the code says)
  JOBSTATUS_METRICS_PORT port of /metrics and /livez (default: none)
  JOBSTATUS_LOG_FORMAT   text or json (default: text)
  JOBSTATUS_TRACES       1: OpenTelemetry traces (default: none)
"""


@click.command("jobstatus-worker", epilog=_EPILOG)
@click.version_option(version("jobstatus"), "-V", "--version", prog_name="jobstatus-worker")
@click.argument("worker-settings")
@click.option("--burst/--no-burst", default=None, help="Exit once no jobs are left in the queue.")
@click.option("--check", is_flag=True, help="Run arq's health check and exit: 0 if it is well.")
@click.option(
    "--watch",
    type=click.Path(exists=True, dir_okay=True, file_okay=False),
    help="Watch a directory and reload the worker when files in it change.",
)
@click.option("-v", "--verbose", is_flag=True, help="Log more.")
@click.option("--custom-log-dict", help="Import path of a dictionary for logging.config.")
def cli(
    worker_settings: str,
    *,
    burst: bool | None,
    check: bool,
    watch: str | None,
    verbose: bool,
    custom_log_dict: str | None,
) -> None:
    """Run an arq worker whose jobs' status and progress can be asked for.

    Takes arq's arguments. WORKER_SETTINGS is the import path of a settings class, such as
    app.WorkerSettings; settings that the class inherits count too.
    """
    sys.path.append(str(Path.cwd()))
    settings = settings_of(import_string(worker_settings))
    try:
        process = ProcessSettings.from_env()
        config = import_string(custom_log_dict) if custom_log_dict else log_config(verbose, process)
        logging.config.dictConfig(config)
        if check:
            sys.exit(check_health(settings))
        if watch:
            asyncio.run(_reload_on_change(watch, settings))
        else:
            _run(settings, process, {} if burst is None else {"burst": burst})
    except JobStatusError as error:
        sys.exit(f"jobstatus-worker: {error}")


def _run(settings: dict[str, Any], process: ProcessSettings, options: dict[str, Any]) -> None:
    tracer("jobstatus-worker")  # if they are asked for, before the first job
    if process.job_completion_wait is not None and not settings.get("job_completion_wait"):
        options["job_completion_wait"] = process.job_completion_wait
    worker = create_worker({"status": process} | settings, **options)
    if not process.metrics_port:
        worker.run()
        return
    try:
        from jobstatus.arq.metrics import serving  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"JOBSTATUS_METRICS_PORT is set, and {error.name} is missing: "
            "pip install 'jobstatus[metrics]'"
        ) from None
    with serving(worker, process.metrics_port):
        worker.run()


def log_config(verbose: bool, process: ProcessSettings) -> dict[str, Any]:
    """Logging as arq has it, and the same for `jobstatus`; or all of it as JSON."""
    config: dict[str, Any] = default_log_config(verbose)
    if process.log_format == "json":
        config["formatters"] = {"json": formatter("json")}
        for handler in config["handlers"].values():
            handler["formatter"] = "json"
        config["root"] = {"handlers": [*config["handlers"]], "level": "INFO"}
        config["loggers"]["arq"]["propagate"] = False
    config["loggers"]["jobstatus"] = config["loggers"]["arq"]
    return config


async def _reload_on_change(path: str, settings: dict[str, Any]) -> None:
    try:
        from watchfiles import awatch  # noqa: PLC0415 - an extra of arq's
    except ImportError:
        sys.exit("jobstatus-worker --watch needs watchfiles: pip install watchfiles")
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()

    def on_stop(signal: Signals) -> None:
        if signal != Signals.SIGUSR1:
            stopped.set()

    worker = create_worker(settings)
    worker.on_stop = on_stop
    try:
        running = loop.create_task(worker.async_run())
        async for _ in awatch(path, stop_event=stopped):
            click.echo("\nfiles changed, reloading arq worker...")
            worker.handle_sig(Signals.SIGUSR1)
            await worker.close()
            running = loop.create_task(worker.async_run())
    finally:
        running.cancel()
        await worker.close()
