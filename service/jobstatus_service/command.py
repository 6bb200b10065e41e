"""The console script `jobstatus`."""

import argparse
import secrets
import sys
from importlib.metadata import version
from pathlib import Path

from jobstatus.errors import JobStatusError, MissingExtraError

_SERVE = """\
environment (all optional, but there must be an API key):
  JOBSTATUS_API_KEYS_FILE          file of keys: lines of NAME SHA256HEX [PREFIX], # comments;
                                   read again when it changes (see: jobstatus key new --help)
  JOBSTATUS_API_KEYS               plain keys, separated by commas, for development
  JOBSTATUS_REDIS_URL              where the status is kept (default: redis://127.0.0.1:6379/0);
                                   JOBSTATUS_REDIS_URL_FILE names a file that holds it
  JOBSTATUS_KEY_PREFIX             first part of every key in Redis (default: job)
  JOBSTATUS_LEASE                  seconds for which a silent worker is believed (default: 30);
                                   the same as the workers'
  JOBSTATUS_CACHE_SIZE             bytes of the response cache, such as 64MiB (default); 0: none
  JOBSTATUS_MAX_STALENESS          seconds by which an answer may be behind when the connection to
                                   Redis has failed (default: 2)
  JOBSTATUS_MAX_WATCHERS           waits and streams that a process holds (default: 20000)
  JOBSTATUS_MAX_WATCHERS_PER_KEY   those of one API key (default: 10000)
  JOBSTATUS_MAX_BULK_IDS           jobs that one bulk read may ask for (default: 100)
  JOBSTATUS_RATE_LIMIT             requests a second that a process answers to one API key
                                   (default: 0, all); JOBSTATUS_RATE_BURST: those at once
  JOBSTATUS_CLIENT_TIMEOUT         seconds for which a client may be slow or idle (default: 75)
  JOBSTATUS_LOG_FORMAT             text or json (default: text)
  JOBSTATUS_ACCESS_LOG             1: log each request
  JOBSTATUS_TRACES                 1: OpenTelemetry traces
  JOBSTATUS_REDIS_CA_FILE          with TLS: PEM file of who vouches for Redis; and
                                   JOBSTATUS_REDIS_CERT_FILE, JOBSTATUS_REDIS_KEY_FILE: our own
  JOBSTATUS_REDIS_TIMEOUT          seconds for one round trip (default: 0.8)
  JOBSTATUS_REDIS_CONNECT_TIMEOUT  seconds for connecting (default: 0.5)

endpoints:
  GET /api/jobs/{job_id}         the status of a job; ?wait=SECONDS: once it has changed
  GET /api/jobs/{job_id}/events  its changes, as server-sent events
  GET /api/jobs?id=A&id=B        the statuses of up to 100 jobs
  GET /livez, /readyz, /metrics  whether the process serves, whether it can answer; Prometheus
  GET /schema                    the API's page; /schema/openapi.json: the OpenAPI document
"""

_KEY = """\
Shows a new key once, on stderr, for whoever will use it, and prints its line for the key file:

  NAME SHA256HEX [PREFIX]

The service reads the file that JOBSTATUS_API_KEYS_FILE names again when it changes, so this is
all there is to do:

  jobstatus key new web >> keys

The file holds no secret. A key is revoked by removing its line; a file without any key counts
as broken, and the last good keys stay.
"""

_DRAIN = """\
Tells a running `jobstatus serve` that it will be ended: /readyz turns 503, each answer closes its
connection, waits are answered and event streams end with a time to come back. It goes on answering
until SIGTERM. For a preStop hook: --wait gives load balancers the time to hear of it.
"""

_DEMO = """\
Starts an embedded Valkey, the service and an arq worker, each a process of its own, and
enqueues one job that writes a SHA-256 manifest of every file under PATH. Progress is shown as
the HTTP service tells it. Ctrl-C ends everything and removes every file of the demo.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    raw = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser(
        prog="jobstatus", description="Is it done yet? The status of background jobs over HTTP."
    )
    top.add_argument(
        "-V", "--version", action="version", version=f"jobstatus {version('jobstatus')}"
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    serve = commands.add_parser(
        "serve",
        help="answer pollers over HTTP",
        description="Answer pollers over HTTP from what the workers keep in Redis or Valkey.",
        epilog=_SERVE,
        formatter_class=raw,
    )
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    serve.add_argument("--port", type=_port, default=8000, help="TCP port (%(default)s)")
    serve.add_argument(
        "--workers", type=_count, default=1, help="processes that share the port (%(default)s)"
    )
    serve.add_argument("--no-auth", action="store_true", help="let everybody ask for everything")

    drain = commands.add_parser(
        "drain",
        help="have a running server send its clients away",
        description=_DRAIN,
        formatter_class=raw,
    )
    drain.add_argument("--pid", type=_count, help="process of the server (1, as in a container)")
    drain.add_argument(
        "--wait", type=_wait, default=0.0, metavar="SECONDS", help="wait so long afterwards (0)"
    )

    demo = commands.add_parser(
        "demo",
        help="see a real job over real files, with nothing installed",
        description=_DEMO,
        formatter_class=raw,
    )
    demo.add_argument(
        "path",
        nargs="?",
        type=Path,
        metavar="PATH",
        help="folder whose files to checksum (the running Python's standard library)",
    )
    demo.add_argument(
        "--once", action="store_true", help="end when the job is over: 0 if it succeeded"
    )
    demo.add_argument("--port", type=_port, default=0, help="TCP port of the service (a free one)")

    key = commands.add_parser("key", help="make API keys")
    actions = key.add_subparsers(dest="action", required=True, metavar="ACTION")
    new = actions.add_parser("new", help="make an API key", description=_KEY, formatter_class=raw)
    new.add_argument("name", metavar="NAME", help="who will use it: one word, for the log")
    new.add_argument("--prefix", help="the tenant whose jobs it may see (the service's own prefix)")
    return top


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65_535:  # noqa: PLR2004
        raise argparse.ArgumentTypeError("must be 0 to 65535")
    return port


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return count


def _wait(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds <= 3_600:  # noqa: PLR2004
        raise argparse.ArgumentTypeError("must be 0 to 3600")
    return seconds


def main() -> None:
    """Run `jobstatus`."""
    arguments = parser().parse_args()
    try:
        match arguments.command:
            case "serve":
                _serve(arguments)
            case "drain":
                _drain(arguments)
            case "demo":
                sys.exit(_demo(arguments))
            case "key":
                _new_key(arguments)
    except JobStatusError as error:
        sys.exit(f"jobstatus: {error}")


def _serve(arguments: argparse.Namespace) -> None:
    try:
        from jobstatus_service.server import serve  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise missing(error, "service") from None
    serve(arguments.host, arguments.port, arguments.workers, no_auth=arguments.no_auth)


def _drain(arguments: argparse.Namespace) -> None:
    from jobstatus_service.http.drain import drain_command  # noqa: PLC0415

    drain_command(arguments.pid, arguments.wait)


def _demo(arguments: argparse.Namespace) -> int:
    try:
        from jobstatus_service.demo import run  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise missing(error, "demo") from None
    return run(arguments.path, once=arguments.once, port=arguments.port)


def missing(error: ModuleNotFoundError, extra: str) -> Exception:
    """What to raise for a module that isn't there: the extra that has it, if it is not ours."""
    if error.name is None or error.name.partition(".")[0].startswith("jobstatus"):
        return error
    return MissingExtraError(
        f"`jobstatus {'serve' if extra == 'service' else extra}` needs {error.name}: "
        f"pip install 'jobstatus[{extra}]'"
    )


def _new_key(arguments: argparse.Namespace) -> None:
    from jobstatus_service.http.api_keys import digest, parse_keys  # noqa: PLC0415

    key = "js_" + secrets.token_urlsafe(32)
    line = " ".join(filter(None, (arguments.name, digest(key), arguments.prefix)))
    try:
        if len(parse_keys(line, "job")) != 1 or len(line.split()) != len(line.split(" ")):
            raise ValueError("NAME must be one word")  # noqa: TRY301
    except ValueError as error:
        sys.exit(f"jobstatus key new: {error}")
    print(f"{arguments.name}'s key, shown this once: {key}", file=sys.stderr)
    print(line)
