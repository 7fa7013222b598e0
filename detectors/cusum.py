"""Cumulative sums (Page, 1954): evidence that adds up over rows and windows, and is never below zero.

    S(t) = max(0, S(t-1) + step(t)),   alarm when S > h

A step is the log likelihood ratio of what was seen, changed against unchanged. The sum is carried from one stretch
of rows to the next, so that it does not matter where they are cut.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fraudkit.schema import FloatArray


def path(start: float, steps: FloatArray) -> FloatArray:
    """The sum [n] after each of `steps` [n], from `start` ≥ 0 on."""
    total = np.cumsum(steps)
    # It is the plain sum, lifted by as much as that has been below zero so far.
    lift = np.maximum(start, -np.minimum.accumulate(total)) if len(steps) else total
    return np.asarray(total + lift)


def bernoulli_steps(seen: NDArray[np.bool_], expected: FloatArray, factor: float) -> FloatArray:
    """Steps [n] for events `seen` [n] of probability `expected` [n], against odds that are `factor` times as high.

    Args:
        seen: Whether each row is an event.
        expected: Probability of the event in each row while nothing has changed, in (0, 1).
        factor: Factor on the odds after the change, > 0; below 1 for a fall.
    """
    # With odds o·f against o: an event weighs log f, and every row log((1 + o) / (1 + o·f)).
    change = -np.log1p(expected * (factor - 1.0))
    return np.asarray(np.where(seen, np.log(factor), 0.0) + change)
