"""Bottom-k samples: the k rows of least hash, in one pass and constant memory.

The result does not depend on the order, chunking or sharding of the rows; two samples merge by adding one to the
other. Rows of equal hash have equal content, so ties do not matter either.
"""

from __future__ import annotations

import numpy as np

from fraudkit.schema import FloatArray
from pipelines.data.rowhash import Hashes


class BottomK:
    """Keeps the `k` rows of least hash.

    Attributes:
        seen: How many rows were offered.
    """

    def __init__(self, k: int, width: int) -> None:
        self.k = k
        self.seen = 0
        self._hashes: list[Hashes] = []
        self._columns: list[FloatArray] = []
        self._held = 0
        self._limit = np.uint64(2**64 - 1)
        self._width = width

    def add(self, hashes: Hashes, columns: FloatArray) -> None:
        """Offer rows: `hashes` [n] and `columns` [width, n]."""
        self.seen += hashes.size
        chosen = np.flatnonzero(hashes <= self._limit)
        if not chosen.size:
            return
        self._hashes.append(hashes[chosen])
        self._columns.append(columns[:, chosen])
        self._held += chosen.size
        if self._held > self.k + max(self.k // 2, 16_384):
            self._compact()

    def merge(self, other: BottomK) -> None:
        """Take the rows of another shard's sample."""
        for hashes, columns in zip(other._hashes, other._columns, strict=True):
            self.add(hashes, columns)
        self.seen += other.seen - other._held

    def result(self) -> tuple[Hashes, FloatArray]:
        """The hashes [m] and columns [width, m] of the sample, by rising hash; m is at most k."""
        self._compact()
        return (self._hashes[0], self._columns[0]) if self._hashes else _nothing(self._width)

    def _compact(self) -> None:
        if not self._hashes:
            return
        hashes = np.concatenate(self._hashes)
        order = np.argsort(hashes, kind="stable")[: self.k]
        columns = np.concatenate(self._columns, axis=1) if len(self._columns) > 1 else self._columns[0]
        self._hashes, self._columns = [hashes[order]], [columns[:, order]]
        self._held = order.size
        if self._held == self.k:
            self._limit = self._hashes[0][-1]


def _nothing(width: int) -> tuple[Hashes, FloatArray]:
    return np.empty(0, dtype=np.uint64), np.empty((width, 0))
