"""The errors of the platform, by what the person who sees one should do.

    FraudError
    ├── InvalidInput       wrong use or wrong input: mend it; the command line exits 2, the API answers 4xx
    │   └── InvalidRows    … with every violation by row, column and value
    ├── BundleError        a model bundle that is not what its manifest says: do not use it
    ├── TemporaryError     a peer or a disk that may come back: it was retried and is still away
    └── PermanentError     it will not work however often it is tried: read the message

Adapters translate the errors of the libraries that they wrap into these, at their edge, `raise … from`.
"""

from __future__ import annotations

from dataclasses import dataclass


class FraudError(Exception):
    """Base of every error that the platform raises on purpose. Its text is for a person."""


class InvalidInput(FraudError):
    """Wrong use or wrong input. The text says what, where, and what to do."""


class BundleError(FraudError):
    """A model bundle is incomplete, changed or unreadable. The text names the file."""


class TemporaryError(FraudError):
    """Something outside did not answer, after retries. Trying again later may help."""


class PermanentError(FraudError):
    """Something that trying again will not mend."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing wrong with the input.

    Attributes:
        problem: What is wrong, and what would be right.
        row: Number of the row: in a file counted from 1 (the header is not a row), in a request from 0.
        column: Name of the input or label; None when the whole row or file is meant.
        value: What was found, as text, shortened.
    """

    problem: str
    row: int | None = None
    column: str | None = None
    value: str | None = None

    def __str__(self) -> str:
        """Say where first, then what: `row 17, V7: 'abc' is not a number`."""
        places = [f"row {self.row}" if self.row is not None else "", self.column or ""]
        where = ", ".join(place for place in places if place)
        what = f"{self.value} {self.problem}" if self.value is not None else self.problem
        return f"{where}: {what}" if where else what


class InvalidRows(InvalidInput):
    """Rows or columns that break the schema.

    Attributes:
        violations: The first violations, in the order of the rows; at most `schema.MAX_REPORTED`.
        total: How many there are in all.
    """

    def __init__(self, violations: list[Violation], total: int | None = None, source: str = "") -> None:
        self.violations = tuple(violations)
        self.total = len(violations) if total is None else total
        self.source = source
        shown = "; ".join(str(violation) for violation in self.violations[:3])
        rest = self.total - min(len(self.violations), 3)
        text = f"{shown} (and {rest:,} more)" if rest > 0 else shown
        super().__init__(f"{source}: {text}" if source else text)
