"""One window after another through every channel: pure, so that service and benchmark are the same code."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from pydantic import BaseModel, ConfigDict

from detectors.channels import Level, Reading, inputs
from detectors.channels.alert_rate import AlertRate
from detectors.channels.distance import Distance, DistanceRule, DistanceState
from detectors.channels.inputs import FastRule
from detectors.channels.rate import RateRule, RateState, RateTrace
from detectors.engines import Engine
from detectors.reference import Reference, Values, window_values
from fraudkit.schema import FloatArray, hour_of_day
from fraudkit.scoring import Scorer

POOLED = 3
"""Fast windows that are also tested as one."""


@dataclass(frozen=True, slots=True)
class Past:
    """A fast window that was tested: its rows' times [n], values [n, 30] and p-values [30]."""

    times: FloatArray
    values: Values
    p_values: FloatArray


@dataclass(frozen=True, slots=True)
class State:
    """What one window leaves to the next."""

    past: tuple[Past, ...] = ()
    rate: RateState = field(default_factory=RateState)
    distance: DistanceState = field(default_factory=DistanceState)


@dataclass(frozen=True, slots=True)
class Seen:
    """What the channels say of a window, and what they leave to the next.

    Attributes:
        readings: One of each channel.
        state: For the next window.
        untested: Rows of hours that the reference does not cover.
        rate: The sums of the alert rate after each row.
    """

    readings: tuple[Reading, ...]
    state: State
    untested: int
    rate: RateTrace


class Rules(BaseModel):
    """The rules of all channels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    inputs: FastRule = FastRule()
    alert_rate: RateRule = RateRule()
    distance: DistanceRule = DistanceRule()


class Watch:
    """The channels of one model."""

    def __init__(self, scorer: Scorer, reference: Reference, engine: Engine, rules: Rules) -> None:
        self._scorer = scorer
        self._reference = reference
        self._engine = engine
        self._fast = rules.inputs
        self._rate = AlertRate(reference, rules.alert_rate)
        self._distance = Distance(reference, rules.distance)

    def read(self, rows: FloatArray, state: State, least: int) -> Seen:
        """What is to be said of a fast window.

        Args:
            rows: Its checked rows [n, 30], in an order that depends on nothing but their times and ids.
            state: What the window before left.
            least: With fewer tested rows than this the inputs are `insufficient_data`.
        """
        times, hours = rows[:, 0], hour_of_day(rows[:, 0])
        values = window_values(rows, self._scorer.logits(rows))
        alerts, rate, trace = self._rate.read(values[:, -1], hours, state.rate)
        _, covered = self._reference.match(times)
        tested = values[covered]
        far, distance = self._distance.read(tested, hours[covered], state.distance)
        if len(tested) < max(least, 1):
            message = f"{len(tested):,} rows can be tested, {least:,} are needed"
            past: tuple[Past, ...] = ()
            reading = Reading(inputs.CHANNEL, Level.INSUFFICIENT_DATA, message)
        else:
            reading, past = self._inputs(times[covered], tested, state.past)
        after = State(past, rate, distance)
        return Seen((reading, alerts, far), after, len(rows) - len(tested), trace)

    def _inputs(
        self, times: FloatArray, values: Values, past: tuple[Past, ...]
    ) -> tuple[Reading, tuple[Past, ...]]:
        now = Past(times, values, self._p_values(times, values))
        several = (*past, now)
        before = past[-1].p_values if past else None
        pooled = self._pooled(several) if len(several) == POOLED else None
        return inputs.read(now.p_values, before, pooled, self._fast), several[-(POOLED - 1) :]

    def _pooled(self, windows: tuple[Past, ...]) -> FloatArray:
        times = np.concatenate([window.times for window in windows])
        return self._p_values(times, np.concatenate([window.values for window in windows]))

    def _p_values(self, times: FloatArray, values: Values) -> FloatArray:
        matched, _ = self._reference.match(times)
        return self._engine.test(values, matched).p_values
