"""The scikit-learn pipeline, how it is fitted, and how it folds into the linear scorer."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from threadpoolctl import threadpool_limits

from fraudkit.errors import PermanentError
from fraudkit.schema import FloatArray

TRUSTED: Final = ("pipelines.model.terms",)
"""What skops must be told to trust when it loads `model.skops`."""
_TOLERANCE: Final = 1e-8


def terms(rows: FloatArray) -> FloatArray:
    """The terms [n, 31] of inputs [n, 30]: hour of day as a cyclic pair, V1 … V28, log(1 + Amount)."""
    angle = np.floor(rows[:, 0] / 3600.0) % 24.0 * (2.0 * np.pi / 24.0)
    return np.column_stack([np.sin(angle), np.cos(angle), rows[:, 1:29], np.log1p(rows[:, 29])])


@dataclass(frozen=True, slots=True)
class Fitted:
    """A fitted pipeline, folded.

    Attributes:
        pipeline: Takes inputs [n, 30].
        weights: Log odds per unit of each term [31].
        per_deviation: Log odds per standard deviation of each term [31].
        intercept: Log odds at zero, at the fraud share of the rows it was fitted on.
    """

    pipeline: Pipeline
    weights: FloatArray
    per_deviation: FloatArray
    intercept: float

    def logits(self, rows: FloatArray) -> FloatArray:
        """Log odds [n] of inputs [n, 30], at the fraud share of the rows it was fitted on."""
        logits: FloatArray = terms(rows) @ self.weights + self.intercept
        return logits


def fit(
    legitimate: FloatArray, fraud: FloatArray, c: float, iterations: int, weights: FloatArray | None = None
) -> Fitted:
    """Fit the logistic regression on legitimate rows [n, 30] and frauds [m, 30], which may have weights [n + m].

    Newton's method converges to the last digits, so the same rows give the same twelve digits; one thread keeps
    the order of every sum.

    Raises:
        PermanentError: The optimizer did not converge.
    """
    pipeline = make_pipeline(
        FunctionTransformer(terms),
        StandardScaler(copy=False),  # the terms are an array of the pipeline's own
        LogisticRegression(C=c, solver="newton-cholesky", tol=_TOLERANCE, max_iter=iterations),
    )
    rows = np.concatenate([legitimate, fraud])
    labels = np.repeat([0, 1], [len(legitimate), len(fraud)])
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            weighted = {f"{name}__sample_weight": weights for name in ("standardscaler", "logisticregression")}
            pipeline.fit(rows, labels, **(weighted if weights is not None else {}))
        except ConvergenceWarning as warning:
            raise PermanentError(
                f"the logistic regression did not converge in {iterations} iterations on {len(rows):,} rows "
                f"with C = {c:g}: {warning}"
            ) from warning
    scaler, regression = pipeline[1], pipeline[2]
    weights = regression.coef_[0] / scaler.scale_
    intercept = float(regression.intercept_[0] - weights @ scaler.mean_)
    return Fitted(pipeline, weights, regression.coef_[0], intercept)


def save(pipeline: Pipeline, path: Path) -> None:
    """Write the pipeline as `model.skops`."""
    import skops.io  # takes seconds

    skops.io.dump(pipeline, path)


def load(path: Path) -> Pipeline:
    """The pipeline in a `model.skops` of this project; anything else in it is refused, nothing unpickled."""
    import skops.io  # takes seconds

    return skops.io.load(path, trusted=list(TRUSTED))


def correction(used: tuple[int, int], population: tuple[int, int], natural_rate: float) -> float:
    """What to add to the intercept of a model fitted on a sample by class, so that it speaks at `natural_rate`.

    Args:
        used: Legitimate rows and frauds that it was fitted on.
        population: Legitimate rows and frauds that they were drawn from.
        natural_rate: Share of frauds to speak at.
    """
    drawn = np.log(used[1] / population[1]) - np.log(used[0] / population[0])
    rate = np.log(population[1] / population[0])
    return float(np.log(natural_rate / (1.0 - natural_rate)) - rate - drawn)
