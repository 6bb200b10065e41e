"""`jobstatus completion SHELL`: a script that completes the command line."""

import argparse

from jobstatus.errors import missing_extra

SHELLS = ("bash", "zsh", "fish")


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return the script for a shell.

    Raises:
        MissingExtraError: shtab is not installed.
    """
    try:
        import shtab  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise missing_extra(error, "`jobstatus completion`", "cli") from None
    text: str = shtab.complete(parser, shell=shell)
    return text
