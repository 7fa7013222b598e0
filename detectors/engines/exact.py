"""Engine `scipy`: the exact KS distance on reference values that were sorted once, and scipy's p-value."""

from __future__ import annotations

import numpy as np
from scipy.stats import kstwo

from detectors.engines import Tested
from detectors.reference import Matched, Reference, Values, check_window


class ExactEngine:
    """The distances are those of all window rows against all matched rows; nothing is binned."""

    def __init__(self, reference: Reference) -> None:
        self._reference = reference

    def test(self, values: Values, matched: Matched) -> Tested:
        """See `Engine`."""
        check_window(values)
        columns = np.sort(values.T, axis=1)
        parts = self._reference.ascending(matched)
        distances = np.array([_distance(*pair, matched.rows) for pair in zip(columns, parts, strict=True)])
        m, n = float(len(values)), float(matched.rows)
        return Tested(distances, kstwo.sf(distances, np.round(m * n / (m + n))))


def _distance(window: Values, parts: list[Values], rows: int) -> float:
    """Largest distance between the distributions of an ascending window [m] and of `rows` reference values.

    Between two values of the window only the reference grows: the distance is largest at a value, or just below.
    """
    steps = np.arange(len(window) + 1) / len(window)
    up_to = np.zeros(len(window), dtype=np.int64)
    below = np.zeros(len(window), dtype=np.int64)
    for part in parts:
        up_to += np.searchsorted(part, window, side="right")
        below += np.searchsorted(part, window, side="left")
    above = (steps[1:] - up_to / rows).max()
    return float(max(above, (below / rows - steps[:-1]).max()))
