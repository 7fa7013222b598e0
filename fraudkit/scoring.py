"""The linear scorer: probability, alert and reasons of a transaction, with numpy alone.

The fitted scikit-learn pipeline (transforms, scaling, logistic regression) folds into one weight per term:

    log odds = intercept + Σ w[V_i]·V_i + w[log_amount]·log(1 + Amount) + w[hour_sin]·sin h + w[hour_cos]·cos h

with h = 2π·hour/24. Registration proves that both agree. The scorer is what is served.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from fraudkit.errors import BundleError
from fraudkit.schema import COMPONENTS, INPUTS, FloatArray, hour_of_day

TERMS: Final = ("hour_sin", "hour_cos", *COMPONENTS, "log_amount")
"""The terms of the linear score, in order."""
DIGITS: Final = 12
"""Significant digits of every number in `scorer.json`: what the version is computed from is what is served."""

Alert = Literal["normal", "review", "block"]
ALERTS: Final[tuple[Alert, ...]] = ("normal", "review", "block")

_MOST: Final = 700.0
"""Log odds beyond which e^x could overflow."""
_HOURS: Final = np.arange(24)
_SIN: Final = np.sin(2 * np.pi * _HOURS / 24)
_COS: Final = np.cos(2 * np.pi * _HOURS / 24)


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Probabilities from which a transaction is reviewed by a person, and blocked; review < block."""

    review: float
    block: float

    def __post_init__(self) -> None:
        if not 0.0 < self.review < self.block < 1.0:
            raise BundleError(
                f"thresholds must satisfy 0 < review < block < 1, got {self.review:g} and {self.block:g}"
            )


@dataclass(frozen=True, slots=True)
class Reason:
    """What one input adds to the log odds of a row, against the typical transaction."""

    feature: str
    contribution: float
    value: float
    typical: float


@dataclass(frozen=True, slots=True)
class Scorer:
    """A linear fraud score.

    A row has the same log odds in any batch, to the last bit; alone, through `score_row`, to some 1e-15 of its
    largest term.

    Attributes:
        weights: Log odds per unit of each of `TERMS`.
        intercept: Log odds at zero, at the natural rate.
        natural_rate: Share of frauds that the probabilities assume.
        thresholds: Where alerts begin.
        typical: A typical value of each of `INPUTS` (medians of the reference): where a contribution is zero.
    """

    weights: tuple[float, ...]
    intercept: float
    natural_rate: float
    thresholds: Thresholds
    typical: tuple[float, ...]
    _offsets: tuple[float, ...] = field(init=False, repr=False, compare=False)
    _linear: tuple[float, ...] = field(init=False, repr=False, compare=False)
    _arrays: tuple[FloatArray, FloatArray] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.weights) != len(TERMS) or len(self.typical) != len(INPUTS):
            raise BundleError(
                f"a scorer has {len(TERMS)} weights and {len(INPUTS)} typical values, "
                f"got {len(self.weights)} and {len(self.typical)}"
            )
        if not np.isfinite([*self.weights, self.intercept, *self.typical]).all():
            raise BundleError("a weight, the intercept or a typical value of the scorer is not finite")
        if not 0.0 < self.natural_rate < 1.0:
            raise BundleError(f"the natural rate must lie between 0 and 1, got {self.natural_rate:g}")
        offsets = self.weights[0] * _SIN + self.weights[1] * _COS + self.intercept
        object.__setattr__(self, "_offsets", tuple(offsets.tolist()))
        object.__setattr__(self, "_linear", self.weights[2:30])
        object.__setattr__(self, "_arrays", (np.array(self.weights[2:30]), offsets))

    def logits(self, rows: FloatArray) -> FloatArray:
        """Log odds [n] of checked rows [n, 30]."""
        weights, offsets = self._arrays
        # Of a row, einsum adds the terms in the same order whatever the batch; a BLAS may not.
        linear: FloatArray = np.einsum("ij,j->i", rows[:, 1:29], weights)
        amount = np.log1p(rows[:, 29])
        amount *= self.weights[30]
        linear += amount
        linear += offsets[hour_of_day(rows[:, 0])]
        return linear

    def score_row(self, time: float, components: Sequence[float], amount: float) -> tuple[float, int]:
        """Probability of fraud and index into `ALERTS` of one checked row: Time, V1 … V28, Amount.

        What `probabilities` and `alerts` do, in a tenth of the time: numpy is made for many. Leave rows to those
        whose terms are so large that the order in which they are added matters.
        """
        logit = 0.0
        for weight, value in zip(self._linear, components):  # noqa: B905  # the row is checked
            logit += weight * value
        logit += math.log1p(amount) * self.weights[30]
        logit += self._offsets[int(time // 3600.0 % 24.0)]
        probability = 1.0 / (1.0 + math.exp(min(-logit, _MOST)))
        return probability, (probability >= self.thresholds.review) + (probability >= self.thresholds.block)

    def probabilities(self, rows: FloatArray) -> FloatArray:
        """Probability of fraud [n] of checked rows [n, 30], at the natural rate."""
        return sigmoid(self.logits(rows))

    def alerts(self, probabilities: FloatArray) -> NDArray[np.int64]:
        """Index into `ALERTS` of each probability [n]; a label of 1 is an alert above `normal`."""
        review, block = self.thresholds.review, self.thresholds.block
        return np.add(probabilities >= review, probabilities >= block, dtype=np.int64)

    def contributions(self, rows: FloatArray) -> FloatArray:
        """Log odds [n, 30] that each input adds against its typical value; Time takes both hour terms.

        The sum over a row is its log odds less those of the typical transaction.
        """
        typical = np.asarray(self.typical)
        parts = np.empty_like(rows)
        weights, offsets = self._arrays
        parts[:, 0] = offsets[hour_of_day(rows[:, 0])] - offsets[hour_of_day(typical[:1])]
        parts[:, 1:29] = (rows[:, 1:29] - typical[1:29]) * weights
        parts[:, 29] = (np.log1p(rows[:, 29]) - np.log1p(typical[29])) * self.weights[30]
        return parts

    def reasons(self, rows: FloatArray) -> list[list[Reason]]:
        """The thirty reasons of each row [n, 30], largest magnitude first; ties in the order of `INPUTS`."""
        parts = self.contributions(rows)
        order = np.argsort(-np.abs(parts), axis=1, kind="stable")
        return [
            [Reason(INPUTS[j], float(part[j]), float(row[j]), self.typical[j]) for j in ranks]
            for row, part, ranks in zip(rows, parts, order, strict=True)
        ]

    def to_json(self) -> bytes:
        """Canonical bytes of `scorer.json`: sorted keys, numbers at `DIGITS` significant digits."""
        document = {
            "format": 1,
            "inputs": INPUTS,
            "terms": dict(zip(TERMS, self.weights, strict=True)),
            "intercept": self.intercept,
            "natural_rate": self.natural_rate,
            "thresholds": asdict(self.thresholds),
            "transforms": {
                "hour_sin": "sin(2π·hour/24), hour = floor(Time/3600) mod 24",
                "hour_cos": "cos(2π·hour/24), hour = floor(Time/3600) mod 24",
                "log_amount": "log(1 + Amount)",
            },
            "typical": dict(zip(INPUTS, self.typical, strict=True)),
        }
        return (json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()

    @classmethod
    def from_json(cls, content: bytes) -> Scorer:
        """The scorer in `content`.

        Raises:
            BundleError: The content is not a scorer of this format.
        """
        try:
            document = json.loads(content)
            if document["format"] != 1 or tuple(document["inputs"]) != INPUTS:
                raise BundleError("scorer.json has another format or other inputs than this version reads")
            return cls(
                weights=tuple(float(document["terms"][name]) for name in TERMS),
                intercept=float(document["intercept"]),
                natural_rate=float(document["natural_rate"]),
                thresholds=Thresholds(**document["thresholds"]),
                typical=tuple(float(document["typical"][name]) for name in INPUTS),
            )
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise BundleError(f"scorer.json cannot be read: {error!r}") from error

    def rounded(self) -> Scorer:
        """This scorer with every number at `DIGITS` significant digits, as it is written and served."""
        return Scorer(
            weights=tuple(_round(w) for w in self.weights),
            intercept=_round(self.intercept),
            natural_rate=_round(self.natural_rate),
            thresholds=Thresholds(_round(self.thresholds.review), _round(self.thresholds.block)),
            typical=tuple(_round(t) for t in self.typical),
        )


def sigmoid(logits: FloatArray) -> FloatArray:
    """1 / (1 + e^-x) [n], without overflow; not below 1e-304."""
    odds: FloatArray = np.negative(logits)
    np.minimum(odds, _MOST, out=odds)
    np.exp(odds, out=odds)
    odds += 1.0
    np.reciprocal(odds, out=odds)
    return odds


def _round(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
