"""One window after another through every channel: pure, so that service and benchmark are the same code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Final

import numpy as np
import orjson
from numpy.typing import NDArray

from detectors.channels import Level, Reading, inputs, labels, slow
from detectors.channels.alert_rate import AlertRate
from detectors.channels.distance import Distance, DistanceState
from detectors.channels.labels import LabelFacts
from detectors.channels.quality import Quality
from detectors.channels.rate import RateState, RateTrace
from detectors.channels.slow import SlowState
from detectors.distinct import sketch
from detectors.engines import Engine
from detectors.histograms import Counts, Histograms
from detectors.influence import Influence, Influences
from detectors.reference import HOURS, Reference, Values, distinct, window_values
from fraudkit.policy.drift import DriftRules
from fraudkit.schema import FloatArray, hour_of_day
from fraudkit.scoring import Scorer

POOLED: Final = 3
"""Fast windows that are also tested as one."""


@dataclass(frozen=True, slots=True, eq=False)
class WindowFacts:
    """What is known of a window.

    Attributes:
        rows: Its checked rows [n, 30], n ≥ 0, in an order that depends on nothing but their times and ids.
        rejected: Its rejected rows by reason.
        day: Number of the slow window that it belongs to.
    """

    rows: FloatArray
    rejected: tuple[tuple[str, int], ...] = ()
    day: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Past:
    """A fast window that was tested: its rows' times [n], values [n, 30] and p-values [30]."""

    times: FloatArray
    values: Values
    p_values: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """What one window leaves to the next."""

    past: tuple[Past, ...] = ()
    rate: RateState = field(default_factory=RateState)
    distance: DistanceState = field(default_factory=DistanceState)
    day: SlowState | None = None

    def dump(self) -> str:
        """All but `past`, as JSON, to the last bit."""
        day = self.day and {
            "number": self.day.number,
            "counts": self.day.counts.tolist(),
            "hours": self.day.hours.tolist(),
            "rows": self.day.rows.tolist(),
        }
        kept = {"rate": asdict(self.rate), "distance": asdict(self.distance), "day": day}
        return orjson.dumps(kept).decode()


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What the channels say of a window, and what they leave to the next.

    Attributes:
        readings: One of each channel; of the slow one when its window has ended.
        state: For the next window.
        untested: Rows of hours that the reference does not cover.
        hours: Tested rows by hour of day [24].
        all_hours: All rows by hour of day [24].
        counts: Histogram of the tested rows.
        rate: The sums of the alert rate after each row.
        influence: Features by how much they moved the score.
    """

    readings: tuple[Reading, ...]
    state: State
    untested: int
    hours: NDArray[np.int64]
    all_hours: NDArray[np.int64]
    counts: Counts
    rate: RateTrace
    influence: tuple[Influence, ...]


class Watch:
    """The channels of one model.

    Args:
        scorer: The model.
        reference: Its reference.
        engine: What tests windows.
        rules: When the channels speak.
        least: With fewer tested rows the inputs are `insufficient_data`.
    """

    def __init__(
        self, scorer: Scorer, reference: Reference, engine: Engine, rules: DriftRules, least: int
    ) -> None:
        self.histograms = Histograms(reference)
        self._scorer = scorer
        self._reference = reference
        self._engine = engine
        self._rules = rules
        self._least = max(least, 1)
        self._quality = Quality(reference, rules.quality)
        self._rate = AlertRate(reference, rules.alert_rate)
        self._distance = Distance(reference, rules.distance)
        self._influences = Influences(scorer, reference)

    def read(self, facts: WindowFacts, state: State) -> Seen:
        """What is to be said of a fast window, given what the one before it left."""
        rows = facts.rows
        times, hours = rows[:, 0], hour_of_day(rows[:, 0])
        values = window_values(rows, self._scorer.logits(rows))
        alerts, rate, trace = self._rate.read(values[:, -1], hours, state.rate)
        _, covered = self._reference.match(times)
        tested, tested_hours = values[covered], hours[covered]
        far, distance = self._distance.read(tested, tested_hours, state.distance)
        fast, past = self._fast(times[covered], tested, state.past)
        counts, by_hour = self.histograms.count(tested), np.bincount(tested_hours, minlength=HOURS)
        ended, day = self._day(facts.day, state.day)
        return Seen(
            (self._quality.read(values, facts.rejected), fast, alerts, far, *ended),
            State(past, rate, distance, day.add(counts, by_hour, sketch(tested))),
            len(rows) - len(tested),
            by_hour,
            np.bincount(hours, minlength=HOURS),
            counts,
            trace,
            self._influences.rank(tested, tested_hours),
        )

    def labels(self, facts: LabelFacts, holdout: LabelFacts) -> Reading:
        """What matured labels say beside those of the model's holdout."""
        return labels.read(facts, holdout, self._rules.labels)

    def restore(self, dumped: str, past: Sequence[FloatArray]) -> State:
        """The state of which `dumped` is the dump and `past` are the rows of its past windows, oldest first.

        A window of which the retention left fewer rows than can be tested is not remembered.
        """
        kept = orjson.loads(dumped)
        outliers = RateState(**kept["distance"].pop("outliers"))
        day = kept["day"] and SlowState(
            kept["day"]["number"],
            np.array(kept["day"]["counts"], dtype=np.int64),
            np.array(kept["day"]["hours"], dtype=np.int64),
            np.array(kept["day"]["rows"], dtype=np.uint8),
        )
        return State(
            tuple(window for rows in past for window in self._remembered(rows)),
            RateState(**kept["rate"]),
            DistanceState(**kept["distance"], outliers=outliers),
            day or None,
        )

    def _remembered(self, rows: FloatArray) -> tuple[Past, ...]:
        _, covered = self._reference.match(rows[:, 0])
        if covered.sum() < self._least:
            return ()
        values = window_values(rows, self._scorer.logits(rows))[covered]
        times = rows[covered, 0]
        return (Past(times, values, self._p_values(times, values)),)

    def _day(self, number: int, state: SlowState | None) -> tuple[tuple[Reading, ...], SlowState]:
        if state is None or state.number == number:
            return (), state or SlowState.empty(number)
        return (slow.read(state, self.histograms, self._rules.slow),), SlowState.empty(number)

    def _fast(self, times: FloatArray, values: Values, past: tuple[Past, ...]) -> tuple[Reading, tuple[Past, ...]]:
        if len(values) < self._least:
            message = f"{len(values):,} rows can be tested, {self._least:,} are needed"
            return Reading(inputs.CHANNEL, Level.INSUFFICIENT_DATA, message), ()
        now = Past(times, values, self._p_values(times, values))
        several = (*past, now)
        before = past[-1].p_values if past else None
        pooled = self._pooled(several) if len(several) == POOLED else None
        return inputs.read(now.p_values, before, pooled, self._rules.inputs), several[-(POOLED - 1) :]

    def _pooled(self, windows: tuple[Past, ...]) -> FloatArray:
        times = np.concatenate([window.times for window in windows])
        return self._p_values(times, np.concatenate([window.values for window in windows]))

    def _p_values(self, times: FloatArray, values: Values) -> FloatArray:
        # A row that comes again, of a caller who tries again for instance, is no further evidence.
        first = distinct(values)
        matched, _ = self._reference.match(times[first])
        return self._engine.test(values[first], matched).p_values
