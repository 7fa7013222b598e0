"""`fraudctl`: entry point, and how errors reach the person.

Exit codes: 0 done; 1 it ran and the answer is no; 2 wrong use or wrong input.
"""

from __future__ import annotations

import sys
from typing import NoReturn

from fraudctl.cli import app
from fraudctl.records import ErrorRecord
from fraudkit.errors import FraudError, InvalidInput, PermanentError


def main() -> None:
    """Run the command line."""
    try:
        app()
    except OSError as error:
        # A disk that is full or may not be written to is for the person who runs this, not for its developers.
        where = f"{error.filename}: " if error.filename else ""
        _fail(PermanentError(f"{where}{error.strerror or error}"))
    except FraudError as error:
        _fail(error)
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(error: FraudError) -> NoReturn:
    """One line for the person, an object for a program, and the exit code."""
    if "--json" in sys.argv and "demo" not in sys.argv:
        print(ErrorRecord.of(error).model_dump_json(indent=1))  # noqa: T201
    print(f"fraudctl: {error}", file=sys.stderr)  # noqa: T201
    sys.exit(2 if isinstance(error, InvalidInput) else 1)


if __name__ == "__main__":
    main()
