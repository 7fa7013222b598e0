"""A number with its interval."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

Z: Final = 1.959963984540054
"""Half width of a 95 % normal interval, in standard errors."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A point estimate and its 95 % interval; in JSON `{"value", "low", "high"}`."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """The estimate as people write it: `0.81 (0.74 to 0.87)`."""
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def wilson(hits: float, rows: float) -> Estimate:
    """A proportion with Wilson's interval (1927); without rows 0, from 0 to 1."""
    if not rows:
        return Estimate(0.0, 0.0, 1.0)
    share = hits / rows
    centre = (share + Z**2 / (2 * rows)) / (1 + Z**2 / rows)
    half = Z / (1 + Z**2 / rows) * math.sqrt(share * (1 - share) / rows + Z**2 / (4 * rows**2))
    return Estimate(float(share), min(max(0.0, centre - half), share), max(min(1.0, centre + half), share))
