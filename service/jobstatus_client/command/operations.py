"""What the commands do, and their exit statuses."""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Final

import msgspec

from jobstatus.details import JobDetails
from jobstatus.errors import JobStatusError, SettingsError
from jobstatus.status import JobState, JobStatus, job_uuid, one_line
from jobstatus_client.client import Client
from jobstatus_client.command.output import json_line, output, row, rows
from jobstatus_client.errors import RequestError, WaitTimeoutError

FAILED: Final = 1
USAGE: Final = 2
UNAVAILABLE: Final = 3
TIMEOUT: Final = 124
INTERRUPTED: Final = 130

_NO_RESULT: Final = frozenset({404, 410})
_PAGE: Final = 200
_TIMEOUT_SECONDS: Final = 5.0


def run(arguments: argparse.Namespace) -> int:
    """Run a command; return its exit status."""
    name = f"jobstatus {arguments.command}"
    try:
        with Client(arguments.url, timeout=_TIMEOUT_SECONDS) as client:
            return _OPERATIONS[arguments.command](client, arguments)
    except JobStatusError as error:
        return _fail(f"{name}: {_explained(error)}", _exit_status(error))
    except KeyboardInterrupt:
        is_watching = arguments.command in {"wait", "watch"}
        text = "detached; the jobs go on" if is_watching else "interrupted"
        return _fail(f"\n{name}: {text}", INTERRUPTED)
    except BrokenPipeError:  # of `jobstatus list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _fail(message: str, status: int) -> int:
    sys.stdout.flush()
    print(message, file=sys.stderr)
    return status


def _exit_status(error: JobStatusError) -> int:
    if isinstance(error, SettingsError):
        return USAGE
    return TIMEOUT if isinstance(error, WaitTimeoutError) else UNAVAILABLE


def _explained(error: JobStatusError) -> str:
    has_key = os.environ.get("JOBSTATUS_KEY") or os.environ.get("JOBSTATUS_KEY_FILE")
    if isinstance(error, RequestError) and error.status == 401 and not has_key:  # noqa: PLR2004
        return (
            "the service requires an API key: set JOBSTATUS_KEY to it, "
            "or JOBSTATUS_KEY_FILE to the name of a file that holds it"
        )
    return str(error)


def _get(client: Client, arguments: argparse.Namespace) -> int:
    get = client.details if arguments.details else client.get
    for job_id in arguments.ids:
        status = get(job_id)
        if arguments.json:
            print(json_line(status))
        elif isinstance(status, JobDetails):
            print(_table_of(status))
        else:
            print(row(status, job_id))
    return 0


def _table_of(details: JobDetails) -> str:
    """Return a line for each member of a job's details that applies."""
    values = json.loads(json_line(details))
    return "\n".join(
        f"{name:<14}{one_line(value, 500)}" for name, value in values.items() if value is not None
    )


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
        for line in rows(list(jobs)):
            print(line)
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
        print(json.dumps(counts))
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
    print(json.dumps(result, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None))
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
