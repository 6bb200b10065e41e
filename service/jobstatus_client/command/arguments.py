"""The arguments of the commands that read the status of jobs."""

import argparse
import re
from typing import Any, Final

from jobstatus.command_arguments import argument
from jobstatus.settings import whole_number

COMMANDS: Final = ("get", "wait", "watch", "list", "counts", "result")

_STATES: Final = (
    *("pending", "in_progress", "retrying"),
    *("succeeded", "aborted", "failed", "unknown"),
)

_UNITS: Final = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}

EXIT_STATUSES: Final = """\
exit status:
  0    success; of wait and watch: all jobs have succeeded
  1    of wait and watch: a job has failed or was aborted; of result: there is none
  2    the command line or a setting is not valid
  3    the service has rejected the request, or can't be reached
  124  the time is up, or a job has been unknown for too long
  130  Ctrl-C: the command has ended, the jobs go on
  141  what has read the output, such as head, has ended
"""

_EPILOG: Final = f"""\
ID is any id of a job: a UUID, or the id that the queue knows, such as nightly.

environment variables:
  JOBSTATUS_URL       address of the service, such as http://127.0.0.1:8000; --url overrides it
  JOBSTATUS_KEY       API key or job token; JOBSTATUS_KEY_FILE names a file that holds it

{EXIT_STATUSES}"""


def duration(text: str) -> float:
    """Parse a time: 90, 90s, 1.5m, 2h or 7d; return seconds.

    Raises:
        ValueError: It is not a time; the message follows the name of the argument.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if found is None:
        raise ValueError("must be a time such as 90s, 5m, 2h or 1d")
    return float(found[1]) * _UNITS[found[2]]


def job_id(text: str) -> str:
    """Return the id of a job.

    Raises:
        argparse.ArgumentTypeError: It is empty, as a variable of the shell that is not set.
    """
    if not text:
        raise argparse.ArgumentTypeError("an ID must not be empty")
    return text


def add_commands(commands: Any) -> None:
    """Add the parsers of the commands to those of `jobstatus`.

    Args:
        commands: What `add_subparsers` has returned.
    """
    get = _add(commands, "get", "show the status of jobs")
    get.add_argument("ids", nargs="+", type=job_id, metavar="ID", help="id of a job")
    get.add_argument("--details", action="store_true", help="also times, attempt and worker")

    wait = _add(
        commands,
        "wait",
        "wait until jobs have finished",
        "Wait until jobs have finished, and show their progress. Restarts of the service and "
        "outages of Redis do not end the wait.",
    )
    wait.add_argument("ids", nargs="+", type=job_id, metavar="ID", help="id of a job")
    wait.add_argument(
        "--until",
        choices=("done", "any-done"),
        default="done",
        help="wait for all jobs (done), or for any of them (any-done)",
    )
    time = argument(duration, "TIME")
    wait.add_argument(
        "--timeout",
        type=time,
        metavar="TIME",
        help="give up after this time, such as 90s, 5m, 2h or 1d (never)",
    )
    wait.add_argument(
        "--unknown",
        type=time,
        metavar="TIME",
        help="give up when a job has been unknown for this time: it is not enqueued yet, its "
        "status has expired, or its worker has died (2m, or --timeout if that is longer)",
    )
    wait.add_argument("-q", "--quiet", action="store_true", help="show nothing")

    watch = _add(
        commands,
        "watch",
        "follow jobs, or all jobs",
        "Follow jobs until they have finished. Without ID, follow the newest 50 jobs until Ctrl-C.",
    )
    watch.add_argument("ids", nargs="*", type=job_id, metavar="ID", help="id of a job")
    _add_filters(watch)

    listing = _add(commands, "list", "list jobs, newest first")
    _add_filters(listing)
    listing.add_argument(
        "--limit",
        type=argument(whole_number(1), "LIMIT"),
        default=50,
        metavar="LIMIT",
        help="how many jobs at most (50)",
    )

    _add(commands, "counts", "count the jobs in each state")

    result = _add(commands, "result", "print the result of a job, as JSON")
    result.add_argument("id", type=job_id, metavar="ID", help="id of a job")


def _add(
    commands: Any, name: str, help_text: str, description: str = ""
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help_text,
        description=description or f"{help_text[0].upper()}{help_text[1:]}.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--url", help="address of the service")
    parser.add_argument("--json", action="store_true", help="print JSON, one object in each line")
    return parser


def _add_filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--state",
        action="append",
        default=[],
        choices=_STATES,
        help="only jobs in this state; may be repeated",
    )
    parser.add_argument("--name", help="only jobs of this name")
