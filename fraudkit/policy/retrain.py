"""Whether a drift is answered with a run: facts and thresholds in, a verdict out. No I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from fraudkit.policy.verdict import Outcome, Verdict

HOURS: Final = 24
DECISIVE: Final = frozenset({"alert_rate", "labels"})
"""Channels whose move alone is worth a new model."""
SCORE: Final = "score"
PROMOTED: Final = "promoted"
REJECTED: Final = frozenset({"rejected", "no_gain", "rolled_back"})
"""How a run ends whose model does not stay: refused by the gate, or taken out of traffic again."""


class RetrainThresholds(BaseModel):
    """What a run needs.

    Attributes:
        frauds: Matured frauds since the drift began.
        rows: Rows since the drift began, of which a new reference is made.
        hour_rows: Of them in each hour of the day: a reference without an hour alarms in it.
        columns: Columns that must have drifted where neither score, alert rate nor labels moved.
        cooldown_hours: After a run of this drift, or a promotion.
        more_frauds: Frauds that must have matured since a run that was rejected.
        rejected: So many rejected challengers in a row stop the loop: a person is called.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    frauds: Annotated[int, Field(ge=1)] = 100
    rows: Annotated[int, Field(ge=1)] = 20_000
    hour_rows: Annotated[int, Field(ge=0)] = 100
    columns: Annotated[int, Field(ge=1)] = 2
    cooldown_hours: Annotated[float, Field(ge=0)] = 24.0
    more_frauds: Annotated[int, Field(ge=1)] = 50
    rejected: Annotated[int, Field(ge=1)] = 3


@dataclass(frozen=True, slots=True)
class Launched:
    """What the launcher says of runs.

    Attributes:
        active: Keys of runs that are going on.
        outcomes: Of the last runs that a drift asked for, newest first: `promoted`, `rejected`, `failed`, …
        attempts: Runs that were asked for by this drift of this model, whatever became of them.
        last: When the last of them was asked for, or the model promoted [s, UTC].
        frauds_then: Matured frauds of this drift when it was asked for.
        own: How the last run of this drift ended; None while there is none that did.
    """

    active: tuple[str, ...] = ()
    outcomes: tuple[str, ...] = ()
    attempts: int = 0
    last: float | None = None
    frauds_then: int = 0
    own: str | None = None


@dataclass(frozen=True, slots=True)
class DriftFacts:
    """What is known of the drift that is going on.

    Attributes:
        start: When it began [s, UTC]; None where there is none.
        channels: Channels that moved in it.
        columns: Columns that drifted in it.
        frauds: Matured frauds since.
        rows_by_hour: Rows since, by hour of day [24].
        launched: What the launcher says; None where it does not answer.
    """

    start: float | None
    channels: tuple[str, ...]
    columns: tuple[str, ...]
    frauds: int
    rows_by_hour: tuple[int, ...]
    launched: Launched | None


class _Said(NamedTuple):
    outcome: Outcome
    reason: str
    message: str


def decide(facts: DriftFacts, thresholds: RetrainThresholds, now: float) -> Verdict[DriftFacts]:
    """Whether a run is asked for at `now` [s, UTC]; each refusal has a reason of its own.

    Outcome `pass` asks for one; `fail` stops until a person acts; `inconclusive` waits.
    """
    return Verdict(*_decide(facts, thresholds, now), facts)


def _decide(facts: DriftFacts, thresholds: RetrainThresholds, now: float) -> _Said:
    if facts.start is None:
        return _wait("no_drift", "no drift is going on")
    moved = DECISIVE.intersection(facts.channels) or SCORE in facts.columns
    if not moved and len(facts.columns) < thresholds.columns:
        columns = f"{len(facts.columns)} of {thresholds.columns} columns did"
        return _wait("too_narrow", f"neither score, alert rate nor labels moved, and {columns}")
    launched = facts.launched
    if launched is None:
        return _wait("launcher_silent", "the launcher does not answer: whether a run is going on is not known")
    if launched.active:
        return _wait("in_flight", f"run {launched.active[0]} is going on")
    if launched.own == PROMOTED:
        return _wait(
            "answered", "the model of this drift's run was promoted: what follows is held against that one"
        )
    if _rejected_in_a_row(launched.outcomes) >= thresholds.rejected:
        message = f"the last {thresholds.rejected} challengers were rejected: a person has to look"
        return _Said(Outcome.FAIL, "rejected_repeatedly", message)
    return _enough(facts, launched, thresholds, now)


def _enough(facts: DriftFacts, launched: Launched, thresholds: RetrainThresholds, now: float) -> _Said:
    """Whether there is enough to learn from, and enough time has passed."""
    ready = None if launched.last is None else launched.last + 3_600.0 * thresholds.cooldown_hours
    if ready is not None and now < ready:
        return _wait("cooldown", f"{(ready - now) / 3_600.0:.1f} hours of {thresholds.cooldown_hours:g} are left")
    if facts.frauds < thresholds.frauds:
        return _wait("too_few_frauds", f"needs {thresholds.frauds:,} matured frauds, has {facts.frauds:,}")
    if launched.attempts and facts.frauds < launched.frauds_then + thresholds.more_frauds:
        more = facts.frauds - launched.frauds_then
        return _wait("too_few_new_frauds", f"needs {thresholds.more_frauds:,} since the last run, has {more:,}")
    rows = sum(facts.rows_by_hour)
    if rows < thresholds.rows:
        return _wait("too_few_rows", f"a new reference needs {thresholds.rows:,} rows, there are {rows:,}")
    least = min(range(HOURS), key=lambda hour: facts.rows_by_hour[hour])
    if facts.rows_by_hour[least] < thresholds.hour_rows:
        return _wait(
            "hours_uncovered",
            f"a new reference needs {thresholds.hour_rows:,} rows in each hour of the day, "
            f"hour {least} has {facts.rows_by_hour[least]:,}",
        )
    said = ", ".join(facts.columns[:5]) or ", ".join(facts.channels)
    message = f"{said} moved; {facts.frauds:,} matured frauds and {rows:,} rows to learn from"
    return _Said(Outcome.PASS, "drift_confirmed", message)


def _rejected_in_a_row(outcomes: tuple[str, ...]) -> int:
    count = 0
    for outcome in outcomes:
        if outcome not in REJECTED:
            break
        count += 1
    return count


def _wait(reason: str, message: str) -> _Said:
    return _Said(Outcome.INCONCLUSIVE, reason, message)
