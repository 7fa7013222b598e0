"""When drift is drift: the rules of every channel and of the verdict, as settings."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Alpha = Annotated[float, Field(gt=0, lt=1)]


class RateRule(BaseModel):
    """When the rate has changed.

    Attributes:
        threshold: A sum above this is a warning; in units of log likelihood.
        factor: Factor on the odds that the sums look for, up; down it is one over this.
        margin: By how much the base rate may be wrong, as a factor.
        shrink: Rows by which an hour's rate is drawn towards the day's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    threshold: Annotated[float, Field(gt=0)] = 10.0
    factor: Annotated[float, Field(gt=1)] = 2.5
    margin: Annotated[float, Field(ge=1)] = 1.1
    shrink: Annotated[float, Field(ge=0)] = 5_000.0


class FastRule(BaseModel):
    """Significance levels of all columns together (Bonferroni's correction divides them among the columns).

    Attributes:
        twice: A column below this in two windows running is drift.
        pooled: A column below this in a window pooled of three is drift.
        once: A column below this in one window is drift.
        warning: A column below this in one window is a warning.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    twice: Alpha = 0.02
    pooled: Alpha = 2e-5
    once: Alpha = 1e-5
    warning: Alpha = 1e-4


class SlowRule(BaseModel):
    """When a day has drifted.

    Attributes:
        alpha: Significance level of all columns together.
        min_effect: Least D of a drift.
        least: With fewer rows a day says nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    alpha: Alpha = 1e-3
    min_effect: Alpha = 0.02
    least: Annotated[int, Field(ge=1)] = 10_000


class DistanceRule(BaseModel):
    """When distances have changed.

    Attributes:
        slack: Standard errors by which a window's mean may depart without adding to the sum.
        threshold: A sum above this is a warning, in standard errors.
        outliers: When the rate of outlying rows has changed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    slack: Annotated[float, Field(gt=0)] = 1.0
    threshold: Annotated[float, Field(gt=0)] = 5.0
    outliers: RateRule = RateRule(factor=2.0)


class QualityRule(BaseModel):
    """What data are still good.

    Attributes:
        rejected: Share of rows that may be rejected.
        outside: Share of rows that may be outside of what the reference has seen, for one column.
        repeated: Share of rows that may be the same as an earlier one of the window.
        alpha: Significance level of an excess over the first two.
        least: With fewer rows a column that stands still is chance.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rejected: Alpha = 0.01
    outside: Alpha = 0.05
    repeated: Alpha = 0.3
    alpha: Alpha = 1e-6
    least: Annotated[int, Field(ge=2)] = 200


class LabelsRule(BaseModel):
    """When matured labels speak against the model.

    Attributes:
        alpha: Significance level at which a fall of the recall is drift.
        warning: Level at which a fall of recall or precision is a warning.
        least: Least frauds, or alerts, of which a rate is judged.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    alpha: Alpha = 1e-4
    warning: Alpha = 1e-3
    least: Annotated[int, Field(ge=1)] = 30


class EpisodeRule(BaseModel):
    """When drift begins and ends.

    Attributes:
        confirm: Windows running in which a channel says drift; the channels' own rules confirm already.
        clear: Stable windows running that end it.
        warm_up: Windows of a new model that are `warming_up` where they would be stable.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    confirm: Annotated[int, Field(ge=1)] = 1
    clear: Annotated[int, Field(ge=1)] = 3
    warm_up: Annotated[int, Field(ge=0)] = 2


class DriftRules(BaseModel):
    """The rules of all channels, and of the verdict."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    inputs: FastRule = FastRule()
    slow: SlowRule = SlowRule()
    alert_rate: RateRule = RateRule()
    distance: DistanceRule = DistanceRule()
    quality: QualityRule = QualityRule()
    labels: LabelsRule = LabelsRule()
    episode: EpisodeRule = EpisodeRule()
