"""The console script `jobstatus-worker`, which is implemented in `jobstatus.arq.command`."""

import sys

from jobstatus.errors import MissingExtraError


def main() -> None:
    """Run `jobstatus-worker`; exit with one line if arq isn't installed."""
    try:
        from jobstatus.arq.command import cli  # noqa: PLC0415 - an extra
    except ImportError as error:
        if not isinstance(error, MissingExtraError) and error.name != "click":  # arq needs click
            raise
        sys.exit("jobstatus-worker needs arq: pip install 'jobstatus[arq]'")
    cli()
