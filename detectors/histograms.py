"""Histograms of a window's columns beside those that the reference makes one expect at the same hours of day."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from detectors.reference import COLUMNS, HOURS, Reference, Values
from fraudkit.schema import FloatArray

BINS: Final = 50

Counts = NDArray[np.int64]
"""How many values of each of `COLUMNS` are in each bin: [30, 50]."""


class Histograms:
    """Fifty bins of equal count in the reference, for each column.

    Attributes:
        edges: Inner edges [30, 49]; a value equal to an edge is in the bin below it.
    """

    def __init__(self, reference: Reference) -> None:
        shares = np.arange(1, BINS) / BINS
        self.edges: Values = np.quantile(reference.values, shares, axis=0, method="lower").T.copy()
        hours = np.repeat(np.arange(HOURS), reference.rows_by_hour)
        self._by_hour = self._counts_by_hour(reference.values, hours)
        self._rows = reference.rows_by_hour
        self._by_time = reference.by_time

    def count(self, values: Values) -> Counts:
        """The counts of rows [n, 30] of `COLUMNS`."""
        counts = np.empty((len(COLUMNS), BINS), dtype=np.int64)
        for column, edges in enumerate(self.edges):
            counts[column] = np.bincount(np.searchsorted(edges, values[:, column]), minlength=BINS)
        return counts

    def expected(self, hours: NDArray[np.int64], repeats: float = 1.0) -> tuple[FloatArray, FloatArray]:
        """What is expected of rows of which so many, [24], are of each hour, and the variance of its departure.

        The variance [30, 50] is that of the rows and of the reference, which is a sample itself. Rows of hours
        that the reference does not have stand beside all of it where it was drawn without regard to time; else
        they cannot be held against it, and must not be among `hours`. Each row is taken to have come `repeats`
        times.
        """
        covered = self._rows > 0
        if not covered[hours > 0].all():
            if self._by_time:
                raise ValueError("hours that the reference does not cover cannot be expected")
            share = self._by_hour.sum(axis=0) / self._rows.sum()
            total = hours.sum()
            return share * total, share * (repeats * total + total**2 / self._rows.sum())
        present = np.flatnonzero(hours)
        counts, rows = hours[present, None, None], self._rows[present, None, None]
        shares = self._by_hour[present] / rows
        return (shares * counts).sum(axis=0), (shares * (repeats * counts + counts**2 / rows)).sum(axis=0)

    def _counts_by_hour(self, values: Values, hours: NDArray[np.int64]) -> Counts:
        by_hour = np.zeros((HOURS, len(COLUMNS), BINS), dtype=np.int64)
        for column, edges in enumerate(self.edges):
            places = hours * BINS + np.searchsorted(edges, values[:, column])
            by_hour[:, column] = np.bincount(places, minlength=HOURS * BINS).reshape(HOURS, BINS)
        return by_hour
