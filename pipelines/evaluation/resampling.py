"""AUPRC and ROC AUC with 95 % intervals, by a bootstrap that never touches a row twice.

Both depend on a legitimate row only through the frauds that rank above it. With the m distinct scores of the
frauds in descending order, legitimate rows fall into 2m + 1 cells: above the first, equal to it, between it and
the second, …, below the last. To resample rows within each class is to draw the counts of these cells from a
multinomial, which is exact and costs thousands of numbers instead of millions of rows. Two scores of the same
rows are resampled together by the cells that they fall into jointly.

Where that is still too many cells there are also many frauds, and the bootstrap's own limit takes its place:
the normal interval by the infinitesimal jackknife (Efron 1982; for ROC AUC it is DeLong's of 1988).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fraudkit.errors import InvalidInput
from fraudkit.estimate import Estimate, Z

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Labels = NDArray[np.integer[Any]]
Counts = tuple[IntArray, IntArray]
"""Frauds by distinct score, highest first [..., m], and legitimate rows by cell [..., 2m + 1]."""

REPLICATES: Final = 2_000

_MOST_CELLS: Final = 10_000  # 2,000 replicates of so many take a second
_MOST_PAIRS: Final = 2**22  # cells of two scores that are looked through for occupied ones: 32 MiB of counts
_CHUNK: Final = 2_000_000  # counts held at a time: 16 MB


@dataclass(frozen=True, slots=True)
class Ranking:
    """Where the rows stand under one score.

    Attributes:
        values: Distinct scores of the frauds, descending, [m].
        fraud: Of each fraud, the index of its score in `values`, [frauds].
        legit: Of each legitimate row, its cell: 2j between values j − 1 and j, 2j + 1 equal to j, [legit].
    """

    values: FloatArray
    fraud: IntArray
    legit: IntArray

    def counts(self) -> Counts:
        """The rows counted."""
        m = self.values.size
        return np.bincount(self.fraud, minlength=m), np.bincount(self.legit, minlength=2 * m + 1)


def rank(y: Labels, score: FloatArray) -> Ranking:
    """Rank rows by a score. y: 0 or 1, [n]; score: finite, higher is more suspicious, [n]."""
    frauds = y == 1
    ascending, index = np.unique(score[frauds], return_inverse=True)
    legit = score[~frauds]
    not_above = np.searchsorted(ascending, legit, side="right")
    equal = ascending[np.maximum(not_above - 1, 0)] == legit
    return Ranking(ascending[::-1], ascending.size - 1 - index, 2 * (ascending.size - not_above) + equal)


def check_scored(y: Labels, *scores: FloatArray, legit_weight: float = 1.0) -> None:
    """Refuse labels, scores or a weight that no metric can be computed from.

    Raises:
        InvalidInput: Different lengths, labels other than 0 and 1, a score that is not finite, a class without
            rows, or a weight that is not a positive number.
    """
    if y.ndim != 1 or any(score.shape != y.shape for score in scores):
        shapes = ", ".join(str(array.shape) for array in (y, *scores))
        raise InvalidInput(f"labels and scores must be vectors of one length, got shapes {shapes}")
    frauds, legit = np.count_nonzero(y == 1), np.count_nonzero(y == 0)
    if frauds + legit != y.size:
        raise InvalidInput(f"{y.size - frauds - legit:,} of {y.size:,} labels are neither 0 nor 1")
    for count, missing in ((frauds, "fraud (class 1)"), (legit, "legitimate (class 0)")):
        if not count:
            raise InvalidInput(f"none of the {y.size:,} rows is {missing}: metrics need both classes")
    if not all(np.isfinite(score).all() for score in scores):
        raise InvalidInput("scores must be finite numbers")
    if not (math.isfinite(legit_weight) and legit_weight > 0):
        raise InvalidInput(f"the weight of a legitimate row must be a positive number, got {legit_weight}")


def average_precision(y: Labels, score: FloatArray, legit_weight: float = 1.0) -> float:
    """AUPRC as average precision: Σ (Rᵢ − Rᵢ₋₁)·Pᵢ over distinct scores, ties in one step.

    Args:
        y: 1 fraud, 0 legitimate, [n].
        score: Higher is more suspicious, [n].
        legit_weight: Weight of each legitimate row; frauds weigh 1.

    Returns:
        What scikit-learn's `average_precision_score` returns with these sample weights.
    """
    check_scored(y, score, legit_weight=legit_weight)
    return float(_average_precision(rank(y, score).counts(), legit_weight))


def roc_auc(y: Labels, score: FloatArray) -> float:
    """ROC AUC: how often a fraud outranks a legitimate row, a tie counting half. Shapes [n], [n]."""
    check_scored(y, score)
    return float(_roc_auc(rank(y, score).counts()))


def ranking_estimates(
    y: Labels, score: FloatArray, legit_weight: float = 1.0, *, replicates: int = REPLICATES, seed: int = 0
) -> tuple[Estimate, Estimate]:
    """AUPRC and ROC AUC with their intervals: percentile bootstrap, resampled within each class.

    In simulations at 95 frauds and weight 1 the interval of AUPRC holds the truth in 89 to 96 % of cases. With few
    legitimate rows that weigh much it is optimistic (weight 10: 82 to 89 %, weight 60: half), because AUPRC itself
    is then biased upwards; the paired difference keeps 92 to 95 % and 80 to 92 %.

    Args:
        y: 1 fraud, 0 legitimate, [n].
        score: Higher is more suspicious, [n].
        legit_weight: Weight of each legitimate row in AUPRC; ROC AUC does not depend on it.
        replicates: Number of bootstrap samples.
        seed: The same seed gives the same interval.
    """
    check_scored(y, score, legit_weight=legit_weight)
    first, second = _estimates([rank(y, score)], [_auprc(legit_weight), _ROC_AUC], replicates, seed)
    return first, second


def paired_auprc(
    y: Labels,
    score_a: FloatArray,
    score_b: FloatArray,
    legit_weight: float = 1.0,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Estimate:
    """AUPRC of b less AUPRC of a on the same rows: positive says that b is better.

    Paired percentile bootstrap: each replicate draws rows, within each class, with both their scores.

    Args:
        y: 1 fraud, 0 legitimate, [n].
        score_a: Scores of the one model, the champion say, [n].
        score_b: Scores of the other, [n].
        legit_weight: Weight of each legitimate row; frauds weigh 1.
        replicates: Number of bootstrap samples.
        seed: The same seed gives the same interval.
    """
    check_scored(y, score_a, score_b, legit_weight=legit_weight)
    rankings = [rank(y, score_a), rank(y, score_b)]
    return _estimates(rankings, [_auprc(legit_weight)], replicates, seed, signs=(-1, 1))[0]


@dataclass(frozen=True, slots=True)
class _Metric:
    """A metric of counts [..., cells], and its derivative by the weight of one row of each cell."""

    value: Callable[[Counts], FloatArray]
    influence: Callable[[Counts], tuple[FloatArray, FloatArray]]


def _estimates(
    rankings: Sequence[Ranking],
    metrics: Sequence[_Metric],
    replicates: int,
    seed: int,
    signs: tuple[int, ...] = (1,),
) -> list[Estimate]:
    """Estimates of Σ sign·metric over the rankings, one for each metric."""
    counts = [ranking.counts() for ranking in rankings]
    values = [_signed(metric, counts, signs) for metric in metrics]
    frauds = _join([r.fraud for r in rankings], [r.values.size for r in rankings])
    legit = _join([r.legit for r in rankings], [2 * r.values.size + 1 for r in rankings])
    if frauds and legit and frauds.counts.size + legit.counts.size <= _MOST_CELLS:
        draws = [
            [_signed(metric, drawn, signs) for metric in metrics]
            for drawn in _replicates(frauds, legit, replicates, seed)
        ]
        bounds = np.quantile(np.concatenate(draws, axis=1), [0.025, 0.975], axis=1)
    else:
        errors = np.array([_standard_error(metric, counts, rankings, signs) for metric in metrics])
        bounds = np.stack([np.ravel(values) - Z * errors, np.ravel(values) + Z * errors])
    least = 0.0 if min(signs) > 0 else -1.0
    return [
        # A percentile interval may miss its own estimate by a little; it is stretched to hold it.
        Estimate(float(value), max(least, min(float(low), float(value))), min(1.0, max(float(high), float(value))))
        for value, low, high in zip(values, *bounds, strict=True)
    ]


def _signed(metric: _Metric, counts: Sequence[Counts], signs: tuple[int, ...]) -> FloatArray:
    terms = [sign * metric.value(each) for sign, each in zip(signs, counts, strict=True)]
    return np.asarray(np.sum(terms, axis=0))


def _standard_error(
    metric: _Metric, counts: Sequence[Counts], rankings: Sequence[Ranking], signs: tuple[int, ...]
) -> float:
    """Infinitesimal jackknife within class: the standard deviation that endless replicates would have."""
    by_fraud: FloatArray = np.zeros(rankings[0].fraud.size)
    by_legit: FloatArray = np.zeros(rankings[0].legit.size)
    for sign, each, ranking in zip(signs, counts, rankings, strict=True):
        of_fraud, of_cell = metric.influence(each)
        by_fraud += sign * of_fraud[ranking.fraud]
        by_legit += sign * of_cell[ranking.legit]
    return math.sqrt(by_fraud.size * by_fraud.var() + by_legit.size * by_legit.var())


@dataclass(frozen=True, slots=True)
class _Joint:
    """The rows of one class by the cells that they share under every score.

    Attributes:
        counts: Rows of each occupied joint cell, [j].
        cells: Per score, the cell that each joint cell lies in, [j].
        sizes: Per score, how many cells there are.
    """

    counts: IntArray
    cells: tuple[IntArray, ...]
    sizes: tuple[int, ...]

    def draw(self, rng: np.random.Generator, replicates: int) -> list[IntArray]:
        """Resampled counts per score, [replicates, size]."""
        total = int(self.counts.sum())
        drawn = rng.multinomial(total, self.counts / total, size=replicates)
        return [_marginal(drawn, cell, size) for cell, size in zip(self.cells, self.sizes, strict=True)]


def _join(cells: Sequence[IntArray], sizes: Sequence[int]) -> _Joint | None:
    """Count the joint cells; None where there may be too many to look through."""
    shape = tuple(sizes)
    if math.prod(shape) > _MOST_PAIRS:
        return None
    counts = np.bincount(np.ravel_multi_index(tuple(cells), shape))
    occupied = np.flatnonzero(counts)
    return _Joint(counts[occupied], tuple(np.unravel_index(occupied, shape)), shape)


def _marginal(counts: IntArray, cell: IntArray, size: int) -> IntArray:
    """Sum the columns of counts [r, j] that lie in the same cell; [r, size]."""
    order = np.argsort(cell, kind="stable")
    occupied, starts = np.unique(cell[order], return_index=True)
    out = np.zeros((len(counts), size), dtype=np.int64)
    out[:, occupied] = np.add.reduceat(counts[:, order], starts, axis=1)
    return out


def _replicates(frauds: _Joint, legit: _Joint, replicates: int, seed: int) -> Iterator[list[Counts]]:
    """Bootstrap samples in chunks: per score, counts with one row a replicate."""
    rng = np.random.default_rng(seed)
    chunk = max(1, _CHUNK // (frauds.counts.size + legit.counts.size))
    for start in range(0, replicates, chunk):
        n = min(chunk, replicates - start)
        yield list(zip(frauds.draw(rng, n), legit.draw(rng, n), strict=True))


def _average_precision(counts: Counts, legit_weight: float) -> FloatArray:
    frauds, legit = counts
    hits = np.cumsum(frauds, axis=-1)
    alerted = hits + legit_weight * np.cumsum(legit, axis=-1)[..., 1::2]
    # Only steps with a fraud count, and there `hits` is at least 1: the guard touches steps without.
    area = np.sum(frauds * (hits / np.maximum(alerted, 1.0)), axis=-1)
    return np.asarray(area / hits[..., -1])


def _average_precision_influence(counts: Counts, legit_weight: float) -> tuple[FloatArray, FloatArray]:
    frauds, legit = counts
    hits = np.cumsum(frauds)
    false = legit_weight * np.cumsum(legit)[1::2]
    step = frauds / hits[-1] / (hits + false) ** 2
    # A row moves the precision of its own step and of every step below it.
    of_fraud = hits / (hits + false) / hits[-1] + np.cumsum((step * false)[::-1])[::-1]
    below = np.append(np.cumsum((step * hits)[::-1])[::-1], 0.0)
    return of_fraud, -legit_weight * np.repeat(below, 2)[: legit.size]


def _roc_auc(counts: Counts) -> FloatArray:
    frauds, legit = counts
    return np.asarray(np.sum(frauds * _share_below(legit), axis=-1) / np.sum(frauds, axis=-1))


def _roc_auc_influence(counts: Counts) -> tuple[FloatArray, FloatArray]:
    frauds, legit = counts
    hits = np.cumsum(frauds)
    of_cell = np.zeros(legit.size)
    of_cell[1::2] = hits - frauds / 2
    of_cell[2::2] = hits
    return _share_below(legit) / hits[-1], of_cell / hits[-1] / legit.sum()


def _share_below(legit: IntArray) -> FloatArray:
    """Share of legitimate rows below each fraud's score, those equal to it by half; [..., m]."""
    seen = np.cumsum(legit, axis=-1)
    share: FloatArray = 1.0 - (seen[..., :-1:2] + seen[..., 1::2]) / (2.0 * seen[..., -1:])
    return share


def _auprc(legit_weight: float) -> _Metric:
    return _Metric(
        lambda counts: _average_precision(counts, legit_weight),
        lambda counts: _average_precision_influence(counts, legit_weight),
    )


_ROC_AUC: Final = _Metric(_roc_auc, _roc_auc_influence)
