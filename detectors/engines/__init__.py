"""Engines that test a window against its matched reference rows, each a file of its own and one setting away.

Both compute the Kolmogorov–Smirnov test of two samples on the same rows, and so decide alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from detectors.reference import Matched, Reference, Values
from fraudkit.schema import FloatArray

EngineName = Literal["alibi", "scipy"]


@dataclass(frozen=True, slots=True)
class Tested:
    """KS distances [30] of `reference.COLUMNS`, and the probability [30] of such a distance without drift."""

    distances: FloatArray
    p_values: FloatArray


class Engine(Protocol):
    """Tests windows of one model."""

    def test(self, values: Values, matched: Matched) -> Tested:
        """Test rows [m, 30] of `reference.COLUMNS` against the matched reference rows.

        Raises:
            InvalidInput: The window has another width, no rows, or a number that is not finite.
        """
        ...


def load_engine(name: EngineName, reference: Reference) -> Engine:
    """The engine of this name. Its library is imported here, and only here."""
    if name == "alibi":
        from detectors.engines.alibi import AlibiEngine

        return AlibiEngine(reference)
    from detectors.engines.exact import ExactEngine

    return ExactEngine(reference)
