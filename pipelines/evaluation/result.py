"""A candidate on the frozen holdout: what was measured, on which rows, and what the gate said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fraudkit.policy.gate import GateVerdict
from fraudkit.schema import FloatArray
from fraudkit.scoring import TERMS, Scorer
from pipelines.data.rowhash import Hashes
from pipelines.evaluation.metrics import BalancedMetrics, NaturalMetrics
from pipelines.records import Prepared, Training, Variant


@dataclass(frozen=True, slots=True)
class Compared:
    """A variant's worth on the same rows.

    Attributes:
        variant: The variant.
        balanced: On the balanced test set.
        natural: On the holdout at the natural rate.
    """

    variant: Variant
    balanced: BalancedMetrics
    natural: NaturalMetrics


@dataclass(frozen=True, slots=True)
class Scored:
    """The holdout under every model that is compared.

    Attributes:
        labels: 0 or 1 [n].
        order: Keyed hash of each row [n]; picks the legitimate rows of the balanced test set.
        logits: Log odds [n] by the name of the model.
        scorer_error: Largest difference of probability between the scorer and the fitted pipeline.
    """

    labels: NDArray[np.int8]
    order: Hashes
    logits: Mapping[str, FloatArray]
    scorer_error: float

    def balanced_rows(self) -> NDArray[np.int64]:
        """Row numbers of the balanced test set: as many of each class as the rarer has, of least hash."""
        by_class = [np.flatnonzero(self.labels == label) for label in (0, 1)]
        size = min(rows.size for rows in by_class)
        return np.concatenate([rows[np.argsort(self.order[rows], kind="stable")[:size]] for rows in by_class])


@dataclass(frozen=True, slots=True)
class Evaluation:
    """An evaluated candidate.

    Attributes:
        version: The version it would have.
        prepared: What it was trained on.
        training: How it was trained.
        scorer: What would be served.
        scored: The holdout under every model.
        balanced: On the balanced test set, at 1 : 1 odds and the 0.5 cut.
        balanced_at_review: On the same rows at the threshold `review`.
        natural: On the holdout at the natural rate.
        compared: 1 : 1, the chosen ratio, and all rows.
        verdict: The gate's.
    """

    version: str
    prepared: Prepared
    training: Training
    scorer: Scorer
    scored: Scored
    balanced: BalancedMetrics
    balanced_at_review: BalancedMetrics
    natural: NaturalMetrics
    compared: tuple[Compared, ...]
    verdict: GateVerdict

    def document(self) -> dict[str, object]:
        """The content of `metrics.json`."""
        return {
            "balanced": self.balanced.to_json(),
            "balanced_at_review": self.balanced_at_review.to_json(),
            "natural": self.natural.to_json(),
            "compared": [
                {
                    "name": row.variant.name,
                    "legitimate": row.variant.legitimate,
                    "frauds": row.variant.frauds,
                    "balanced": row.balanced.to_json(),
                    "natural": row.natural.to_json(),
                }
                for row in self.compared
            ],
            "coefficients": dict(zip(TERMS, self.training.per_deviation, strict=True)),
        }
