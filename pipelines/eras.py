"""A sample of two eras: the base data, and what live traffic brought, weighted by class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fraudkit.schema import FloatArray
from fraudkit.settings import SamplingSettings
from pipelines.data.recent import Rows


@dataclass(frozen=True, slots=True)
class Sample:
    """What a model is fitted on.

    Attributes:
        legitimate: Inputs [n, 30], the base data first.
        fraud: Inputs [m, 30], likewise.
        weights: Of both in turn [n + m]; a class weighs as much as its base rows would alone.
        recent: Legitimate rows and frauds that live traffic brought.
    """

    legitimate: FloatArray
    fraud: FloatArray
    weights: FloatArray
    recent: tuple[int, int]


def mixed(base: tuple[FloatArray, FloatArray], live: Rows, ratio: int, settings: SamplingSettings) -> Sample:
    """Base rows by class, and as many of live traffic as its frauds allow at the same ratio.

    Args:
        base: Legitimate rows and frauds of the base data.
        live: Matured rows, in the order of their hash: any prefix is a sample.
        ratio: Legitimate rows per fraud.
        settings: Most frauds, and the weight of what is recent in each class.
    """
    frauds, fraud_weights = (part[: settings.per_class] for part in live.of(1))
    legitimate, legitimate_weights = (part[: ratio * len(frauds)] for part in live.of(0))
    weights = [
        _weights(len(old), inclusion, settings.recent)
        for old, inclusion in zip(base, (legitimate_weights, fraud_weights), strict=True)
    ]
    return Sample(
        legitimate=np.concatenate([base[0], legitimate]),
        fraud=np.concatenate([base[1], frauds]),
        weights=np.concatenate(weights),
        recent=(len(legitimate), len(frauds)),
    )


def correction(sample: Sample, natural_rate: float) -> float:
    """What to add to the intercept of a model fitted on `sample`, so that it speaks at `natural_rate`."""
    legitimate = sample.weights[: len(sample.legitimate)].sum()
    fraud = sample.weights[len(sample.legitimate) :].sum()
    return float(np.log(natural_rate / (1.0 - natural_rate)) - np.log(fraud / legitimate))


def _weights(base: int, inclusion: FloatArray, share: float) -> FloatArray:
    """Weights of `base` base rows and of live ones, which stand for other numbers of transactions each."""
    live = inclusion / inclusion.sum() * (share * base)
    return np.concatenate([np.full(base, 1.0 - share), live])
