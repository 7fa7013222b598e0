"""`fraudctl`: entry point, and how errors reach the person.

Exit codes: 0 done; 1 it ran and the answer is no; 2 wrong use or wrong input.
"""

from __future__ import annotations

import sys

from fraudctl.cli import app
from fraudctl.records import ErrorRecord
from fraudkit.errors import FraudError, InvalidInput


def main() -> None:
    """Run the command line."""
    try:
        app()
    except FraudError as error:
        if "--json" in sys.argv and "demo" not in sys.argv:
            print(ErrorRecord.of(error).model_dump_json(indent=1))  # noqa: T201
        print(f"fraudctl: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(2 if isinstance(error, InvalidInput) else 1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
