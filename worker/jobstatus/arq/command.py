"""The command `jobstatus-worker`: arq's command line for a `StatusWorker`."""

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

from jobstatus.arq.factory import create_worker, worker_arguments
from jobstatus.arq.process_settings import ProcessSettings
from jobstatus.errors import JobStatusError, MissingExtraError
from jobstatus.logs import formatter
from jobstatus.tracing import tracer

_EPILOG = """\b
Examples:
  jobstatus-worker app.WorkerSettings
  jobstatus-worker app.WorkerSettings --burst
\b
Environment variables, all optional, with their defaults in parentheses:
  JOBSTATUS_REDIS_URL              Redis that stores the status (that of the queue)
  JOBSTATUS_QUEUE_URL              the queue's Redis, if the settings name none (REDIS_URL)
  JOBSTATUS_KEY_PREFIX             first part of every key of the status (job)
  JOBSTATUS_LEASE                  seconds until a job that has stopped reporting is unknown (30)
  JOBSTATUS_RETENTION              seconds for which a finished job is shown (86400)
  JOBSTATUS_REPORT_INTERVAL        seconds between two writes of a job's progress (0.1)
  JOBSTATUS_CLAIM_LEASE            seconds until the job of a killed worker is run again (45)
  JOBSTATUS_MAX_HELD_RECORDS       records held at most while Redis is unavailable (1000000)
  JOBSTATUS_JOB_COMPLETION_WAIT    seconds to complete jobs after SIGTERM (as the settings say)
  JOBSTATUS_REDIS_CONNECT_TIMEOUT  seconds for connecting to Redis (0.5)
  JOBSTATUS_REDIS_TIMEOUT          seconds for one reply of Redis (0.8)
  JOBSTATUS_REDIS_CA_FILE          PEM file of the CA, with TLS (the system's)
  JOBSTATUS_REDIS_CERT_FILE        PEM file of the client's certificate, with TLS (none)
  JOBSTATUS_REDIS_KEY_FILE         PEM file of that certificate's key (none)
  JOBSTATUS_METRICS_PORT           TCP port of /metrics and /livez, on every address (none)
  JOBSTATUS_LOG_FORMAT             text or json (text)
  JOBSTATUS_TRACES                 1: send OpenTelemetry traces (0)
\b
JOBSTATUS_REDIS_URL_FILE and JOBSTATUS_QUEUE_URL_FILE name files that contain the URLs instead.
"""


@click.command("jobstatus-worker", epilog=_EPILOG)
@click.version_option(version("jobstatus"), "-V", "--version", prog_name="jobstatus-worker")
@click.argument("worker-settings")
@click.option("--burst/--no-burst", default=None, help="Exit when the queue is empty.")
@click.option("--check", is_flag=True, help="Check whether a worker is healthy; exit 0 if it is.")
@click.option(
    "--watch",
    type=click.Path(exists=True, dir_okay=True, file_okay=False),
    help="Restart the worker when a file in this directory changes.",
)
@click.option("-v", "--verbose", is_flag=True, help="Log debug messages.")
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
    """Run an arq worker that publishes the status and progress of its jobs.

    WORKER_SETTINGS is the import path of arq's settings class, such as app.WorkerSettings.
    Attributes that the class inherits are used too. The options are those of the command arq.
    """
    sys.path.append(str(Path.cwd()))
    try:
        arguments = worker_arguments(_import(worker_settings))
        process = ProcessSettings.from_env()
        config = _import(custom_log_dict) if custom_log_dict else log_config(verbose, process)
        logging.config.dictConfig(config)
        if check:
            sys.exit(check_health(arguments))
        if watch:
            asyncio.run(_restart_on_change(watch, arguments))
        else:
            _run(arguments, process, {} if burst is None else {"burst": burst})
    except JobStatusError as error:
        sys.exit(f"jobstatus-worker: {error}")


def _import(path: str) -> Any:
    """Import the object at a dotted path.

    Raises:
        JobStatusError: There is no such module or attribute. An error within the module is raised
            as it is.
    """
    try:
        return import_string(path)
    except ImportError as error:
        is_inside_module = error.name is not None and not f"{path}.".startswith(f"{error.name}.")
        if is_inside_module:
            raise
        raise JobStatusError(f"can't import {path}: {error}") from None


def _run(arguments: dict[str, Any], process: ProcessSettings, options: dict[str, Any]) -> None:
    tracer("jobstatus-worker")  # a bad value of JOBSTATUS_TRACES is reported before the first job
    if process.job_completion_wait is not None and not arguments.get("job_completion_wait"):
        options["job_completion_wait"] = process.job_completion_wait
    worker = create_worker({"status": process} | arguments, **options)
    if not process.metrics_port:
        worker.run()
        return
    try:
        from jobstatus.arq.metrics import serving  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"JOBSTATUS_METRICS_PORT needs {error.name}: pip install 'jobstatus[metrics]'"
        ) from None
    with serving(worker, process.metrics_port):
        worker.run()


def log_config(verbose: bool, process: ProcessSettings) -> dict[str, Any]:
    """Return arq's logging configuration, extended to this package's logger and to JSON."""
    config: dict[str, Any] = default_log_config(verbose)
    if process.log_format == "json":
        config["formatters"] = {"json": formatter("json")}
        for handler in config["handlers"].values():
            handler["formatter"] = "json"
        config["root"] = {"handlers": [*config["handlers"]], "level": "INFO"}
        config["loggers"]["arq"]["propagate"] = False
    config["loggers"]["jobstatus"] = config["loggers"]["arq"]
    return config


async def _restart_on_change(directory: str, arguments: dict[str, Any]) -> None:
    """Run a worker until it is stopped by a signal; restart it when a file changes."""
    try:
        from watchfiles import awatch  # noqa: PLC0415 - an extra of arq's
    except ImportError:
        sys.exit("jobstatus-worker --watch needs watchfiles: pip install watchfiles")
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()

    def on_stop(signal: Signals) -> None:
        if signal != Signals.SIGUSR1:  # the signal by which the loop below stops the worker
            stopped.set()

    worker = create_worker(arguments)
    worker.on_stop = on_stop
    try:
        running = loop.create_task(worker.async_run())
        async for _ in awatch(directory, stop_event=stopped):
            click.echo("\nfiles changed, the worker is restarted")
            worker.handle_sig(Signals.SIGUSR1)
            await worker.close()
            running = loop.create_task(worker.async_run())
    finally:
        running.cancel()
        await worker.close()
