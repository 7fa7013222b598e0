"""Inputs and score, slow: a day's windows merged, against small changes that no window of its own shows.

Of a day's hundred thousand rows every departure is significant, so drift has to be significant and large enough to
matter. Two tests of fifty bins see it: χ² any change of shape, and D, the largest difference of cumulative shares,
a shift. D is also the effect.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from detectors.channels import Level, Reading, Statistic
from detectors.distinct import Sketch, empty, estimate
from detectors.histograms import BINS, Counts, Histograms
from detectors.reference import COLUMNS, HOURS
from fraudkit.policy.drift import SlowRule

CHANNEL: Final = "inputs_slow"
_REPEATS: Final = 1.15
"""Rows per different row up to which they are taken as all different: the sketch is not more precise."""


@dataclass(frozen=True, slots=True, eq=False)
class SlowState:
    """A day so far: its number, its counts [30, 50], its rows by hour [24], and a sketch of how many differ."""

    number: int
    counts: Counts
    hours: NDArray[np.int64]
    rows: Sketch

    @classmethod
    def empty(cls, number: int) -> SlowState:
        """A day that begins."""
        return cls(
            number, np.zeros((len(COLUMNS), BINS), dtype=np.int64), np.zeros(HOURS, dtype=np.int64), empty()
        )

    def add(self, counts: Counts, hours: NDArray[np.int64], rows: Sketch) -> SlowState:
        """With another window's."""
        return SlowState(self.number, self.counts + counts, self.hours + hours, np.maximum(self.rows, rows))


def read(day: SlowState, histograms: Histograms, rule: SlowRule) -> Reading:
    """What the merged windows of a day say."""
    from scipy.stats import chi2, kstwobign

    rows = int(day.hours.sum())
    if rows < rule.least:
        return Reading(CHANNEL, Level.INSUFFICIENT_DATA, f"the day had {rows:,} rows, {rule.least:,} are needed")
    # Rows that came more than once, in this window or that, are as uncertain as they were the first time.
    repeats = max(rows / max(estimate(day.rows), 1.0), 1.0)
    expected, variance = histograms.expected(day.hours, repeats if repeats > _REPEATS else 1.0)
    departure = day.counts - expected
    squares = np.divide(departure**2, variance, out=np.zeros_like(departure), where=variance > 0)
    degrees = np.maximum((variance > 0).sum(axis=1) - 1, 1)
    effects = np.abs(np.cumsum(departure, axis=1)).max(axis=1) / rows
    # As many rows beside a reference that is known exactly would be as informative.
    effective = rows**2 / variance.sum(axis=1)
    tests = {
        "p_value_chi2": chi2.sf(squares.sum(axis=1), degrees),
        "p_value_d": kstwobign.sf(effects * np.sqrt(effective)),
    }
    level = rule.alpha / (len(COLUMNS) * len(tests))
    drifted = (np.minimum(*tests.values()) < level) & (effects >= rule.min_effect)
    order = np.argsort(-effects, kind="stable")
    named = order[drifted[order]] if drifted.any() else order[:1]
    statistics = []
    for column in named.tolist():
        effect, name = float(effects[column]), COLUMNS[column]
        statistics.append(Statistic("effect", name, effect, rule.min_effect, effect >= rule.min_effect))
        for test, values in tests.items():
            statistics.append(Statistic(test, name, float(values[column]), level, bool(values[column] < level)))
    first = statistics[0]
    said = f"{first.subject}: D of the day {first.value:.3f}, {rule.min_effect:g} would matter"
    if drifted.any():
        said = f"{first.subject}: D of the day {first.value:.3f}, at least {rule.min_effect:g} and significant"
        if len(named) > 1:
            said += f" (and {len(named) - 1} more column{'s' if len(named) > 2 else ''})"
    return Reading(CHANNEL, Level.DRIFT if drifted.any() else Level.STABLE, said, tuple(statistics))
