"""Bundles as people compare them: metrics with intervals, one beside another."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from markupsafe import Markup
from pydantic import ValidationError

from fraudkit.bundle import Bundle, Manifest
from fraudkit.bundle_store import BundleStore
from fraudkit.errors import BundleError, FraudError
from serving.console import charts
from serving.console.records import Read

METRICS: Final = {
    "auprc": "AUPRC",
    "recall": "Recall at review",
    "precision": "Precision at review",
    "block_recall": "Recall at block",
    "block_precision": "Precision at block",
    "roc_auc": "ROC AUC",
    "alert_rate": "Share alerted",
    "brier": "Brier score",
    "log_loss": "Log loss",
    "calibration": "Observed / expected frauds",
    "cost_per_thousand": "Cost per 1,000 transactions",
}
"""Those at the natural rate."""
DRAWN: Final = 6
"""Of them, which are shares that are better when they are larger."""


class Interval(Read):
    """An estimate with its 95 % interval."""

    value: float | None
    low: float | None
    high: float | None

    @property
    def bounds(self) -> charts.Bounds | None:
        """Low, value and high; None where it is not known."""
        if self.value is None:
            return None
        return (
            self.value if self.low is None else self.low,
            self.value,
            self.value if self.high is None else self.high,
        )


class _Metrics(Read):
    natural: dict[str, object]


@dataclass(frozen=True, slots=True)
class Compared:
    """Two versions side by side: the names and numbers of both, a drawing, and what to know of them."""

    version: str
    other: str | None
    rows: list[tuple[str, charts.Bounds | None, charts.Bounds | None]]
    chart: Markup
    note: str


@lru_cache(maxsize=64)
def sealed(bundles: BundleStore, version: str) -> Bundle:
    """A verified bundle; it never changes.

    Raises:
        BundleError: It is not there, or damaged.
        TemporaryError: The store is away.
    """
    return bundles.load(version)


def compared(bundles: BundleStore, version: str | None, other: str | None) -> Compared | FraudError | None:
    """A version beside another on the frozen holdout; why not, where a bundle cannot be read."""
    if version is None or version == other:
        return None
    try:
        own, theirs = _natural(bundles, version), _natural(bundles, other) if other else {}
        origin = sealed(bundles, version).manifest
        same = other is not None and _same_metrics(origin, sealed(bundles, other).manifest)
    except FraudError as error:
        return error
    note = f"It has the weights of {other}, of which these numbers were measured." if same else ""
    if origin.gate and other and not same:
        note = f"The gate, on pairs of both models' scores: {origin.gate.message}"
    if same:
        other, theirs = None, {}
    rows = [(METRICS[name], value.bounds, _bounds(theirs, name)) for name, value in own.items()]
    drawn = [
        charts.Estimate(METRICS[name], own[name].bounds, _bounds(theirs, name))
        for name in list(METRICS)[:DRAWN]
        if name in own
    ]
    beside = f", below it {other}, dashed" if other else ""
    label = f"Estimates of {version} with 95 % intervals{beside}"
    return Compared(version, other, rows, charts.estimates(drawn, label), note)


def _natural(bundles: BundleStore, version: str) -> dict[str, Interval]:
    try:
        content = (sealed(bundles, version).path / "metrics.json").read_bytes()
        found = _Metrics.model_validate_json(content).natural
        return {name: Interval.model_validate(found[name]) for name in METRICS if found.get(name) is not None}
    except (OSError, ValidationError) as error:
        said = error.errors(include_url=False)[0]["msg"] if isinstance(error, ValidationError) else error.strerror
        raise BundleError(f"metrics.json of {version} cannot be read: {said}") from error


def _same_metrics(one: Manifest, other: Manifest) -> bool:
    """Whether one is a child of the other's weights: metrics are told once."""
    return one.files["metrics.json"] == other.files["metrics.json"]


def _bounds(metrics: dict[str, Interval], name: str) -> charts.Bounds | None:
    return metrics[name].bounds if name in metrics else None
