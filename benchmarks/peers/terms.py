"""The 31 terms of the model, for the peers; `fraudkit.scoring` has its own."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


def terms(rows: FloatArray) -> FloatArray:
    """The terms [n, 31] of rows [n, 30]: the hour of day as a cyclic pair, V1 … V28, log(1 + Amount)."""
    angle = rows[:, 0] // 3600 % 24 * (2 * np.pi / 24)
    return np.column_stack([np.sin(angle), np.cos(angle), rows[:, 1:29], np.log1p(rows[:, 29])])
