"""What thresholds would mean: on the frozen holdout of a model, and for the traffic of the last day."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from pydantic import ValidationError

from fraudkit.bundle_store import BundleStore
from fraudkit.errors import BundleError
from fraudkit.estimate import Estimate, wilson
from fraudkit.schema import FloatArray
from fraudkit.scoring import Thresholds
from fraudkit.settings import AlertSettings
from serving.console.records import Read

_STEP, _LOW, _HIGH = 0.1, -9.2, 6.9
"""Log odds between the places of a slider, and where they begin and end."""


class ScoreHistogram(Read):
    """Scores of a version: edges in log odds, and how many are between them."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


class _Natural(Read):
    natural_rate: float


class _Metrics(Read):
    natural: _Natural


@dataclass(frozen=True, slots=True, eq=False)
class Holdout:
    """Scores of the frozen holdout.

    Attributes:
        thresholds: Of the model.
        frauds: Probabilities of the frauds, sorted.
        legitimate: … of the other rows.
        weight: Of each of these, frauds weighing 1, so that the holdout is read at the natural rate.
    """

    thresholds: Thresholds
    frauds: FloatArray
    legitimate: FloatArray
    weight: float

    @property
    def share(self) -> float:
        """Share of frauds."""
        return self.frauds.size / (self.frauds.size + self.weight * self.legitimate.size)


@dataclass(frozen=True, slots=True)
class Point:
    """What happens from a probability on; costs per 1,000 are the sum of that of review and that of block.

    Attributes:
        threshold: The probability.
        recall: Share of the frauds that have it.
        precision: Share of frauds among what has it.
        rate: Share of transactions that have it.
        review: Costs where reviews begin at it, as if there were no block.
        block: What blocking from it on adds to them.
    """

    threshold: float
    recall: Estimate
    precision: Estimate
    rate: float
    review: float
    block: float


@dataclass(frozen=True, slots=True)
class Live:
    """Traffic of the last day: how many transactions, and what the champion made of its own."""

    rows: int
    scores: ScoreHistogram

    def beyond(self, threshold: float) -> float:
        """About how many of a day's transactions have a probability from the threshold on."""
        counts = np.asarray(self.scores.counts, dtype=float)
        below = np.append(0.0, counts.cumsum()) / counts.sum()
        return self.rows * (1.0 - float(np.interp(logit(threshold), self.scores.edges, below)))


@lru_cache(maxsize=4)
def holdout_of(bundles: BundleStore, version: str) -> Holdout:
    """The holdout of a version, which never changes.

    Raises:
        BundleError: The bundle, or its holdout, is damaged.
        TemporaryError: The store cannot be reached.
    """
    import pyarrow.parquet

    bundle = bundles.load(version)
    try:
        table = pyarrow.parquet.read_table(bundle.path / "holdout.parquet", columns=["probability", "label"])
        measured = _Metrics.model_validate_json((bundle.path / "metrics.json").read_bytes()).natural
    except (OSError, pyarrow.ArrowException, ValidationError) as error:
        raise BundleError(f"the holdout of {version} cannot be read: {error}") from error
    probability, label = np.asarray(table["probability"]), np.asarray(table["label"])
    frauds, legitimate = (np.sort(probability[label == one]) for one in (1, 0))
    rate = measured.natural_rate
    weight = frauds.size * (1.0 - rate) / (rate * legitimate.size)
    return Holdout(bundle.scorer.thresholds, frauds, legitimate, weight)


def point(holdout: Holdout, costs: AlertSettings, threshold: float) -> Point:
    """What happens from a threshold on; precision and recall with Wilson's intervals."""
    caught, disturbed = (
        int(scores.size - np.searchsorted(scores, threshold)) for scores in (holdout.frauds, holdout.legitimate)
    )
    share, weight = holdout.share, holdout.weight
    recall, among = wilson(caught, holdout.frauds.size), wilson(caught, caught + disturbed)
    precision = Estimate(*(one / (one + weight * (1.0 - one)) for one in (among.value, among.low, among.high)))
    false = (1.0 - share) * disturbed / holdout.legitimate.size
    rate = share * recall.value + false
    return Point(
        threshold=threshold,
        recall=recall,
        precision=precision,
        rate=rate,
        review=1000 * (share * costs.cost_missed * (1.0 - recall.value) + costs.cost_review * rate),
        block=1000 * (costs.cost_block * false - costs.cost_review * rate),
    )


def places(*more: float) -> list[float]:
    """Where a slider can stand: even in log odds, at numbers with two digits; and at `more`."""
    chances = 1.0 / (1.0 + np.exp(-np.arange(_LOW, _HIGH, _STEP)))
    even = [float(f"{p:.2g}") if p < 0.5 else round(1.0 - float(f"{1.0 - p:.2g}"), 6) for p in chances.tolist()]
    return sorted({*even, *more})


def logit(probability: float) -> float:
    """Its log odds."""
    return math.log(probability / (1.0 - probability))
