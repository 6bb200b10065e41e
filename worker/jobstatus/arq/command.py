"""The command `jobstatus-worker`: arq's command line for a `StatusWorker`."""

import asyncio
import contextlib
import functools
import logging.config
import sys
import traceback
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from signal import Signals
from typing import Any, Final

import click
from arq.connections import RedisSettings
from arq.logs import default_log_config
from arq.utils import import_string
from arq.worker import check_health
from redis.exceptions import RedisError

from jobstatus.arq.factory import create_worker, worker_arguments
from jobstatus.arq.process_settings import ProcessSettings
from jobstatus.arq.worker import StatusWorker
from jobstatus.errors import JobStatusError, MissingExtraError
from jobstatus.logs import formatter
from jobstatus.tracing import tracer

_USAGE_ERROR: Final = 2
"""The exit status if the worker can't be started as it was called."""

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
  JOBSTATUS_RESULTS                1: store what jobs return, for pollers
  JOBSTATUS_TRACEBACKS             1: store the tracebacks of failed jobs, for pollers
  JOBSTATUS_RESULT_LIMIT           size of a stored result, at most (64KiB)
  JOBSTATUS_REPORT_INTERVAL        seconds between two writes of a job's progress (0.1)
  JOBSTATUS_CLAIM_LEASE            seconds until the job of a killed worker is run again (45)
  JOBSTATUS_ERROR_DETAIL           what is stored of a job's exception: full, type or none (full)
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
@click.option("-v", "--verbose", is_flag=True, help="Log debug messages, and show tracebacks.")
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
        settings = _import(worker_settings)
        process = ProcessSettings.from_env()
        config = _import(custom_log_dict) if custom_log_dict else log_config(verbose, process)
        logging.config.dictConfig(config)
        if check:
            sys.exit(check_health(worker_arguments(settings)))
        tracer("jobstatus-worker")  # a bad value of JOBSTATUS_TRACES is reported before any job
        start = functools.partial(_create_worker, worker_settings, settings, process)
        if watch:
            asyncio.run(_restart_on_change(watch, start))
        else:
            _run(
                start(**({} if burst is None else {"burst": burst})),
                process.metrics_port,
                _source_of_address(worker_settings, settings, process),
            )
    except JobStatusError as error:
        if verbose:
            traceback.print_exception(error.__cause__ or error)
        click.echo(f"jobstatus-worker: {error}", err=True)
        sys.exit(_USAGE_ERROR)


def _import(path: str) -> Any:
    """Import the object at a dotted path.

    Raises:
        JobStatusError: There is no such module or attribute, or importing it raises an exception.
    """
    if ":" in path:
        raise JobStatusError(
            f"can't import {path}: write the path with dots only, as {path.replace(':', '.')}"
        )
    try:
        return import_string(path)
    except Exception as error:
        raise JobStatusError(f"can't import {path}: {_described(error)}") from error


def _described(error: Exception) -> str:
    """Return what an exception says and, if it is not raised by the import itself, where it was."""
    frames = traceback.extract_tb(error.__traceback__)
    is_of_import = isinstance(error, ImportError) and error.name not in {None, ""}
    file, line = frames[-1].filename, frames[-1].lineno
    if isinstance(error, SyntaxError):
        file, line = error.filename or file, error.lineno
        return f"{type(error).__name__}: {error.msg} ({file}, line {line})"
    if "importlib" in file or file == import_string.__code__.co_filename:
        inside = [frame for frame in frames if "importlib" not in frame.filename][2:]
        if not (is_of_import and inside):
            return str(error)
        file, line = inside[-1].filename, inside[-1].lineno
    return f"{type(error).__name__}: {error} ({file}, line {line})"


def _create_worker(
    path: str, settings: Any, process: ProcessSettings, **options: Any
) -> StatusWorker:
    """Create the worker.

    Raises:
        JobStatusError: The settings can't be used.
    """
    known = worker_arguments(settings)
    if process.job_completion_wait is not None and not known.get("job_completion_wait"):
        options["job_completion_wait"] = process.job_completion_wait
    if known.get("status") is None:
        options["status"] = process
    try:
        return create_worker(settings, **options)
    except JobStatusError:
        raise
    except Exception as error:
        raise JobStatusError(f"{path} can't be used: {error}") from error


def _source_of_address(path: str, settings: Any, process: ProcessSettings) -> str:
    """Return what has named the queue's Redis."""
    known = worker_arguments(settings)
    if known.get("redis_settings") or known.get("redis_pool"):
        return f"the settings of {path}"
    if process.queue_url:
        return "JOBSTATUS_QUEUE_URL"
    return "JOBSTATUS_REDIS_URL" if process.redis_url else "arq's default, since no setting"


def _run(worker: StatusWorker, metrics_port: int, source: str) -> None:
    """Run the worker, with its metrics if there is a port for them.

    Args:
        worker: The worker.
        metrics_port: The port of the metrics; 0: none.
        source: What has named the queue's Redis.

    Raises:
        JobStatusError: The queue's Redis can't be reached, or the port can't be listened on.
    """
    with contextlib.ExitStack() as stack:
        if metrics_port:
            try:
                from jobstatus.arq.metrics import serving  # noqa: PLC0415 - an extra
            except ModuleNotFoundError as error:
                raise MissingExtraError(
                    f"JOBSTATUS_METRICS_PORT needs {error.name}: pip install 'jobstatus[metrics]'"
                ) from None
            stack.enter_context(serving(worker, metrics_port))
        try:
            worker.run()
        except (RedisError, OSError) as error:
            if worker.has_connected:
                raise
            raise JobStatusError(
                f"can't use the queue's Redis at {_address(worker.redis_settings)} (named by "
                f"{source}): {error}"
            ) from error


def _address(settings: RedisSettings | None) -> str:
    if settings is None:
        return "the address of redis_pool"
    if settings.unix_socket_path:
        return settings.unix_socket_path
    if isinstance(settings.host, str):
        return f"{settings.host}:{settings.port}"
    return ", ".join(f"{host}:{port}" for host, port in settings.host)


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


async def _restart_on_change(directory: str, start: Callable[[], StatusWorker]) -> None:
    """Run a worker until it is stopped by a signal; restart it when a file changes.

    Raises:
        JobStatusError: The worker can't be created.
    """
    try:
        from watchfiles import awatch  # noqa: PLC0415 - an extra of arq's
    except ImportError:
        raise JobStatusError("--watch needs watchfiles: pip install watchfiles") from None
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()

    def on_stop(signal: Signals) -> None:
        if signal != Signals.SIGUSR1:  # the signal by which the loop below stops the worker
            stopped.set()

    worker = start()
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
