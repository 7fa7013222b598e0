"""Alert rate: how often the model finds a transaction suspicious, as cumulative sums up and down.

Feature tests hardly see what fraud teams care about: fraud that goes from .2 to 1 % moves no column's distribution
by much. The rate of high scores moves several fold. A jump alone is a warning that calls a person: it may be an
attack, and a model that is trained anew does not help.

The rate is that of scores at or above the reference's 99.5 % quantile, by hour of day, each hour drawn towards the
rate of the day by as many rows as `RateRule.shrink`. A base rate that is taken 10 % too low cuts the time between
false alarms to a fifth, so the sums assume it wrong by `RateRule.margin` in their disfavour.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from detectors import cusum
from detectors.channels import Level, Reading, Statistic
from detectors.reference import COLUMNS, HOURS, Reference
from fraudkit.schema import FloatArray

CHANNEL: Final = "alert_rate"
SHARE: Final = 0.005
"""Share of the reference that is suspicious."""
_SCORE: Final = COLUMNS.index("score")


class RateRule(BaseModel):
    """When the rate has changed.

    Attributes:
        threshold: A sum above this is a warning; in units of log likelihood.
        factor: Factor on the odds that the sums look for, up; down it is one over this.
        margin: By how much the base rate may be wrong, as a factor.
        shrink: Rows by which an hour's rate is drawn towards the day's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    threshold: Annotated[float, Field(gt=0)] = 10.0
    factor: Annotated[float, Field(gt=1)] = 2.5
    margin: Annotated[float, Field(ge=1)] = 1.1
    shrink: Annotated[float, Field(ge=0)] = 5_000.0


@dataclass(frozen=True, slots=True)
class RateState:
    """The sums after the last window."""

    up: float = 0.0
    down: float = 0.0


@dataclass(frozen=True, slots=True)
class RateTrace:
    """The sums [n] after each row of a window, for people to look at."""

    up: FloatArray
    down: FloatArray


class AlertRate:
    """The channel of one model."""

    def __init__(self, reference: Reference, rule: RateRule) -> None:
        scores = reference.values[:, _SCORE]
        self.cut = float(np.quantile(scores, 1.0 - SHARE, method="higher"))
        hours = np.repeat(np.arange(HOURS), reference.rows_by_hour)
        high = np.bincount(hours[scores >= self.cut], minlength=HOURS)
        day = high.sum() / len(scores)
        self.rates = (high + rule.shrink * day) / np.maximum(reference.rows_by_hour + rule.shrink, 1e-9)
        if rule.shrink == 0:
            self.rates = np.where(reference.rows_by_hour > 0, self.rates, day)
        self.rates = np.clip(self.rates, 0.5 / len(scores), 1.0 - SHARE)  # an hour without any is not a proof
        self._rule = rule

    def read(
        self, scores: FloatArray, hours: NDArray[np.int64], state: RateState
    ) -> tuple[Reading, RateState, RateTrace]:
        """What the scores [n] (log odds) of a window's rows say, in the order of their time.

        Sums do not grow beyond twice the threshold: once the rate is what it was, they come back.
        """
        rule = self._rule
        # In the reference's precision: a score that is the cut is at the cut.
        high = scores.astype(np.float32) >= np.float32(self.cut)
        expected = self.rates[hours]
        up = cusum.path(
            state.up, cusum.bernoulli_steps(high, np.minimum(expected * rule.margin, 0.5), rule.factor)
        )
        down = cusum.path(state.down, cusum.bernoulli_steps(high, expected / rule.margin, 1.0 / rule.factor))
        trace = RateTrace(up, down)
        if not len(scores):
            return Reading(CHANNEL, Level.INSUFFICIENT_DATA, "no row was scored by this model"), state, trace
        most = 2.0 * rule.threshold
        after = RateState(min(float(up[-1]), most), min(float(down[-1]), most))
        return self._reading(trace, int(high.sum()), float(expected.sum()), len(scores)), after, trace

    def _reading(self, trace: RateTrace, high: int, expected: float, rows: int) -> Reading:
        statistics = tuple(
            Statistic(f"cusum_{name}", "score", float(sums.max()), self._rule.threshold, beyond)
            for name, sums in (("up", trace.up), ("down", trace.down))
            for beyond in (bool(sums.max() > self._rule.threshold),)
        )
        ordered = tuple(sorted(statistics, key=lambda statistic: -statistic.value))
        first = ordered[0]
        side = "above" if first.beyond else "not above"
        message = (
            f"{high} of {rows:,} rows are suspicious, {expected:.1f} were expected; "
            f"{first.name} {first.value:.1f}, {side} {first.threshold:g}"
        )
        return Reading(CHANNEL, Level.WARNING if first.beyond else Level.STABLE, message, ordered)
