"""What the commands of all parts share: errors in a line for a person, exit codes, the address to listen on."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable

from fraudkit import logs
from fraudkit.errors import FraudError, InvalidInput

Arguments = list[str] | None


def command(name: str) -> Callable[[Callable[[Arguments], None]], Callable[..., int]]:
    """Make a command of a function: 0 when it has ended, 1 when it cannot go on, 2 on wrong use.

    Args:
        name: What stands before an error.
    """

    def made(run: Callable[[Arguments], None]) -> Callable[..., int]:
        @functools.wraps(run)
        def main(arguments: Arguments = None) -> int:
            logs.configure()
            try:
                run(arguments)
            except FraudError as error:
                print(f"{name}: {error}", file=sys.stderr)  # noqa: T201  # one line, for a person
                return 2 if isinstance(error, InvalidInput) else 1
            return 0

        return main

    return made


def add_address(parser: argparse.ArgumentParser, host: str, port: int) -> None:
    """Let a command be told where to listen; these hold where it is not."""
    parser.add_argument("--host", default=host, help="The address to listen on.")
    parser.add_argument("--port", type=int, default=port, help="The port; 0 takes a free one.")
