"""What a policy answers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

Facts = TypeVar("Facts")


class Outcome(StrEnum):
    """Four outcomes, so that "no data" is never "good"."""

    PASS = "pass"  # noqa: S105 - an outcome, not a password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Verdict(Generic[Facts]):
    """A decision that can be explained.

    Attributes:
        outcome: What was decided.
        reason: Name of the check that decided, for programs: `no_gain`, `miscalibrated`, …
        message: One sentence for a person, with the numbers and their thresholds.
        facts: Everything that the decision was made from.
    """

    outcome: Outcome
    reason: str
    message: str
    facts: Facts

    @property
    def passed(self) -> bool:
        """Whether the answer is yes."""
        return self.outcome is Outcome.PASS
