"""How often a number is unusually high, as cumulative sums up and down: shared by alert rate and outliers.

High is at or above a quantile of the reference. The rate is by hour of day, each hour drawn towards the rate of
the day by as many rows as `RateRule.shrink`. A base rate that is taken 10 % too low cuts the time between false
alarms to a fifth, so the sums assume it wrong by `RateRule.margin` in their disfavour.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detectors import cusum
from detectors.channels import Statistic
from detectors.reference import HOURS, Reference
from fraudkit.policy.drift import RateRule
from fraudkit.schema import FloatArray


@dataclass(frozen=True, slots=True)
class RateState:
    """The sums after the last window."""

    up: float = 0.0
    down: float = 0.0


@dataclass(frozen=True, slots=True)
class Said:
    """A sentence about a window, and its statistics."""

    message: str
    statistics: tuple[Statistic, ...]


@dataclass(frozen=True, slots=True)
class RateTrace:
    """The sums [n] after each row of a window, for people to look at."""

    up: FloatArray
    down: FloatArray


class Rate:
    """The rate of high numbers beside that of a reference.

    Args:
        name: What a high number is called: `suspicious`, `outlying`.
        subject: What it is a number of: `score`, `distance`.
        numbers: The numbers of the reference rows, [n].
        reference: The reference.
        share: Share of the reference rows that are high.
        rule: When the rate has changed.
    """

    def __init__(
        self,
        name: str,
        subject: str,
        numbers: NDArray[np.float32],
        reference: Reference,
        share: float,
        rule: RateRule,
    ) -> None:
        self.cut = np.quantile(numbers, 1.0 - share, method="higher")
        self.rates = _rates(numbers >= self.cut, reference, rule.shrink)
        self._name = name
        self._subject = subject
        self._rule = rule

    def read(
        self, numbers: NDArray[np.float32], hours: NDArray[np.int64], state: RateState
    ) -> tuple[Said, RateState, RateTrace]:
        """What the numbers [n > 0] of a window's rows say, in the order of their time.

        Sums do not begin a window beyond twice the threshold: once the rate is what it was, they come back.
        """
        rule = self._rule
        high, expected = numbers >= self.cut, self.rates[hours]
        most_likely = np.minimum(expected * rule.margin, 0.5)
        up = cusum.path(state.up, cusum.bernoulli_steps(high, most_likely, rule.factor))
        down = cusum.path(state.down, cusum.bernoulli_steps(high, expected / rule.margin, 1.0 / rule.factor))
        most = 2.0 * rule.threshold
        after = RateState(min(float(up[-1]), most), min(float(down[-1]), most))
        statistics = tuple(
            _statistic(f"{self._name}_{side}", self._subject, sums, rule.threshold)
            for side, sums in (("more", up), ("fewer", down))
        )
        message = f"{high.sum()} of {len(high):,} rows are {self._name}, {expected.sum():.1f} were expected"
        return Said(message, statistics), after, RateTrace(up, down)


def _rates(high: NDArray[np.bool_], reference: Reference, shrink: float) -> FloatArray:
    """The rate of each hour of day [24], drawn towards the day's; an hour without any is not a proof of none."""
    rows = reference.rows_by_hour
    hours = np.repeat(np.arange(HOURS), rows)
    day = high.mean()
    counts = np.bincount(hours[high], minlength=HOURS)
    rates = np.where(rows + shrink > 0, (counts + shrink * day) / np.maximum(rows + shrink, 1e-9), day)
    return np.asarray(np.clip(rates, 0.5 / len(high), 0.5))


def _statistic(name: str, subject: str, sums: FloatArray, threshold: float) -> Statistic:
    most = float(sums.max())
    return Statistic(name, subject, most, threshold, most > threshold)
