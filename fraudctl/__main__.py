"""`fraudctl`: entry point, and how errors and signals reach the person.

Exit codes: 0 done; 1 it ran and the answer is no; 2 wrong use or wrong input; 130 and 143 after a signal.
"""

from __future__ import annotations

import signal
import sys
from typing import NoReturn

from fraudkit.errors import FraudError, InvalidInput, PermanentError


def main() -> None:
    """Run the command line."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        # The commands take a moment to import, and Ctrl-C may come in it.
        from fraudctl.cli import app

        app()
    except OSError as error:
        # A disk that is full or may not be written to is for the person who runs this, not for its developers.
        where = f"{error.filename}: " if error.filename else ""
        _fail(PermanentError(f"{where}{error.strerror or error}"))
    except FraudError as error:
        _fail(error)
    except KeyboardInterrupt:
        sys.exit(130)


def _terminate(*_: object) -> NoReturn:
    """Leave by way of every `with` and `finally`, so that no scratch file and no server stays behind."""
    sys.exit(143)


def _fail(error: FraudError) -> NoReturn:
    """One line for the person, an object for a program, and the exit code."""
    if "--json" in sys.argv and "demo" not in sys.argv:
        from fraudctl.records import ErrorRecord

        print(ErrorRecord.of(error).model_dump_json(indent=1))  # noqa: T201
    print(f"fraudctl: {error}", file=sys.stderr)  # noqa: T201
    sys.exit(2 if isinstance(error, InvalidInput) else 1)


if __name__ == "__main__":
    main()
