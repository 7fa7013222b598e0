"""The drift reference of a model: rows at the natural rate from its training period, and what they look like.

    reference/
      rows.npy         float32 [n, 29]: `schema.DRIFT_FEATURES`, sorted by hour of day
      hours.npy        int8 [n]: hour of day of each row
      edges.npy        float64 [29, 49]: inner edges of fifty bins of equal count
      histograms.npy   int64 [24, 29, 50]: counts by hour of day
      precision.npy    float64 [29, 29]: inverse covariance, for Mahalanobis' D²
      summary.json     counts, means, and quantiles of score and D² by percent

The files are plain arrays, so their bytes, and the version made of them, depend on nothing but the rows.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from fraudkit.schema import DRIFT_FEATURES, FloatArray, hour_of_day
from fraudkit.scoring import DIGITS, Scorer

BINS: Final = 50
QUANTILES: Final = tuple(sorted({*(i / 100 for i in range(101)), 0.001, 0.005, 0.995, 0.999}))


def draw(legitimate: FloatArray, fraud: FloatArray, population: tuple[int, int], most: int) -> FloatArray:
    """Rows [n, 30] at the natural rate: the first of each class, in the proportion of `population`.

    Args:
        legitimate: Kept legitimate rows [a, 30], in the order of their hash.
        fraud: Kept frauds [b, 30], in the order of their hash.
        population: Legitimate rows and frauds they were kept from.
        most: Most rows to draw.
    """
    total = sum(population)
    kept = len(legitimate), len(fraud)
    size = min(most, *(int(n * total / of) for n, of in zip(kept, population, strict=True)))
    frauds = round(size * population[1] / total)
    return np.concatenate([legitimate[: size - frauds], fraud[:frauds]])


def drift_features(rows: FloatArray) -> FloatArray:
    """`schema.DRIFT_FEATURES` [n, 29] of inputs [n, 30]."""
    return np.column_stack([rows[:, 1:29], np.log1p(rows[:, 29])])


def typical(rows: FloatArray) -> tuple[float, ...]:
    """A typical value of each input of `rows` [n, 30]: the median; for Time the mean hour on the clock, in s."""
    angle = hour_of_day(rows[:, 0]) * (2 * np.pi / 24)
    hour = round(float(np.arctan2(np.sin(angle).mean(), np.cos(angle).mean())) * 24 / (2 * np.pi)) % 24
    return (hour * 3600.0, *(float(value) for value in np.median(rows[:, 1:], axis=0)))


def write_reference(rows: FloatArray, scorer: Scorer, by_time: bool, folder: Path) -> None:
    """Write the reference of inputs `rows` [n, 30] and their scores to `folder`.

    Args:
        rows: The rows, at the natural rate.
        scorer: The model's scorer.
        by_time: The rows are one period; otherwise they were drawn without regard to time.
        folder: The folder to make.
    """
    folder.mkdir(parents=True)
    hours = hour_of_day(rows[:, 0])
    order = np.argsort(hours, kind="stable")
    rows, hours = rows[order], hours[order]
    features = drift_features(rows)
    edges = np.quantile(features, np.arange(1, BINS) / BINS, axis=0).T
    means: FloatArray = features.mean(axis=0)
    with threadpool_limits(1):  # the order of the sums decides the last digit, and the digits the version
        precision = np.linalg.pinv(np.cov(features, rowvar=False), hermitian=True).astype(np.float64)
        distances = np.concatenate([_distances(part - means, precision) for part in np.array_split(features, 64)])
    np.save(folder / "rows.npy", features.astype(np.float32))
    np.save(folder / "hours.npy", hours.astype(np.int8))
    np.save(folder / "edges.npy", _round(edges))
    np.save(folder / "histograms.npy", _histograms(features, hours, edges))
    np.save(folder / "precision.npy", _round(precision))
    summary = {
        "format": 1,
        "features": DRIFT_FEATURES,
        "rows": len(rows),
        "by_time": by_time,
        "rows_by_hour": np.bincount(hours, minlength=24).tolist(),
        "means": _round(means).tolist(),
        "quantiles": QUANTILES,
        "score": _round(np.quantile(scorer.probabilities(rows), QUANTILES)).tolist(),
        "distance": _round(np.quantile(distances, QUANTILES)).tolist(),
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _distances(centred: FloatArray, precision: FloatArray) -> FloatArray:
    """Mahalanobis' D² [n] of centred rows [n, 29]."""
    distances: FloatArray = np.einsum("ij,ij->i", centred @ precision, centred)
    return distances


def _histograms(features: FloatArray, hours: NDArray[np.int64], edges: FloatArray) -> NDArray[np.int64]:
    """Counts [24, 29, 50] by hour of day, feature and bin."""
    counts = np.zeros((24, len(edges), BINS), dtype=np.int64)
    for j, inner in enumerate(edges):
        bins = np.searchsorted(inner, features[:, j], side="right")
        counts[:, j] = np.bincount(hours * BINS + bins, minlength=24 * BINS).reshape(24, BINS)
    return counts


def _round(values: FloatArray) -> FloatArray:
    """`values` at `DIGITS` significant digits, as everything that a version is computed from."""
    return np.array([float(f"{value:.{DIGITS}g}") for value in values.ravel()]).reshape(values.shape)
