"""What the controller knows: who serves, and each roll-out with what was decided on it and by whom.

It is all that has to survive. Whoever reads it goes on where the one before was: what is wanted of the target
follows from it alone, and it is written before the target is told.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from pydantic import BaseModel, ConfigDict

from fraudkit.policy.rollout import NO_REQUESTS, Server, Skew
from serving.rollout.targets import Wanted

KEPT: Final = 50
"""Roll-outs that are remembered."""
KEPT_DISAGREEMENTS: Final = 5
"""Transactions on which two models differ the most, as far as they are remembered."""
KEPT_HANDS: Final = 50
"""What people did to a roll-out, as far as it is remembered."""


class Status(StrEnum):
    """How far a roll-out is."""

    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    PROMOTING = "promoting"
    ROLLING_BACK = "rolling_back"
    REVERSING = "reversing"
    PROVISIONAL = "provisional"
    CONFIRMED = "confirmed"
    ROLLED_BACK = "rolled_back"
    REVERSED = "reversed"
    SUPERSEDED = "superseded"


TRIED: Final = frozenset({Status.RUNNING, Status.PAUSED, Status.STOPPED})
"""The canary has its share of the traffic."""
GOING_ON: Final = TRIED | {Status.PROMOTING, Status.ROLLING_BACK, Status.REVERSING}
"""No other roll-out may begin."""
REJECTED: Final = frozenset({Status.ROLLED_BACK, Status.REVERSED})


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Counted(_Record):
    """Counters of a server, as they were read or added up: requests, errors, and the latency histogram."""

    requests: int = 0
    errors: int = 0
    latency: tuple[int, ...] = ()

    def plus(self, other: Counted) -> Counted:
        """The sum."""
        return Counted(
            requests=self.requests + other.requests,
            errors=self.errors + other.errors,
            latency=_added(self.latency, other.latency),
        )

    def since(self, earlier: Counted) -> Counted:
        """What was counted since; all of it where the counters began anew."""
        if self.requests < earlier.requests or len(self.latency) < len(earlier.latency):
            return self
        return Counted(
            requests=self.requests - earlier.requests,
            errors=max(self.errors - earlier.errors, 0),
            latency=tuple(max(a - b, 0) for a, b in zip(self.latency, _filled(earlier, self), strict=True)),
        )

    def server(self) -> Server:
        """For the policy."""
        if not self.requests:
            return NO_REQUESTS
        return Server(self.requests, min(self.errors, self.requests), self.latency)


class Tally(_Record):
    """What the servers of a side counted: as last read, in this step, and before it."""

    last: dict[str, Counted] = {}
    step: Counted = Counted()
    before: Counted = Counted()


class Disagreement(_Record):
    """A transaction of which two models think differently: its row id, and the probability that each gives it."""

    id: str
    canary: float
    stable: float


class Counts(_Record):
    """What was counted in a roll-out.

    Attributes:
        stable: By stable.
        canary: By the canary.
        bounds: Upper bounds of the latency histograms [s].
        fallbacks: Requests that stable answered for the canary.
        fallbacks_last: The counter of these, as last read.
        skew_rows: Rows of which live and offline scores are known.
        skew_differing: Those that differ.
        skew_largest: Largest difference of probability.
        skew_until: Until when rows were compared [s, UTC].
        disagreements: Rows of the canary on which stable differs the most, the most first.
    """

    stable: Tally = Tally()
    canary: Tally = Tally()
    bounds: tuple[float, ...] = ()
    fallbacks: int = 0
    fallbacks_last: int | None = None
    skew_rows: int = 0
    skew_differing: int = 0
    skew_largest: float = 0.0
    skew_until: float | None = None
    disagreements: tuple[Disagreement, ...] = ()

    def summed(self) -> Counts:
        """Without what was read last of each server."""
        stable, canary = (one.model_copy(update={"last": {}}) for one in (self.stable, self.canary))
        return self.model_copy(update={"stable": stable, "canary": canary, "fallbacks_last": None})

    def skew(self) -> Skew:
        """For the policy."""
        return Skew(self.skew_rows, self.skew_differing, self.skew_largest)


class StepRecord(_Record):
    """A step, and what was said at its end."""

    percent: int
    began: float
    ended: float
    requests: int
    outcome: str
    reason: str
    message: str


class HandRecord(_Record):
    """What a person did, and why."""

    at: float
    action: str
    by: str
    reason: str


class Rollout(_Record):
    """A roll-out. Times are seconds UTC.

    Attributes:
        id: Names it here.
        key: Of the trigger that asked for it.
        version: The challenger.
        champion: Who served when it began; None for a first model.
        template: What the service is made from, …
        template_digest: … by its digest too, and …
        former_template: … what it was made from before. The texts are forgotten when it is over.
        by: Who asked.
        reason: Why.
        asked: When.
        status: How far it is.
        step: Index of the step.
        began: When the step's traffic began to flow, or was asked for.
        settled: Whether it flows.
        counts: What was counted.
        steps: The steps that are over.
        hands: What people did.
        said: Outcome, reason and message of the last verdict.
        promoted_at: When the challenger became champion.
        ended: When it came to its end.
    """

    id: str
    key: str
    version: str
    champion: str | None
    template: str = ""
    template_digest: str = ""
    former_template: str = ""
    by: str
    reason: str
    asked: float
    status: Status
    step: int = 0
    began: float
    settled: bool = False
    counts: Counts = Counts()
    steps: tuple[StepRecord, ...] = ()
    hands: tuple[HandRecord, ...] = ()
    said: tuple[str, str, str] = ("", "", "")
    promoted_at: float | None = None
    ended: float | None = None

    @property
    def same_version(self) -> bool:
        """Whether it brings a template alone."""
        return self.version == self.champion

    @property
    def numbered(self) -> int:
        """Its number among all roll-outs, from 1."""
        return int(self.id[1:].partition("-")[0])

    def remembered(self) -> Rollout:
        """Without what only a roll-out needs that is not over."""
        if self.ended is None:
            return self
        return self.model_copy(update={"template": "", "former_template": "", "counts": self.counts.summed()})


class Pending(_Record):
    """An event that some sinks have not acknowledged."""

    body: str
    sinks: tuple[str, ...]


class State(_Record):
    """All of it.

    Attributes:
        champion: Version that serves; None before the first.
        template: What its service is made from.
        rollouts: The roll-outs, newest last.
        mark: Of what the target said or did last.
        outbox: Events that are to be delivered.
    """

    champion: str | None = None
    template: str = ""
    rollouts: tuple[Rollout, ...] = ()
    mark: str = ""
    outbox: tuple[Pending, ...] = ()

    @property
    def going_on(self) -> Rollout | None:
        """The roll-out that goes on."""
        return next((one for one in reversed(self.rollouts) if one.status in GOING_ON), None)

    @property
    def provisional(self) -> Rollout | None:
        """The roll-out whose promotion labels have not confirmed yet."""
        return next((one for one in reversed(self.rollouts) if one.status is Status.PROVISIONAL), None)

    def get(self, name: str) -> Rollout | None:
        """A roll-out by its id or its key."""
        return next((one for one in reversed(self.rollouts) if name in (one.id, one.key)), None)

    def with_(self, rollout: Rollout) -> State:
        """With a roll-out as it is now; the oldest that are over are forgotten."""
        rollout = rollout.remembered()
        others = tuple(rollout if one.id == rollout.id else one for one in self.rollouts)
        if all(one.id != rollout.id for one in self.rollouts):
            others = (*others, rollout)
        return self.model_copy(update={"rollouts": others[-KEPT:]})

    def rejected_in_a_row(self) -> int:
        """How many challengers were rejected since the last one that was not; a template is no challenger."""
        count = 0
        for one in reversed(self.rollouts):
            if one.same_version:
                continue
            if one.status not in REJECTED:
                break
            count += 1
        return count


def wanted(state: State, percents: tuple[int, ...]) -> Wanted | None:
    """What is wanted of the target; None before there is a model.

    Args:
        state: The state.
        percents: The canary's share at each step.
    """
    going_on = state.going_on
    if going_on is None:
        return None if state.champion is None else Wanted(state.champion, template=state.template)
    if going_on.status is Status.PROMOTING or going_on.champion is None:
        return Wanted(going_on.version, template=going_on.template)
    if going_on.status in TRIED:
        percent = percents[going_on.step]
        return Wanted(going_on.champion, going_on.version, percent, going_on.template)
    return Wanted(going_on.champion, template=going_on.former_template)


def _added(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(a + b for a, b in zip(one, other, strict=True)) if one and other else one or other


def _filled(earlier: Counted, now: Counted) -> tuple[int, ...]:
    return earlier.latency or (0,) * len(now.latency)
