"""Bottom-k samples: the k rows of least hash, in one pass and constant memory.

The result does not depend on the order, chunking or sharding of the rows; two samples merge by adding one to the
other. Rows of equal hash have equal content, so ties do not matter either.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fraudkit.schema import FloatArray
from pipelines.data.rowhash import Hashes

_SLACK: int = 16_384
"""Rows held beyond k before the sample is cut back, at least."""


class BottomK:
    """Keeps the `k` rows, of `width` numbers, of least hash."""

    def __init__(self, k: int, width: int) -> None:
        self.k = k
        self._width = width
        self._hashes: list[Hashes] = []
        self._rows: list[FloatArray] = []
        self._held = 0
        self._limit = np.uint64(2**64 - 1)

    def add(self, hashes: Hashes, columns: FloatArray) -> None:
        """Offer rows: `hashes` [n] and `columns` [width, n]."""
        chosen = np.flatnonzero(hashes <= self._limit)
        if chosen.size:
            self._keep(hashes[chosen], np.ascontiguousarray(columns[:, chosen].T))

    def merge(self, other: BottomK) -> None:
        """Take the rows of another shard's sample."""
        for hashes, rows in zip(other._hashes, other._rows, strict=True):
            self._keep(hashes, rows)

    def result(self) -> tuple[Hashes, FloatArray]:
        """The hashes [m] and rows [m, width] of the sample, by rising hash; m is at most k."""
        self._cut()
        if not self._hashes:
            return np.empty(0, dtype=np.uint64), np.empty((0, self._width))
        return self._hashes[0], self._rows[0]

    def save(self, path: Path) -> None:
        """Write the sample to `path`, an .npz file."""
        hashes, rows = self.result()
        np.savez(path, hashes=hashes, rows=rows)

    def merge_saved(self, path: Path) -> None:
        """Take the rows of a sample that was saved."""
        with np.load(path, allow_pickle=False) as file:
            self._keep(file["hashes"], file["rows"])

    def _keep(self, hashes: Hashes, rows: FloatArray) -> None:
        self._hashes.append(hashes)
        self._rows.append(rows)
        self._held += hashes.size
        if self._held > self.k + max(self.k // 2, _SLACK):
            self._cut()

    def _cut(self) -> None:
        """Bring what is held into one sorted part of at most k rows, without a second copy of all of it."""
        if not self._hashes:
            return
        hashes = np.concatenate(self._hashes)
        order = np.argsort(hashes, kind="stable")[: self.k]
        rows = np.empty((order.size, self._width))
        offset = 0
        for part in self._rows:
            places = np.flatnonzero((order >= offset) & (order < offset + len(part)))
            rows[places] = part[order[places] - offset]
            offset += len(part)
        self._hashes, self._rows = [hashes[order]], [rows]
        self._held = order.size
        if self._held == self.k:
            self._limit = self._hashes[0][-1]
