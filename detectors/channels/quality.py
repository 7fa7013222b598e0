"""Data quality: what is wrong with the data themselves, whatever their distribution.

It is a warning at most, and an event of its own: a model that is trained anew does not mend a broken pipeline.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from detectors.channels import Level, Reading, Statistic
from detectors.reference import COLUMNS, Reference, Values, distinct
from fraudkit.policy.drift import QualityRule
from fraudkit.schema import DRIFT_FEATURES, FloatArray

CHANNEL: Final = "data_quality"
_WIDTH: Final = len(DRIFT_FEATURES)


class Quality:
    """The channel of one model."""

    def __init__(self, reference: Reference, rule: QualityRule) -> None:
        self._rule = rule
        self._low = reference.values[:, :_WIDTH].min(axis=0)
        self._high = reference.values[:, :_WIDTH].max(axis=0)

    def read(self, values: Values, rejected: Sequence[tuple[str, int]]) -> Reading:
        """What is to be said of the rows [n, 30] of a window, and of its rejected rows by reason."""
        bad, good = sum(count for _, count in rejected), len(values)
        if not bad + good:
            return Reading(CHANNEL, Level.INSUFFICIENT_DATA, "the window has no rows")
        statistics = [
            *self._rejected(rejected, bad, good),
            *self._still(values),
            *self._outside(values),
            *self._repeated(values),
        ]
        beyond = [statistic for statistic in statistics if statistic.beyond]
        if not beyond:
            said = f"{bad:,} of {bad + good:,} rows were rejected; every column moves within its range"
            return Reading(CHANNEL, Level.STABLE, said, tuple(statistics[:1]))
        return Reading(CHANNEL, Level.WARNING, "; ".join(_words(one) for one in beyond[:3]), tuple(beyond))

    def _rejected(self, rejected: Sequence[tuple[str, int]], bad: int, good: int) -> list[Statistic]:
        limit = self._rule.rejected
        beyond = bad / (bad + good) > limit and _excess(bad, bad + good, limit) < self._rule.alpha
        reasons = sorted(rejected, key=lambda one: (-one[1], one[0]))
        return [
            Statistic("rejected_share", "all", bad / (bad + good), limit, beyond),
            *(Statistic("rejected_share", name, n / (bad + good), limit, beyond) for name, n in reasons if beyond),
        ]

    def _still(self, values: Values) -> list[Statistic]:
        if len(values) < self._rule.least:
            return []
        features = values[:, :_WIDTH]
        still = (features == features[0]).all(axis=0) & (self._low < self._high)
        return [Statistic("spread", COLUMNS[column], 0.0, 0.0, True) for column in np.flatnonzero(still)]

    def _repeated(self, values: Values) -> list[Statistic]:
        if len(values) < self._rule.least:
            return []
        share = 1.0 - len(distinct(values)) / len(values)
        limit = self._rule.repeated
        return [Statistic("repeated_share", "all", share, limit, True)] if share > limit else []

    def _outside(self, values: Values) -> list[Statistic]:
        if not len(values):
            return []
        features = values[:, :_WIDTH]
        outside: FloatArray = ((features < self._low) | (features > self._high)).sum(axis=0)
        limit, n = self._rule.outside, len(values)
        return [
            Statistic("outside_share", COLUMNS[column], float(outside[column]) / n, limit, True)
            for column in np.flatnonzero(outside > limit * n)
            if _excess(int(outside[column]), n, limit) < self._rule.alpha / _WIDTH
        ]


def _excess(count: int, of: int, share: float) -> float:
    """Probability of so many or more if `share` were true."""
    from scipy.stats import binom

    return float(binom.sf(count - 1, of, share))


def _words(statistic: Statistic) -> str:
    if statistic.name == "spread":
        return f"{statistic.subject} stands still"
    if statistic.name == "repeated_share":
        return f"{statistic.value:.1%} of rows are the same as an earlier one"
    if statistic.name == "outside_share":
        return f"{statistic.value:.1%} of {statistic.subject} are outside of what the reference has seen"
    what = "rows" if statistic.subject == "all" else f"rows ({statistic.subject})"
    return f"{statistic.value:.1%} of {what} were rejected, {statistic.threshold:.1%} may be"
