"""The console script `jobstatus`.

Only what the arguments need is imported at the top: `--help` must work without the packages of the
extras, and `jobstatus get` must be quick.
"""

import argparse
import os
import sys
from pathlib import Path

from jobstatus import __version__
from jobstatus.command_arguments import argument
from jobstatus.errors import JobStatusError, missing_extra
from jobstatus.settings import number, whole_number
from jobstatus_client.command.arguments import add_commands as add_client_commands
from jobstatus_client.command.completion import SHELLS, script

_SERVE_EPILOG = """\
environment variables (all optional, but at least one API key is required):
  JOBSTATUS_API_KEYS_FILE          file of hashed API keys and of public keys of job tokens, one a
                                   line; it is read again when it changes (see: jobstatus key new
                                   --help)
  JOBSTATUS_API_KEYS               plain API keys, separated by commas, for development
  JOBSTATUS_REDIS_URL              the Redis that holds the status (redis://127.0.0.1:6379/0);
                                   JOBSTATUS_REDIS_URL_FILE names a file that holds the URL
  JOBSTATUS_KEY_PREFIX             first part of every key in Redis (job)
  JOBSTATUS_LEASE                  seconds without a report after which a running job's state is
                                   unknown (30); must be the same as the workers'
  JOBSTATUS_CACHE_SIZE             size of the response cache, such as 64MiB (64MiB); 0 disables it
  JOBSTATUS_MAX_STALENESS          seconds for which a response may be out of date after the
                                   connection to Redis has failed (2)
  JOBSTATUS_MAX_WATCHERS           open long polls and event streams of a process (20000)
  JOBSTATUS_MAX_WATCHERS_PER_KEY   open long polls and event streams of one API key (10000)
  JOBSTATUS_MAX_WATCHERS_PER_TOKEN open long polls and event streams of one job token (32)
  JOBSTATUS_MAX_BULK_IDS           jobs in one bulk read (100)
  JOBSTATUS_RATE_LIMIT             requests per second that a process accepts from one API key, or
                                   with the job tokens of one key, on average (0, no limit)
  JOBSTATUS_RATE_BURST             requests that it accepts at once (two seconds' worth)
  JOBSTATUS_TOKEN_RATE_LIMIT       requests per second that it accepts with one job token (0, no
                                   limit)
  JOBSTATUS_CORS_ORIGINS           origins whose web pages may read responses, such as
                                   https://app.example, separated by commas (none)
  JOBSTATUS_UI                     0 turns the live page at / off (1)
  JOBSTATUS_CLIENT_TIMEOUT         seconds for which a client may be idle, or slow to send or read
                                   (75)
  JOBSTATUS_LOG_FORMAT             text or json (text)
  JOBSTATUS_ACCESS_LOG             1 logs each request
  JOBSTATUS_TRACES                 1 sends traces with OpenTelemetry
  JOBSTATUS_REDIS_CA_FILE          PEM file of the certificate authorities for Redis, with TLS
  JOBSTATUS_REDIS_CERT_FILE        PEM file of the service's own certificate, with TLS
  JOBSTATUS_REDIS_KEY_FILE         PEM file of that certificate's private key
  JOBSTATUS_REDIS_TIMEOUT          seconds for one round trip to Redis (0.8)
  JOBSTATUS_REDIS_CONNECT_TIMEOUT  seconds for connecting to Redis (0.5)

endpoints:
  GET /api/jobs/{job_id}         the status of a job; with ?wait=SECONDS, when it has changed
  GET /api/jobs/{job_id}/events  the changes of a job's status, as server-sent events
  GET /api/jobs?id=A&id=B        the statuses of several jobs
  GET /livez                     200 while the process serves
  GET /readyz                    200 when clients may be sent to the process
  GET /metrics                   metrics for Prometheus
  GET /schema                    the API's documentation; /schema/openapi.json: as OpenAPI
  GET /                          the live page: a list of all jobs, for people
  GET /assets/element.js         <job-status>, an element for web pages
"""

_NEW_KEY_DESCRIPTION = """\
Create an API key. The key itself is shown once, on stderr: give it to the client. On stdout is the
line for the file that JOBSTATUS_API_KEYS_FILE names:

  NAME SHA256HEX [PREFIX]

Append it to the file, which the service reads again when it changes:

  jobstatus key new web >> keys

With --tokens, create a key pair instead, with which job tokens are signed (see: jobstatus token
--help). The private key is shown once, on stderr, or written to the file that --private-key names:
give it to the code that enqueues jobs. The line on stdout has the public key:

  NAME ed25519:PUBLIC_KEY [PREFIX]

The file holds no secrets. Remove a line to revoke its key; with a public key, all tokens that were
signed with its private key are revoked. If the file is broken or holds no key, the service keeps
the keys that it has.
"""

_SIGNING_DESCRIPTION = """\
Sign a job token: a credential that reads the status, the details and the events of the named jobs,
for a short time. Give it to a browser. It is sent as an API key is: `Authorization: Bearer TOKEN`.

JOBSTATUS_TOKEN_KEY is the private key, which `jobstatus key new --tokens NAME` makes, or
JOBSTATUS_TOKEN_KEY_FILE names the file that holds it. An ID may be a UUID, or any other text, such
as an id that arq returned.
"""

_DRAIN_DESCRIPTION = """\
Prepare a running `jobstatus serve` for its end: /readyz returns 503, every response closes its
connection, long polls are answered, and event streams end and tell their clients when to
reconnect. The server still answers until it receives SIGTERM. Use it in a preStop hook, with --wait
to give load balancers the time to notice.
"""

_COMPLETION_DESCRIPTION = """\
Print a script that completes the commands and options of jobstatus. For all later shells:

  bash  mkdir -p ~/.local/share/bash-completion/completions
        jobstatus completion bash > ~/.local/share/bash-completion/completions/jobstatus
  zsh   mkdir -p ~/.zfunc
        jobstatus completion zsh > ~/.zfunc/_jobstatus
        and in ~/.zshrc, before compinit: fpath=(~/.zfunc $fpath)
  fish  mkdir -p ~/.config/fish/completions
        jobstatus completion fish > ~/.config/fish/completions/jobstatus.fish
"""

_DEMO_DESCRIPTION = """\
Start an embedded Valkey, the service and an arq worker, and enqueue one job, which writes a SHA-256
manifest of every file under PATH. The demo shows the progress that the HTTP service reports. Ctrl-C
stops everything and removes all files of the demo.
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    raw = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser(
        prog="jobstatus", description="Is it done yet? The status of background jobs over HTTP."
    )
    top.add_argument("-V", "--version", action="version", version=f"jobstatus {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    serve = commands.add_parser(
        "serve",
        help="serve the status of jobs over HTTP",
        description="Serve the status of jobs, which workers store in Redis or Valkey, over HTTP.",
        epilog=_SERVE_EPILOG,
        formatter_class=raw,
    )
    port = argument(whole_number(0, 65_535), "PORT")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    serve.add_argument("--port", type=port, default=8000, help="TCP port (%(default)s)")
    serve.add_argument(
        "--workers",
        type=argument(whole_number(1), "WORKERS"),
        default=1,
        help="processes that share the port (%(default)s)",
    )
    serve.add_argument("--no-auth", action="store_true", help="accept requests without an API key")

    drain = commands.add_parser(
        "drain",
        help="prepare a running server for its end",
        description=_DRAIN_DESCRIPTION,
        formatter_class=raw,
    )
    drain.add_argument(
        "--pid",
        type=argument(whole_number(1), "PID"),
        help="process id of the server (1, the first process of a container)",
    )
    drain.add_argument(
        "--wait",
        type=argument(number(0, 3_600, unit=""), "SECONDS"),
        default=0.0,
        metavar="SECONDS",
        help="how long to wait afterwards, 0 to 3600 (0)",
    )

    demo = commands.add_parser(
        "demo",
        help="run a real job over real files",
        description=_DEMO_DESCRIPTION,
        formatter_class=raw,
    )
    demo.add_argument(
        "path",
        nargs="?",
        type=Path,
        metavar="PATH",
        help="folder whose files to hash (Python's standard library)",
    )
    demo.add_argument(
        "--once",
        action="store_true",
        help="exit when the job has finished: with 0 if it succeeded, with 1 if not",
    )
    demo.add_argument("--port", type=port, default=0, help="TCP port of the service (a free one)")

    key = commands.add_parser("key", help="create API keys, and keys that sign job tokens")
    actions = key.add_subparsers(dest="action", required=True, metavar="ACTION")
    new = actions.add_parser(
        "new",
        help="create an API key, or a key that signs job tokens",
        description=_NEW_KEY_DESCRIPTION,
        formatter_class=raw,
    )
    new.add_argument("name", metavar="NAME", help="the client's name in logs and tokens: one word")
    new.add_argument(
        "--prefix", help="key prefix of the tenant whose jobs the client may read (the service's)"
    )
    new.add_argument(
        "--tokens", action="store_true", help="create a key pair, with which job tokens are signed"
    )
    new.add_argument(
        "--private-key",
        type=Path,
        metavar="FILE",
        help="with --tokens: a new file for the private key, instead of stderr",
    )

    token = commands.add_parser(
        "token",
        help="sign a job token, which reads the status of named jobs",
        description=_SIGNING_DESCRIPTION,
        formatter_class=raw,
    )
    token.add_argument("ids", nargs="+", metavar="ID", help="id of a job; at most 100")
    token.add_argument(
        "--expires",
        type=argument(number(1, 86_400), "SECONDS"),
        default=900.0,
        metavar="SECONDS",
        help="how long the token is valid, 1 to 86400 (900)",
    )
    token.add_argument(
        "--include-result", action="store_true", help="the token also reads the jobs' results"
    )
    token.add_argument(
        "--include-errors",
        action="store_true",
        help="the token also reads the messages of exceptions, not only their types",
    )
    add_client_commands(commands)

    completion = commands.add_parser(
        "completion",
        help="print a script that completes commands in a shell",
        description=_COMPLETION_DESCRIPTION,
        formatter_class=raw,
    )
    completion.add_argument("shell", choices=SHELLS, help="the shell")
    return top


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
            case "token":
                _sign_token(arguments)
            case "completion":
                print(script(parser(), arguments.shell))
            case _:
                sys.exit(_run_client(arguments))
    except JobStatusError as error:
        sys.exit(f"jobstatus: {error}")


def _serve(arguments: argparse.Namespace) -> None:
    try:
        from jobstatus_service.server import serve  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise missing_extra(error, "`jobstatus serve`", "service") from None
    serve(arguments.host, arguments.port, arguments.workers, no_auth=arguments.no_auth)


def _run_client(arguments: argparse.Namespace) -> int:
    # httpx would import click, rich and pygments for a command line of its own, in 50 ms. None
    # means that there is no such module, which httpx is prepared for.
    sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
    try:
        from jobstatus_client.command.operations import run  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise missing_extra(error, f"`jobstatus {arguments.command}`", "cli") from None
    return run(arguments)


def _drain(arguments: argparse.Namespace) -> None:
    from jobstatus_service.http.drain import drain_command  # noqa: PLC0415

    drain_command(arguments.pid, arguments.wait)


def _demo(arguments: argparse.Namespace) -> int:
    try:
        from jobstatus_service.demo import run  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise missing_extra(error, "`jobstatus demo`", "demo") from None
    return run(arguments.path, once=arguments.once, port=arguments.port)


def _new_key(arguments: argparse.Namespace) -> None:
    import secrets  # noqa: PLC0415

    from jobstatus.tokens import new_key_pair  # noqa: PLC0415
    from jobstatus_service.http.api_keys import digest, parse_keys  # noqa: PLC0415

    name, prefix = arguments.name, arguments.prefix
    if name.split() != [name] or "#" in name:
        sys.exit(f"jobstatus key new: NAME must be one word without #, not {name!r}")
    if arguments.private_key and not arguments.tokens:
        sys.exit("jobstatus key new: --private-key requires --tokens")
    if arguments.tokens:
        secret, public = new_key_pair(name)
    else:
        secret = "js_" + secrets.token_urlsafe(32)
        public = digest(secret)
    line = f"{name} {public} {prefix or ''}".rstrip()
    try:
        (parsed,) = parse_keys(line, "job").values()
    except ValueError as error:
        fault = str(error).removeprefix("line 1: ")
        sys.exit(f"jobstatus key new: the prefix {prefix!r} is not valid: {fault}")
    if parsed.prefix != (prefix or "job"):
        sys.exit(f"jobstatus key new: the prefix must not hold #, but it is {prefix!r}")
    if not arguments.tokens:
        print(f"API key of {name}, shown only now: {secret}", file=sys.stderr)
    elif arguments.private_key is None:
        print(f"Private key of {name}, shown only now: {secret}", file=sys.stderr)
    else:
        _write_private_key(arguments.private_key, secret)
    print(line)


def _write_private_key(path: Path, key: str) -> None:
    """Write a new file that only its owner can read."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:  # noqa: PTH123 - a descriptor
            file.write(key + "\n")
    except OSError as error:
        sys.exit(f"jobstatus key new: the private key can't be written: {error}")


def _sign_token(arguments: argparse.Namespace) -> None:
    from jobstatus.tokens import sign  # noqa: PLC0415

    try:
        token = sign(
            arguments.ids,
            expires=arguments.expires,
            include_result=arguments.include_result,
            include_errors=arguments.include_errors,
        )
    except ValueError as error:
        sys.exit(f"jobstatus token: {error}")
    print(token)
