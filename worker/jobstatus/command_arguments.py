"""Arguments of the console scripts, parsed as settings are."""

import argparse
from typing import Any

from jobstatus.settings import Parser


def argument(parse: Parser, name: str = "it") -> Parser:
    """Return a parser for argparse, which shows only the messages of `ArgumentTypeError`.

    Args:
        parse: Parses the text of the argument.
        name: The argument's name, with which the message begins.
    """

    def parse_argument(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{name} {error}, not {text!r}") from None

    return parse_argument
