"""One pass over the data: counts, identity, duplicates, statistics by class, and a sample by class to look at.

All of it merges, in any order of the shards, to the same numbers as one pass.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fraudkit.errors import InvalidInput
from fraudkit.schema import LABEL, FloatArray, hour_of_day
from pipelines.data.rowhash import Hashes, below, keyed
from pipelines.data.sampling import BottomK
from pipelines.data.sources import COLUMNS, Block

SAMPLE_PER_CLASS: Final = 20_000
"""Rows of each class that the profile's distributions and the leakage lint look at."""
EXACT_ROWS: Final = 1 << 25
"""Rows up to which duplicates are counted exactly."""
_WORD: Final = (1 << 64) - 1
_NONE: Final[Hashes] = np.empty(0, dtype=np.uint64)
_COUNTS: Final = "scan.npz"
_DUPLICATES: Final = "duplicates.npz"
_SAMPLES: Final = ("sample-legitimate.npz", "sample-fraud.npz")


@dataclass(frozen=True, slots=True)
class Moments:
    """Count, mean, sum of squared deviations, minimum and maximum of each input; arrays [30]."""

    count: int
    mean: FloatArray
    squares: FloatArray
    minimum: FloatArray
    maximum: FloatArray

    @classmethod
    def of(cls, columns: FloatArray) -> Moments:
        """The moments of `columns` [30, n]."""
        if not columns.shape[1]:
            zero = np.zeros(len(columns))
            return cls(0, zero, zero, zero + np.inf, zero - np.inf)
        mean = columns.mean(axis=1)
        squares = np.square(columns - mean[:, None]).sum(axis=1)
        return cls(columns.shape[1], mean, squares, columns.min(axis=1), columns.max(axis=1))

    def __add__(self, other: Moments) -> Moments:
        """Chan's update of two disjoint parts."""
        count = self.count + other.count
        if not count:
            return self
        delta = other.mean - self.mean
        return Moments(
            count,
            self.mean + delta * (other.count / count),
            self.squares + other.squares + np.square(delta) * (self.count * other.count / count),
            np.minimum(self.minimum, other.minimum),
            np.maximum(self.maximum, other.maximum),
        )

    @property
    def arrays(self) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """All but the count."""
        return self.mean, self.squares, self.minimum, self.maximum

    @property
    def deviation(self) -> FloatArray:
        """Sample standard deviation [30]."""
        deviation: FloatArray = np.sqrt(self.squares / max(self.count - 1, 1))
        return deviation


class DuplicateCounter:
    """Counts rows whose content was seen before.

    Exact up to `exact` rows; beyond, it looks at the share of all contents with the least hashes, and scales.
    """

    def __init__(self, exact: int = EXACT_ROWS) -> None:
        self.exact = exact
        self.share = 1.0
        self._hashes: list[Hashes] = []
        self._held = 0

    def add(self, content: Hashes) -> None:
        """Offer the content hashes [n] of some rows."""
        kept = keyed(content, "duplicates", 0)
        if self.share < 1.0:
            kept = kept[below(kept, self.share)]
        self._hashes.append(kept)
        self._held += kept.size
        self._shrink()

    def merge(self, other: DuplicateCounter) -> None:
        """Take the rows of another shard."""
        self.share = min(self.share, other.share)
        self._hashes += other._hashes
        self._hashes = [hashes[below(hashes, self.share)] if self.share < 1 else hashes for hashes in self._hashes]
        self._held = sum(hashes.size for hashes in self._hashes)
        self._shrink()

    def count(self) -> int:
        """Rows that repeat an earlier one."""
        if not self._held:
            return 0
        hashes = np.concatenate(self._hashes)
        self._hashes = [hashes]
        hashes.sort()
        return round(int((hashes[1:] == hashes[:-1]).sum()) / self.share)

    def _shrink(self) -> None:
        while self._held > self.exact:
            self.share /= 2
            self._hashes = [hashes[below(hashes, self.share)] for hashes in self._hashes]
            self._held = sum(hashes.size for hashes in self._hashes)

    def save(self, path: Path) -> None:
        """Write the state to `path`, an .npz file."""
        np.savez(path, hashes=np.concatenate([_NONE, *self._hashes]), share=self.share)

    def merge_saved(self, path: Path) -> None:
        """Take the rows of a counter that was saved."""
        other = DuplicateCounter(self.exact)
        with np.load(path, allow_pickle=False) as file:
            other.share, other._hashes = float(file["share"]), [file["hashes"]]
        self.merge(other)


class Scan:
    """What a pass over the blocks learns.

    Attributes:
        hours: Rows by class and hour of day [2, 24].
        samples: A sample of each class, legitimate first.
        duplicates: The counter of repeated rows.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.hours: NDArray[np.int64] = np.zeros((2, 24), dtype=np.int64)
        self.samples = [BottomK(SAMPLE_PER_CLASS, len(COLUMNS)) for _ in range(2)]
        self.duplicates = DuplicateCounter()
        self._sums = [0, 0]
        self._moments: dict[int, tuple[Moments, Moments]] = {}

    def add(self, block: Block, content: Hashes) -> None:
        """Take in a block and the content hashes [n] of its rows."""
        order = keyed(content, "sample", self.seed)
        moments = []
        for label in (0, 1):
            of_class = block.labels == label
            part = block.columns[:, of_class]
            moments.append(Moments.of(part[:-1]))
            self.hours[label] += np.bincount(hour_of_day(part[0]), minlength=24)
            self.samples[label].add(order[of_class], part)
        self._moments[block.first_row] = (moments[0], moments[1])
        self.duplicates.add(content)
        for i, purpose in enumerate(("identity-1", "identity-2")):
            self._sums[i] = (self._sums[i] + int(keyed(content, purpose, 0).sum(dtype=np.uint64))) & _WORD

    def merge(self, other: Scan) -> None:
        """Take in the scan of another shard; its blocks must be others."""
        self.hours += other.hours
        for mine, theirs in zip(self.samples, other.samples, strict=True):
            mine.merge(theirs)
        self.duplicates.merge(other.duplicates)
        self._moments |= other._moments
        self._sums = [(a + b) & _WORD for a, b in zip(self._sums, other._sums, strict=True)]

    def save(self, folder: Path) -> None:
        """Write all of it into `folder`."""
        numbers = sorted(self._moments)
        pairs = [self._moments[number] for number in numbers]
        np.savez(
            folder / _COUNTS,
            hours=self.hours,
            sums=np.array(self._sums, dtype=np.uint64),
            blocks=np.array(numbers, dtype=np.int64),
            rows=np.array([[of_class.count for of_class in pair] for pair in pairs]).reshape(-1, 2),
            moments=np.array([[of_class.arrays for of_class in pair] for pair in pairs]).reshape(
                -1, 2, 4, len(COLUMNS) - 1
            ),
        )
        self.duplicates.save(folder / _DUPLICATES)
        for sample, name in zip(self.samples, _SAMPLES, strict=True):
            sample.save(folder / name)

    def merge_saved(self, folder: Path) -> None:
        """Take in the scan of another shard that was saved."""
        with np.load(folder / _COUNTS, allow_pickle=False) as file:
            self.hours += file["hours"]
            self._sums = [(a + int(b)) & _WORD for a, b in zip(self._sums, file["sums"], strict=True)]
            for number, rows, moments in zip(file["blocks"], file["rows"], file["moments"], strict=True):
                legitimate, fraud = (Moments(int(n), *arrays) for n, arrays in zip(rows, moments, strict=True))
                self._moments[int(number)] = legitimate, fraud
        self.duplicates.merge_saved(folder / _DUPLICATES)
        for sample, name in zip(self.samples, _SAMPLES, strict=True):
            sample.merge_saved(folder / name)

    @property
    def blocks(self) -> list[int]:
        """Numbers of the blocks' first rows, rising."""
        return sorted(self._moments)

    @property
    def counts(self) -> tuple[int, int]:
        """Legitimate rows, frauds."""
        return int(self.hours[0].sum()), int(self.hours[1].sum())

    @property
    def rows(self) -> int:
        """All rows."""
        return sum(self.counts)

    def moments(self) -> tuple[Moments, Moments]:
        """Moments of the legitimate rows and of the frauds, summed in the order of the rows."""
        legitimate = fraud = Moments.of(np.empty((len(COLUMNS) - 1, 0)))
        for _, (of_legitimate, of_fraud) in sorted(self._moments.items()):
            legitimate, fraud = legitimate + of_legitimate, fraud + of_fraud
        return legitimate, fraud

    def time_span(self) -> tuple[float, float]:
        """Least and greatest Time in seconds."""
        legitimate, fraud = self.moments()
        return (
            float(min(legitimate.minimum[0], fraud.minimum[0])),
            float(max(legitimate.maximum[0], fraud.maximum[0])),
        )

    def identity(self) -> str:
        """64 hex digits that name the data set by content: the same rows in any order, file or format."""
        text = f"{COLUMNS}|{self.counts}|{self._sums}"
        return hashlib.sha256(text.encode()).hexdigest()

    def require_both_classes(self, uri: str) -> None:
        """Raise InvalidInput when there are no frauds or no legitimate rows."""
        for count, name in zip(self.counts, ("0 (legitimate)", "1 (fraud)"), strict=True):
            if not count:
                raise InvalidInput(f"{uri}: column {LABEL} has no {name} row; both classes are needed")
