"""How good a model is, with 95 % intervals: on the balanced test set, and at the natural rate.

Every number is a finite Python float, ready for JSON. Intervals take the number of frauds and of legitimate rows
as given, as the stratified bootstrap does. A proportion without rows (the precision of no alert) is 0 with the
interval from 0 to 1: nothing is known of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fraudkit.errors import InvalidInput
from fraudkit.estimate import Estimate, Z, wilson
from pipelines.evaluation.resampling import (
    REPLICATES,
    FloatArray,
    Labels,
    check_scored,
    rank,
    ranking_estimates,
)
from pipelines.evaluation.resampling import average_precision as average_precision
from pipelines.evaluation.resampling import paired_auprc as paired_auprc
from pipelines.evaluation.resampling import roc_auc as roc_auc

CURVE_POINTS: Final = 200
"""Most points of a curve."""
RELIABILITY_EDGES: Final = (1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97)
"""Where the bins of predicted probability meet; even in log odds, because frauds are rare."""
_CLIP: Final = 1e-15  # a probability of exactly 0 or 1 would make log loss infinite


@dataclass(frozen=True, slots=True)
class BalancedMetrics:
    """The field's usual table: classes 1 : 1, probabilities not corrected to the natural rate, cut at 0.5.

    Attributes:
        rows: Rows of the test set.
        cut: A row is called fraud from this probability.
        accuracy: Share of rows called right.
        precision: Share of frauds among the rows called fraud.
        recall: Share of frauds called fraud.
        f1: Harmonic mean of precision and recall.
        roc_auc: How often a fraud outranks a legitimate row, from the probabilities.
        confusion_matrix: ((tn, fp), (fn, tp)).
    """

    rows: int
    cut: float
    accuracy: Estimate
    precision: Estimate
    recall: Estimate
    f1: Estimate
    roc_auc: Estimate
    confusion_matrix: tuple[tuple[int, int], tuple[int, int]]

    def to_json(self) -> dict[str, object]:
        """The object that `json.dumps` takes."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Reliability:
    """Predicted against observed frauds by bin of probability (`RELIABILITY_EDGES`); empty bins are left out.

    Attributes:
        rows: Rows of each bin, not weighted.
        expected: Mean predicted probability of each bin.
        observed: Share of frauds of each bin.
    """

    rows: tuple[int, ...]
    expected: tuple[float, ...]
    observed: tuple[Estimate, ...]


@dataclass(frozen=True, slots=True)
class NaturalMetrics:
    """What a model is worth on traffic at the natural rate.

    Attributes:
        rows: Rows of the holdout.
        frauds: Frauds among them.
        natural_rate: Share of frauds that the metrics are read at: frauds / (frauds + legit_weight · legitimate).
        auprc: Average precision.
        roc_auc: From the probabilities.
        precision: Share of frauds among rows with probability ≥ review.
        recall: Share of frauds with probability ≥ review.
        alert_rate: Share of rows with probability ≥ review.
        block_precision: The same three at the threshold `block`.
        block_recall: …
        block_rate: …
        precision_at_k: Share of frauds among the k most suspicious rows; a k beyond the rows reads them all.
        brier: Mean squared error of the probability.
        log_loss: Mean of −log of the probability given to what happened, clipped at 1e-15; natural logarithm.
        calibration: Observed over expected frauds.
        cost_per_thousand: Expected cost of a thousand transactions, in the unit of the costs.
        reliability: Observed against expected by bin.
    """

    rows: int
    frauds: int
    natural_rate: float
    auprc: Estimate
    roc_auc: Estimate
    precision: Estimate
    recall: Estimate
    alert_rate: Estimate
    block_precision: Estimate
    block_recall: Estimate
    block_rate: Estimate
    precision_at_k: dict[int, Estimate]
    brier: Estimate
    log_loss: Estimate
    calibration: Estimate
    cost_per_thousand: Estimate
    reliability: Reliability

    def to_json(self) -> dict[str, object]:
        """The object that `json.dumps` takes; keys of `precision_at_k` are text there."""
        by_k = {str(k): asdict(estimate) for k, estimate in self.precision_at_k.items()}
        return asdict(self) | {"precision_at_k": by_k}


@dataclass(frozen=True, slots=True)
class RocCurve:
    """Points of the ROC curve, thresholds descending, from (0, 0) to (1, 1); all finite."""

    fpr: tuple[float, ...]
    tpr: tuple[float, ...]
    thresholds: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class PrecisionRecallCurve:
    """Points of the precision-recall curve at scores of frauds, thresholds descending, recall rising to 1."""

    precision: tuple[float, ...]
    recall: tuple[float, ...]
    thresholds: tuple[float, ...]


def balanced(
    y: Labels,
    uncorrected_probability: FloatArray,
    cut: float = 0.5,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> BalancedMetrics:
    """The usual table on a test set with as many frauds as legitimate rows.

    Accuracy, precision and recall have Wilson's interval. F1 has Wilson's of tp / (tp + fp + fn), of which it is a
    rising function (Lam, Gopal and Qian 2023, arXiv 2309.14621, "Wilson indirect").

    Args:
        y: 1 fraud, 0 legitimate, [n].
        uncorrected_probability: Probability of fraud before the correction to the natural rate, [n].
        cut: A row is called fraud from this probability.
        replicates: Bootstrap samples for ROC AUC.
        seed: Of the bootstrap.
    """
    _check_probability(y, uncorrected_probability)
    _, auc = ranking_estimates(y, uncorrected_probability, replicates=replicates, seed=seed)
    called = uncorrected_probability >= cut
    tp, fp = (int(np.count_nonzero(called & (y == label))) for label in (1, 0))
    fn, tn = (int(np.count_nonzero(~called & (y == label))) for label in (1, 0))
    return BalancedMetrics(
        rows=int(y.size),
        cut=float(cut),
        accuracy=wilson(tp + tn, y.size),
        precision=wilson(tp, tp + fp),
        recall=wilson(tp, tp + fn),
        f1=_mapped(wilson(tp, tp + fp + fn), lambda share: 2 * share / (1 + share)),
        roc_auc=auc,
        confusion_matrix=((tn, fp), (fn, tp)),
    )


def natural(
    y: Labels,
    probability: FloatArray,
    review: float,
    block: float,
    *,
    cost_missed: float,
    cost_review: float,
    cost_block: float,
    legit_weight: float = 1.0,
    ks: Sequence[int] = (100, 500),
    replicates: int = REPLICATES,
    seed: int = 0,
) -> NaturalMetrics:
    """What a model is worth at the natural rate, on a holdout at that rate or weighted to it.

    Args:
        y: 1 fraud, 0 legitimate, [n].
        probability: Probability of fraud at the natural rate, [n].
        review: Probability from which a person looks at the transaction.
        block: Probability from which it is blocked; above `review`.
        cost_missed: Of a fraud below `review`.
        cost_review: Of a row from `review` to below `block`.
        cost_block: Of a legitimate row from `block`.
        legit_weight: Weight of each legitimate row, frauds weighing 1, where the holdout is not at the natural
            rate π: frauds · (1 − π) / (π · legitimate). Recall and ROC AUC do not depend on it.
        ks: Numbers of most suspicious transactions, counted with their weights.
        replicates: Bootstrap samples for AUPRC and ROC AUC.
        seed: Of the bootstrap.
    """
    _check_probability(y, probability, legit_weight)
    if not review < block:
        raise InvalidInput(f"the threshold of review must be below that of block, got {review} and {block}")
    auprc, auc = ranking_estimates(y, probability, legit_weight, replicates=replicates, seed=seed)
    frauds, legit = probability[y == 1], probability[y == 0]
    at_review = _at_threshold(frauds, legit, review, legit_weight)
    at_block = _at_threshold(frauds, legit, block, legit_weight)
    return NaturalMetrics(
        rows=int(y.size),
        frauds=int(frauds.size),
        natural_rate=_fraud_share(frauds, legit, legit_weight),
        auprc=auprc,
        roc_auc=auc,
        precision=at_review[0],
        recall=at_review[1],
        alert_rate=at_review[2],
        block_precision=at_block[0],
        block_recall=at_block[1],
        block_rate=at_block[2],
        precision_at_k=_precision_at_k(y, probability, ks, legit_weight),
        brier=_mean((1 - frauds) ** 2, legit**2, legit_weight, least=0.0),
        log_loss=_mean(_log_loss(frauds, fraud=True), _log_loss(legit, fraud=False), legit_weight, least=0.0),
        calibration=_calibration(frauds, legit, legit_weight),
        cost_per_thousand=_cost(
            frauds, legit, review, block, (cost_missed, cost_review, cost_block), legit_weight
        ),
        reliability=_reliability(frauds, legit, legit_weight),
    )


def paired_log_loss(
    y: Labels, probability_a: FloatArray, probability_b: FloatArray, legit_weight: float = 1.0
) -> Estimate:
    """Log loss of a less log loss of b on the same rows, as a share of that of a: positive says that b is better.

    Args:
        y: 1 fraud, 0 legitimate, [n].
        probability_a: Of the one model, the champion say, at the natural rate, [n].
        probability_b: Of the other, [n].
        legit_weight: Weight of each legitimate row; frauds weigh 1.
    """
    _check_probability(y, probability_a, legit_weight)
    _check_probability(y, probability_b, legit_weight)
    old, new = (
        [_log_loss(probability[y == label], fraud=bool(label)) for label in (1, 0)]
        for probability in (probability_a, probability_b)
    )
    whole = _mean(old[0], old[1], legit_weight, least=0.0).value or 1.0
    difference = _mean(old[0] - new[0], old[1] - new[1], legit_weight)
    return Estimate(difference.value / whole, difference.low / whole, difference.high / whole)


def roc_curve(y: Labels, score: FloatArray, points: int = CURVE_POINTS) -> RocCurve:
    """The ROC curve, exact up to `points` and thinned evenly along its length beyond; shapes [n], [n].

    The first threshold, at which nothing is called fraud, is the next number above the highest score.
    """
    check_scored(y, score)
    ranking = rank(y, score)
    frauds, legit = ranking.counts()
    # Each fraud's score has two corners: just above it (its legitimate rows seen, itself not), and at it.
    fpr = np.append(np.cumsum(legit)[:-1], legit.sum()) / legit.sum()
    hits = np.cumsum(frauds) / frauds.sum()
    tpr = np.append(np.stack([np.append(0.0, hits[:-1]), hits], axis=1).ravel(), 1.0)
    above = np.nextafter(ranking.values, np.inf)
    thresholds = np.append(np.stack([above, ranking.values], axis=1).ravel(), score.min())
    start = (0.0, 0.0, np.nextafter(score.max(), np.inf))
    fpr, tpr, thresholds = (np.append(a, b) for a, b in zip(start, (fpr, tpr, thresholds), strict=True))
    kept = _thinned(fpr, tpr, points)
    return RocCurve(*(tuple(array[kept].tolist()) for array in (fpr, tpr, thresholds)))


def precision_recall_curve(
    y: Labels, score: FloatArray, legit_weight: float = 1.0, points: int = CURVE_POINTS
) -> PrecisionRecallCurve:
    """The precision-recall curve, at every score of a fraud, thinned evenly along its length beyond `points`.

    It is a staircase whose steps begin at recall 0: their area is the average precision. Shapes [n], [n].
    """
    check_scored(y, score, legit_weight=legit_weight)
    ranking = rank(y, score)
    frauds, legit = ranking.counts()
    hits = np.cumsum(frauds)
    precision = hits / (hits + legit_weight * np.cumsum(legit)[1::2])
    recall = hits / hits[-1]
    kept = _thinned(recall, precision, points)
    return PrecisionRecallCurve(*(tuple(a[kept].tolist()) for a in (precision, recall, ranking.values)))


def _thinned(x: FloatArray, y: FloatArray, points: int) -> NDArray[np.int64]:
    """Indices of at most `points` different points, evenly spaced along the curve, both ends among them."""
    length = np.append(0.0, np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y))))
    different: NDArray[np.int64]
    length, different = np.unique(length, return_index=True)
    if length.size > points:
        different = different[np.unique(np.searchsorted(length, np.linspace(0.0, length[-1], points)))]
    return different


def _at_threshold(
    frauds: FloatArray, legit: FloatArray, threshold: float, legit_weight: float
) -> tuple[Estimate, Estimate, Estimate]:
    """Precision, recall and alert rate of the rows from a threshold."""
    caught, disturbed = frauds >= threshold, legit >= threshold
    recall, share = _share(caught), _fraud_share(frauds, legit, legit_weight)
    rate = _combined([(share, recall), (1 - share, _share(disturbed))])
    return _precision(int(caught.sum()), int(disturbed.sum()), legit_weight), recall, rate


def _cost(
    frauds: FloatArray,
    legit: FloatArray,
    review: float,
    block: float,
    costs: tuple[float, float, float],
    legit_weight: float,
) -> Estimate:
    """Expected cost of a thousand transactions, from the four shares that cost something."""
    missed, reviewed, blocked = costs
    share = _fraud_share(frauds, legit, legit_weight)
    costly = (
        (share * missed, frauds < review),
        (share * reviewed, (frauds >= review) & (frauds < block)),
        ((1 - share) * reviewed, (legit >= review) & (legit < block)),
        ((1 - share) * blocked, legit >= block),
    )
    return _combined([(1000 * cost, _share(rows)) for cost, rows in costly])


def _precision_at_k(y: Labels, score: FloatArray, ks: Sequence[int], legit_weight: float) -> dict[int, Estimate]:
    """Precision of the k most suspicious rows; of rows that tie for the last places, their average."""
    if not ks:
        return {}
    if min(ks) < 1:
        raise InvalidInput(f"k must be 1 or more, got {min(ks)}")
    enough = math.ceil(max(ks) / min(1.0, legit_weight))
    if enough < y.size:  # sorting millions of rows for the first hundred would cost most of the time
        top = score >= np.partition(score, y.size - enough)[y.size - enough]
        y, score = y[top], score[top]
    values, group = np.unique(-score, return_inverse=True)
    hits, false = (np.cumsum(np.bincount(group[y == label], minlength=values.size)) for label in (1, 0))
    alerted = np.append(0.0, hits + legit_weight * false)
    return {
        int(k): _precision(
            float(np.interp(k, alerted, np.append(0, hits))),
            float(np.interp(k, alerted, np.append(0, false))),
            legit_weight,
        )
        for k in ks
    }


def calibration(y: Labels, probability: FloatArray, legit_weight: float = 1.0) -> Estimate:
    """Observed over expected frauds; shapes [n], [n]. Each legitimate row weighs `legit_weight`."""
    _check_probability(y, probability, legit_weight)
    return _calibration(probability[y == 1], probability[y == 0], legit_weight)


def _calibration(frauds: FloatArray, legit: FloatArray, legit_weight: float) -> Estimate:
    """Observed over expected frauds: a ratio of sums over rows, its interval on the logarithmic scale."""
    frauds, legit = np.maximum(frauds, _CLIP), np.maximum(legit, _CLIP)
    ratio = frauds.size / (frauds.sum() + legit_weight * legit.sum())
    squares = np.sum((1 - ratio * frauds) ** 2) + np.sum((legit_weight * ratio * legit) ** 2)
    spread = math.exp(Z * math.sqrt(squares) / frauds.size)
    return Estimate(float(ratio), float(ratio / spread), float(ratio * spread))


def _reliability(frauds: FloatArray, legit: FloatArray, legit_weight: float) -> Reliability:
    bins = len(RELIABILITY_EDGES) + 1
    counts, sums = [], []
    for probability in (frauds, legit):
        place = np.searchsorted(RELIABILITY_EDGES, probability, side="right")
        counts.append(np.bincount(place, minlength=bins))
        sums.append(np.bincount(place, weights=probability, minlength=bins))
    rows = counts[0] + counts[1]
    occupied = np.flatnonzero(rows)
    expected = (sums[0] + legit_weight * sums[1])[occupied] / (counts[0] + legit_weight * counts[1])[occupied]
    return Reliability(
        tuple(rows[occupied].tolist()),
        tuple(expected.tolist()),
        tuple(_precision(int(counts[0][i]), int(counts[1][i]), legit_weight) for i in occupied),
    )


def _log_loss(probability: FloatArray, *, fraud: bool) -> FloatArray:
    clipped = np.clip(probability, _CLIP, 1 - _CLIP)
    return -np.log(clipped) if fraud else -np.log1p(-clipped)


def _mean(frauds: FloatArray, legit: FloatArray, legit_weight: float, least: float = -math.inf) -> Estimate:
    """Weighted mean of a number per row, with the normal interval of a stratified sample."""
    share = _fraud_share(frauds, legit, legit_weight)
    value = share * frauds.mean() + (1 - share) * legit.mean()
    variance = sum(
        part**2 * rows.var() / max(rows.size - 1, 1) for part, rows in ((share, frauds), (1 - share, legit))
    )
    half = Z * math.sqrt(variance)
    return Estimate(float(value), max(least, float(value - half)), float(value + half))


def _combined(terms: Sequence[tuple[float, Estimate]]) -> Estimate:
    """Σ coefficient · share, coefficients ≥ 0, by the method of variance estimates recovery (Zou, Donner 2008).

    It does not collapse where a share is 0, as a bootstrap would. Shares of one class exclude each other, which
    it leaves out and so errs on the wide side.
    """
    value = sum(coefficient * term.value for coefficient, term in terms)
    down = math.hypot(*(coefficient * (term.value - term.low) for coefficient, term in terms))
    up = math.hypot(*(coefficient * (term.high - term.value) for coefficient, term in terms))
    return Estimate(float(value), float(value - down), float(value + up))


def _precision(hits: float, false_alarms: float, legit_weight: float) -> Estimate:
    """Precision with legitimate rows weighted: Wilson's interval, carried over by a rising function."""
    return _mapped(wilson(hits, hits + false_alarms), lambda share: share / (share + legit_weight * (1 - share)))


def _mapped(estimate: Estimate, rising: Callable[[float], float]) -> Estimate:
    return Estimate(rising(estimate.value), rising(estimate.low), rising(estimate.high))


def _share(rows: NDArray[np.bool_]) -> Estimate:
    return wilson(int(rows.sum()), rows.size)


def _fraud_share(frauds: FloatArray, legit: FloatArray, legit_weight: float) -> float:
    return float(frauds.size / (frauds.size + legit_weight * legit.size))


def _check_probability(y: Labels, probability: FloatArray, legit_weight: float = 1.0) -> None:
    check_scored(y, probability, legit_weight=legit_weight)
    if probability.min() < 0 or probability.max() > 1:
        raise InvalidInput(f"probabilities lie in [0, 1], got {probability.min()} to {probability.max()}")
