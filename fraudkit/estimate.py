"""A number with its interval."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Estimate:
    """A point estimate and its 95 % interval; in JSON `{"value", "low", "high"}`."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """The estimate as people write it: `0.81 (0.74 to 0.87)`."""
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"
