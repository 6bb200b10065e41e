"""What the commands do, and their exit statuses."""

import argparse
import io
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final

import msgspec

from jobstatus.details import JobDetails
from jobstatus.errors import JobStatusError, SettingsError
from jobstatus.status import JobState, JobStatus, job_uuid, one_line
from jobstatus_client.client import Client
from jobstatus_client.command.output import json_line, json_text, output, plain, row, rows
from jobstatus_client.errors import RequestError, UnavailableError, WaitTimeoutError

FAILED: Final = 1
USAGE: Final = 2
UNAVAILABLE: Final = 3
TIMEOUT: Final = 124
INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141

_NO_RESULT: Final = frozenset({404, 410})
_PAGE: Final = 200
_TIMEOUT_SECONDS: Final = 5.0
_MESSAGE_LIMIT: Final = 1_000


def run(arguments: argparse.Namespace) -> int:
    """Run a command; return its exit status."""
    name = f"jobstatus {arguments.command}"
    if sys.stdout is None:  # closed, as by >&-
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - until the end
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with Client(arguments.url, timeout=_TIMEOUT_SECONDS) as client:
            status = _OPERATIONS[arguments.command](client, arguments)
            sys.stdout.flush()
            return status
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one would interrupt the message
        is_watching = arguments.command in {"wait", "watch"}
        text = "detached; the jobs go on" if is_watching else "interrupted"
        return _fail(f"{name}: {text}", INTERRUPTED, before="\n")
    except BrokenPipeError:  # of `jobstatus list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except JobStatusError as error:
        return _fail(f"{name}: {_explained(error)}", _exit_status(error))
    except (ImportError, ValueError) as error:  # of httpx: about a proxy of the environment
        return _fail(f"{name}: {error}", USAGE)
    except OSError as error:  # a full disk
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _fail(f"{name}: {error}", UNAVAILABLE)


def _fail(message: str, status: int, before: str = "") -> int:
    """Print an error, whose text may come from elsewhere, in one line; return the exit status."""
    sys.stdout.flush()
    print(before + one_line(message, _MESSAGE_LIMIT), file=sys.stderr)
    return status


def _exit_status(error: JobStatusError) -> int:
    if isinstance(error, SettingsError):
        return USAGE
    return TIMEOUT if isinstance(error, WaitTimeoutError) else UNAVAILABLE


def _explained(error: JobStatusError) -> str:
    if isinstance(error, RequestError) and error.status == 401:  # noqa: PLR2004
        if os.environ.get("JOBSTATUS_KEY") or os.environ.get("JOBSTATUS_KEY_FILE"):
            return f"the service has rejected the key in JOBSTATUS_KEY: {error}"
        return (
            "the service requires an API key: set JOBSTATUS_KEY to it, "
            "or JOBSTATUS_KEY_FILE to the name of a file that holds it"
        )
    if isinstance(error, UnavailableError):
        return f"{error} (tried for {_TIMEOUT_SECONDS:.0f} s)"
    return str(error)


def _get(client: Client, arguments: argparse.Namespace) -> int:
    get = client.details if arguments.details else client.get
    for number, job_id in enumerate(arguments.ids):
        status = get(job_id)
        if arguments.json:
            print(json_line(status, job_id))
        elif isinstance(status, JobDetails):
            print("\n" * (number > 0) + _table_of(status))
        else:
            print(row(status, job_id))
    return 0


def _table_of(details: JobDetails) -> str:
    """Return a line for each member of a job's details that applies."""
    texts = {
        name: value if isinstance(value, str) else json_text(value)
        for name, value in plain(details).items()
        if value not in {None, ""}
    }
    return "\n".join(f"{name:<14}{one_line(text, 500)}" for name, text in texts.items())


def _wait(client: Client, arguments: argparse.Namespace) -> int:
    unknown = arguments.unknown
    if unknown is None:
        unknown = max(120.0, arguments.timeout or 0.0)
    labels = {job_uuid(job_id): job_id for job_id in arguments.ids}
    with output(labels, as_json=arguments.json, is_quiet=arguments.quiet) as shown:
        statuses = client.wait(
            arguments.ids,
            until=arguments.until,
            timeout=arguments.timeout,
            unknown=unknown,
            on_change=shown.show,
        )
    return _status_of(status for status in statuses if status.state.is_final)


def _watch(client: Client, arguments: argparse.Namespace) -> int:
    if not arguments.ids:
        return _follow(client, arguments)
    if arguments.state or arguments.name:
        return _fail("jobstatus watch: --state and --name are for a list, not for IDs", USAGE)
    labels = {job_uuid(job_id): job_id for job_id in arguments.ids}
    last: dict[Any, JobDetails] = {}
    with output(labels, as_json=arguments.json) as shown:
        for status in client.watch(list(labels)):
            last[status.id] = status
            shown.show(status)
    return _status_of(last.values())


def _follow(client: Client, arguments: argparse.Namespace) -> int:
    with output({}, as_json=arguments.json, states=arguments.state) as shown:
        for event in client.follow(arguments.state, arguments.name):
            shown.show_event(event)
    return 0


def _list(client: Client, arguments: argparse.Namespace) -> int:
    jobs = islice(_pages(client, arguments), arguments.limit)
    if arguments.json:
        for job in jobs:
            print(json_line(job))
    else:
        found = list(jobs)
        for line in rows(found):
            print(line)
        if not found:
            print("no jobs", file=sys.stderr)
    return 0


def _pages(client: Client, arguments: argparse.Namespace) -> Iterator[JobDetails]:
    cursor = None
    while True:
        limit = min(arguments.limit, _PAGE)
        page = client.list(arguments.state, arguments.name, limit=limit, cursor=cursor)
        yield from page.jobs
        cursor = page.next
        if cursor is None:
            return


def _counts(client: Client, arguments: argparse.Namespace) -> int:
    counts = msgspec.structs.asdict(client.counts())
    if arguments.json:
        print(json_text(counts))
    else:
        for state, number in counts.items():
            print(f"{state:<13}{number:>9}")
    return 0


def _result(client: Client, arguments: argparse.Namespace) -> int:
    try:
        result = client.result(arguments.id)
    except RequestError as error:
        if error.status not in _NO_RESULT:
            raise
        return _fail(f"jobstatus result: {error}", FAILED)
    print(json_text(result, is_indented=sys.stdout.isatty() and not arguments.json))
    return 0


def _status_of(statuses: Iterable[JobStatus]) -> int:
    return 0 if all(status.state is JobState.SUCCEEDED for status in statuses) else FAILED


_OPERATIONS: Final = {
    "get": _get,
    "wait": _wait,
    "watch": _watch,
    "list": _list,
    "counts": _counts,
    "result": _result,
}
