"""The figures of an evaluation as SVG, and a page of figures as HTML.

A figure needs no font, script or file from elsewhere and follows the reader's preference for light or dark.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from fraudkit.estimate import Estimate
from fraudkit.schema import FloatArray
from fraudkit.scoring import sigmoid
from pipelines.svg import Axis, Panel, chart, percent, ticks

_BINS: Final = 60
_TAIL: Final = 0.001
_UNIT: Final = tuple((i / 5, f"{i / 5:g}") for i in range(6))
_SUPERSCRIPT: Final = str.maketrans("−0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def roc(fpr: ArrayLike, tpr: ArrayLike, auc: Estimate) -> str:
    """The ROC curve: share of frauds flagged over share of legitimate rows flagged, each [n]."""
    panel = _unit_panel("Legitimate transactions flagged (false positive rate)", "Frauds flagged (recall)")
    panel.line([0, 1], [0, 1], "rule")
    panel.note(0.5, 0.5, "chance", "", "start", (10, 10))
    panel.line(fpr, tpr, "fraud")
    panel.note(0.97, 0.06, f"AUC {auc}", "ink", "end", (0, 0))
    return chart(460, 460, f"ROC curve; the area under it is {auc}", panel)


def precision_recall(
    recall: ArrayLike, precision: ArrayLike, auprc: Estimate, point: tuple[float, float] | None, base_rate: float
) -> str:
    """The precision-recall curve, as the staircase whose area is the average precision.

    Args:
        recall: Recall [n], rising or falling.
        precision: Precision [n] at each recall.
        auprc: The area under it.
        point: Recall and precision at the review threshold.
        base_rate: Share of frauds: the precision of flagging by chance.
    """
    across, up = np.asarray(recall, dtype=np.float64), np.asarray(precision, dtype=np.float64)
    if across[0] > across[-1]:
        across, up = across[::-1], up[::-1]
    across, up = np.append(0.0, across), np.append(up[0], up)
    panel = _unit_panel("Frauds flagged (recall)", "Frauds among what is flagged (precision)")
    panel.line([0, 1], [base_rate, base_rate], "rule")
    panel.line(np.repeat(across, 2)[:-1], np.repeat(up, 2)[1:], "fraud")
    panel.note(0.03, base_rate, f"chance: {percent(base_rate)}", "", "start", (0, -8))
    panel.note(0.03, base_rate, f"AUPRC {auprc}", "ink", "start", (0, -28))
    if point is not None:
        anchor, aside = ("end", -10) if point[0] > 0.5 else ("start", 10)
        panel.dots(*point, "legit", radius=6)
        panel.note(*point, "at the review threshold:", "legit", anchor, (aside, 20))
        panel.note(*point, f"recall {point[0]:.3f}", "legit", anchor, (aside, 36))
        panel.note(*point, f"precision {point[1]:.3f}", "legit", anchor, (aside, 52))
    return chart(460, 460, f"Precision-recall curve; the area under it is {auprc}", panel)


def calibration(expected: ArrayLike, observed: Sequence[Estimate], counts: ArrayLike) -> str:
    """Reliability on log axes, and below it how many transactions each group has.

    A group without a fraud has no place on a log axis: it is an open dot at the bottom.

    Args:
        expected: Mean predicted probability [g] of each group, above zero.
        observed: Share of frauds [g] in each group.
        counts: Transactions [g] in each group.
    """
    predicted, rows = np.maximum(np.asarray(expected), 1e-12), np.asarray(counts, dtype=np.float64)
    share, low, high = np.array([(each.value, each.low, each.high) for each in observed]).T
    seen = share > 0
    floor = 10.0 ** math.floor(math.log10(min(*predicted, *share[seen], 0.1)))
    marks = _decades(floor, 1.0, percent)
    across, up = Axis(floor, 1.0, "", marks, log=True), Axis(floor, 1.0, "Share of frauds", marks, log=True)
    above = Panel(across, up, 84, 36, 360, 320)
    above.line([floor, 1], [floor, 1], "rule")
    above.note(1.0, 1.0, "dashed: perfect · open: no fraud seen", "", "end", (0, -12))
    above.stems(predicted, np.clip(low, floor, 1), np.clip(high, floor, 1), "fraud")
    above.line(predicted[seen], share[seen], "fraud")
    above.dots(predicted[seen], share[seen], "fraud")
    above.dots(predicted[~seen], floor, "open")
    most = 10.0 ** math.ceil(math.log10(max(*rows, 10)))
    size = Axis(1.0, most, "Transactions", _decades(1.0, most, "{:,.0f}".format, 3), log=True)
    below = Panel(Axis(floor, 1.0, "Predicted probability of fraud", marks, log=True), size, 84, 416, 360, 70)
    below.stems(predicted, 1.0, rows, "thin legit")
    return chart(470, 540, f"Share of frauds against predicted probability in {rows.size} groups", above, below)


def scores(legit_logits: FloatArray, fraud_logits: FloatArray, review_logit: float, block_logit: float) -> str:
    """Distribution of the odds of fraud in each class, with the thresholds.

    Args:
        legit_logits: Natural log odds [n] of legitimate rows.
        fraud_logits: Natural log odds [m] of frauds.
        review_logit: Natural log odds from which a person reviews.
        block_logit: Natural log odds from which is blocked.
    """
    limits = [review_logit, block_logit]
    for logits in (legit_logits, fraud_logits):
        limits += np.quantile(logits, [_TAIL, 1 - _TAIL]).tolist()
    edges = np.linspace(min(limits), max(limits) + 1e-9, _BINS + 1)
    shares = [np.histogram(x.clip(edges[0], edges[-1]), edges)[0] / x.size for x in (legit_logits, fraud_logits)]
    low, high = edges[0] / math.log(10), edges[-1] / math.log(10)
    powers = [(v, "10" + text.translate(_SUPERSCRIPT)) for v, text in ticks(low, high, 10) if v == round(v)]
    top = 1.25 * max(share.max() for share in shares)
    up = Axis(0, top, "Share of class per bin", [(v, percent(v)) for v, _ in ticks(0, top, 4)])
    panel = Panel(Axis(low, high, "Predicted odds of fraud", powers), up, 64, 36, 510, 270)
    for share, name in zip(shares, ("legit", "fraud"), strict=True):
        panel.histogram(edges / math.log(10), share, name)
    panel.note(high, top, "■ legitimate", "legit", "end", (-70, -12))
    panel.note(high, top, "■ fraud", "fraud", "end", (0, -12))
    panel.stems([review_logit / math.log(10), block_logit / math.log(10)], 0, top, "rule")
    for name, logit, down in (("review", review_logit, 14), ("block", block_logit, 32)):
        at, probability = logit / math.log(10), float(sigmoid(np.array([logit]))[0])
        anchor, aside = ("start", 6) if at < (low + high) / 2 else ("end", -6)
        panel.note(at, top, f"{name} from {percent(probability)}", "ink", anchor, (aside, down))
    return chart(590, 360, "Distribution of the predicted odds of fraud by class", panel)


def coefficients(names: Sequence[str], values: ArrayLike) -> str:
    """Weights [n] in log odds per standard deviation, largest magnitude first."""
    weights = np.asarray(values, dtype=np.float64)
    order = np.argsort(-np.abs(weights), kind="stable")
    most = 1.35 * (np.abs(weights).max() or 1.0)
    places = np.arange(order.size, 0, -1.0)
    rows = Axis(0.4, order.size + 0.6, "", [(place, names[i]) for place, i in zip(places, order, strict=True)])
    across = Axis(-most, most, "Log odds per standard deviation", ticks(-most, most))
    panel = Panel(across, rows, 84, 36, 440, 19.0 * order.size)
    panel.note(0, rows.high, "← less like fraud", "legit", "end", (-12, -12))
    panel.note(0, rows.high, "more like fraud →", "fraud", "start", (12, -12))
    for place, weight in zip(places, weights[order], strict=True):
        style, anchor, aside = ("fraud", "start", 6) if weight > 0 else ("legit", "end", -6)
        panel.line([0, weight], [place, place], f"stem {style}")
        panel.note(weight, place, f"{weight:+.3f}".replace("-", "−"), "", anchor, (aside, 4))
    return chart(540, 84 + panel.height, f"Weights of the model; the largest is that of {names[order[0]]}", panel)


def _unit_panel(x: str, y: str) -> Panel:
    return Panel(Axis(0, 1, x, _UNIT), Axis(0, 1, y, _UNIT), 44, 36, 400, 370)


def _decades(low: float, high: float, text: Callable[[float], str], most: int = 5) -> list[tuple[float, str]]:
    """Powers of ten from `high` down to `low`, at most `most` + 1."""
    first, last = round(math.log10(low)), round(math.log10(high))
    step = max(1, math.ceil((last - first) / most))
    return [(10.0**power, text(10.0**power)) for power in range(last, first - 1, -step)]
