"""Inputs and score, fast: the p-values of a window's columns, three ways to be sure.

Drift is a column whose distribution differs surely in one window, surely in three pooled ones, or plainly in two
running ones. One rule alone is either slow to see small shifts or alarms falsely: with α .02 on every window of a
busy day there would be three false alarms.
"""

from __future__ import annotations

import numpy as np

from detectors.channels import Level, Reading, Statistic
from detectors.reference import COLUMNS
from fraudkit.policy.drift import FastRule
from fraudkit.schema import FloatArray

CHANNEL = "inputs"


def read(now: FloatArray, before: FloatArray | None, pooled: FloatArray | None, rule: FastRule) -> Reading:
    """What the p-values of `COLUMNS` say.

    Args:
        now: P-values [30] of this window.
        before: Those of the window before it, if it was tested.
        pooled: Those of this and the two windows before it as one, if they were tested.
        rule: The levels.

    Raises:
        ValueError: A p-value is not in [0, 1]: NaN would be below no level.
    """
    for values in (now, before, pooled):
        if values is not None and not (values.shape == (len(COLUMNS),) and ((values >= 0) & (values <= 1)).all()):
            raise ValueError("p-values are between 0 and 1, one for each column")
    checks = [("p_value", now, rule.once)]
    if before is not None:
        checks.append(("p_value_twice", np.maximum(now, before), rule.twice))
    if pooled is not None:
        checks.append(("p_value_pooled", pooled, rule.pooled))
    drift = [statistic for check in checks for statistic in _beyond(*check)]
    if drift:
        return _reading(Level.DRIFT, drift)
    warning = _beyond("p_value", now, rule.warning)
    if warning:
        return _reading(Level.WARNING, warning)
    nearest = [_statistic(name, int(values.argmin()), values, level) for name, values, level in checks]
    return _reading(Level.STABLE, nearest)


def _beyond(name: str, values: FloatArray, level: float) -> list[Statistic]:
    below = np.flatnonzero(values < level / len(COLUMNS))
    return [_statistic(name, int(column), values, level) for column in below]


def _statistic(name: str, column: int, values: FloatArray, level: float) -> Statistic:
    value, threshold = float(values[column]), level / len(COLUMNS)
    return Statistic(name, COLUMNS[column], value, threshold, value < threshold)


def _reading(level: Level, statistics: list[Statistic]) -> Reading:
    ordered = tuple(sorted(statistics, key=lambda statistic: statistic.value / statistic.threshold))
    first = ordered[0]
    said = "below" if first.beyond else "not below"
    message = f"{first.subject}: {_WORDS[first.name]} {first.value:.2g}, {said} {first.threshold:.2g}"
    others = len({statistic.subject for statistic in ordered if statistic.beyond} - {first.subject})
    if others:
        message += f" (and {others} more column{'s' if others > 1 else ''})"
    return Reading(CHANNEL, level, message, ordered)


_WORDS = {
    "p_value": "p in this window",
    "p_value_twice": "larger p of this window and the one before",
    "p_value_pooled": "p in three windows pooled",
}
