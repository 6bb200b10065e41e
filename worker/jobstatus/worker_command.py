"""The console script `jobstatus-worker`; what it does stands in `jobstatus.arq.command`."""

import sys


def main() -> None:
    """Run `jobstatus-worker`, or say which extra it lacks."""
    try:
        from jobstatus.arq.command import cli  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"arq", "click"}:
            raise
        sys.exit("jobstatus-worker needs arq: pip install 'jobstatus[arq]'")
    cli()
