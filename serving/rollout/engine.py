"""How a roll-out goes on: state, what was seen, and the time in; the next state out. No I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fraudkit.errors import InvalidInput
from fraudkit.policy.rollout import Facts, Labelled, RolloutRules, confirm, decide
from fraudkit.policy.verdict import Outcome, Verdict
from serving.rollout.state import (
    KEPT_HANDS,
    REJECTED,
    Counted,
    Counts,
    HandRecord,
    Rollout,
    State,
    Status,
    StepRecord,
    Tally,
)
from serving.rollout.targets import Observed
from serving.rollout.template import digest

ACTIONS: Final = ("pause", "resume", "promote", "rollback")
BY_HAND: Final = "manual-"
BY_TEMPLATE: Final = "template-"
_FIRST: Final = "first_model"


class Busy(Exception):  # an answer, not a fault
    """What was asked cannot be done now; the message says why."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A roll-out is asked for.

    Attributes:
        version: The challenger.
        key: Of what asks; the same key begins one roll-out.
        by: Who asks.
        reason: Why.
        template: What the service is to be made from.
    """

    version: str
    key: str
    by: str
    reason: str
    template: str = ""


def ask(state: State, asked: Asked, rules: RolloutRules, now: float) -> tuple[State, Rollout]:
    """Begin a roll-out; the same key again finds the one that it began.

    Raises:
        Busy: Another one goes on, the version serves already, or too many were rejected in a row.
    """
    known = state.get(asked.key)
    if known:
        return state, known
    going_on = state.going_on
    if going_on:
        raise Busy(f"the roll-out of {going_on.version} ({going_on.key}) goes on: it is {going_on.status}")
    if asked.version == state.champion and asked.template == state.template:
        raise Busy(f"{asked.version} serves already")
    rejected = state.rejected_in_a_row()
    if asked.version != state.champion and rejected >= rules.rejected and not asked.key.startswith(BY_HAND):
        raise Busy(
            f"the last {rejected} challengers were rejected: a person has to look; a key that begins with "
            f"{BY_HAND} is taken all the same"
        )
    number = state.rollouts[-1].numbered + 1 if state.rollouts else 1
    rollout = Rollout(
        id=f"r{number}-{asked.version}",
        key=asked.key,
        version=asked.version,
        champion=state.champion,
        template=asked.template,
        template_digest=digest(asked.template),
        former_template=state.template,
        by=asked.by,
        reason=asked.reason,
        asked=now,
        status=Status.PROMOTING if state.champion is None else Status.RUNNING,
        began=now,
    )
    return state.with_(rollout), rollout


def failed_template(state: State, template: str) -> Rollout | None:
    """The roll-out that tried a template last with the version that served, if that was rejected."""
    found = (
        one for one in reversed(state.rollouts) if one.same_version and one.template_digest == digest(template)
    )
    last = next(found, None)
    return last if last and last.status in REJECTED else None


def renew(state: State, template: str, rules: RolloutRules, now: float) -> State:
    """Begin to bring a template to the version that serves, if it is not made from it and no roll-out goes on."""
    if state.champion is None or state.going_on or template == state.template or failed_template(state, template):
        return state
    key = f"{BY_TEMPLATE}{digest(template)}"
    keys = (key, *(f"{key}-{number}" for number in range(2, len(state.rollouts) + 2)))
    free = next(one for one in keys if state.get(one) is None)
    asked = Asked(state.champion, free, "the controller", "the service's template has changed", template)
    return ask(state, asked, rules, now)[0]


def act(state: State, name: str, action: str, by: str, reason: str, now: float) -> State:
    """What a person asks of a roll-out.

    Raises:
        InvalidInput: There is no such roll-out.
        Busy: It is not in a state for that.
    """
    rollout = state.get(name)
    if rollout is None:
        raise InvalidInput(f"there is no roll-out {name!r}")
    goes_to = {
        ("pause", Status.RUNNING): Status.PAUSED,
        ("resume", Status.PAUSED): Status.RUNNING,
        ("resume", Status.STOPPED): Status.RUNNING,
        **{("promote", one): Status.PROMOTING for one in (Status.RUNNING, Status.PAUSED, Status.STOPPED)},
        **{("rollback", one): Status.ROLLING_BACK for one in (Status.RUNNING, Status.PAUSED, Status.STOPPED)},
    }.get((action, rollout.status))
    if action == "promote" and rollout.status is Status.PROVISIONAL:
        goes_to = Status.CONFIRMED
    if action == "rollback" and rollout.status is Status.PROVISIONAL and state.going_on is None:
        goes_to = Status.REVERSING
    if goes_to is None:
        raise Busy(f"a roll-out that is {rollout.status} cannot {action}")
    if action == "resume" and rollout.status is Status.STOPPED:
        state = state.model_copy(update={"mark": ""})  # what another hand did is what it goes on from
    hand = HandRecord(at=now, action=action, by=by, reason=reason)
    update = {"status": goes_to, "hands": (*rollout.hands, hand)[-KEPT_HANDS:], "began": now, "settled": False}
    if goes_to is Status.CONFIRMED:
        update["ended"] = now
    else:
        update["said"] = (str(Outcome.PASS if action == "promote" else Outcome.FAIL), "by_hand", f"{by}: {reason}")
    return state.with_(rollout.model_copy(update=update))


def settle(state: State, observed: Observed, now: float) -> State:
    """What follows from what the target says: traffic flows, or another hand is there."""
    rollout = state.going_on
    if rollout is None:
        return state
    if observed.foreign and rollout.status is Status.RUNNING:
        said = (str(Outcome.ERROR), "foreign_change", f"{observed.foreign}; it goes on when a person says how")
        return state.with_(rollout.model_copy(update={"status": Status.STOPPED, "said": said}))
    if not observed.settled:
        return state
    if rollout.status in (Status.PROMOTING, Status.ROLLING_BACK, Status.REVERSING):
        return _arrived(state, rollout, now)
    if not rollout.settled:
        return state.with_(rollout.model_copy(update={"settled": True, "began": now}))
    return state


def judge(
    state: State, observed: Observed, labelled: Labelled, rules: RolloutRules, now: float
) -> tuple[State, Verdict[Facts] | None]:
    """What the policy says of the canary, and where that leads; None where there is nothing to judge."""
    rollout = state.going_on
    if rollout is None or rollout.status is not Status.RUNNING:
        return state, None
    facts = facts_of(rollout, observed, labelled)
    verdict = decide(facts, rules, now)
    said = (str(verdict.outcome), verdict.reason, verdict.message)
    if verdict.outcome is Outcome.INCONCLUSIVE:
        return (state if said == rollout.said else state.with_(rollout.model_copy(update={"said": said}))), verdict
    record = StepRecord(
        percent=rules.steps[rollout.step].percent,
        began=rollout.began,
        ended=now,
        requests=facts.canary.requests,
        outcome=said[0],
        reason=said[1],
        message=said[2],
    )
    update = {"said": said, "steps": (*rollout.steps, record), "began": now, "settled": False}
    if not verdict.passed:
        update["status"] = Status.ROLLING_BACK
    elif rollout.step + 1 == len(rules.steps):
        update["status"] = Status.PROMOTING
    else:
        update |= {"step": rollout.step + 1, "counts": _next_step(rollout.counts)}
    return state.with_(rollout.model_copy(update=update)), verdict


def facts_of(rollout: Rollout, observed: Observed, labelled: Labelled) -> Facts:
    """What is known of a canary, for the policy."""
    counts = rollout.counts
    return Facts(
        step=rollout.step,
        began=rollout.began,
        ready=observed.ready if rollout.settled else (observed.ready and None),
        problem=observed.problem,
        canary=counts.canary.step.server(),
        stable=counts.stable.step.server(),
        bounds=counts.bounds,
        skew=counts.skew(),
        labelled=labelled,
        fallbacks=counts.fallbacks,
        canary_before=counts.canary.before.server(),
        stable_before=counts.stable.before.server(),
        same_model=rollout.same_version,
    )


def judge_promotion(
    state: State, labelled: Labelled, rules: RolloutRules, now: float
) -> tuple[State, Verdict[Labelled] | None]:
    """What labels say of a promotion that is provisional; a former champion returns where they contradict it."""
    rollout = state.provisional
    if rollout is None or state.going_on or rollout.promoted_at is None:
        return state, None
    verdict = confirm(labelled, rollout.promoted_at, rules, now)
    said = (str(verdict.outcome), verdict.reason, verdict.message)
    if verdict.outcome is Outcome.INCONCLUSIVE:
        return (state if said == rollout.said else state.with_(rollout.model_copy(update={"said": said}))), verdict
    update: dict[str, object] = {"said": said}
    if verdict.passed:
        update |= {"status": Status.CONFIRMED, "ended": now}
    else:
        update |= {"status": Status.REVERSING, "began": now, "settled": False}
    return state.with_(rollout.model_copy(update=update)), verdict


def _arrived(state: State, rollout: Rollout, now: float) -> State:
    """Traffic flows as a promotion, a rollback or a reversal wanted it."""
    if rollout.status is Status.PROMOTING:
        first = rollout.champion is None
        final = first or rollout.same_version
        update: dict[str, object] = {
            "status": Status.CONFIRMED if final else Status.PROVISIONAL,
            "promoted_at": now,
            "settled": True,
            "ended": now if final else None,
        }
        if first:
            update["said"] = (str(Outcome.PASS), _FIRST, "a first model: there is nothing to compare it with")
        before = state.provisional
        if before and not rollout.same_version:
            over = before.model_copy(update={"status": Status.SUPERSEDED, "ended": now})
            state = state.with_(over)
        state = state.model_copy(update={"champion": rollout.version, "template": rollout.template})
        return state.with_(rollout.model_copy(update=update))
    ends = Status.REVERSED if rollout.status is Status.REVERSING else Status.ROLLED_BACK
    state = state.model_copy(update={"champion": rollout.champion, "template": rollout.former_template})
    return state.with_(rollout.model_copy(update={"status": ends, "ended": now, "settled": True}))


def _next_step(counts: Counts) -> Counts:
    """Counts of which those of the step have become those before it."""
    return counts.model_copy(update={"stable": _moved(counts.stable), "canary": _moved(counts.canary)})


def _moved(tally: Tally) -> Tally:
    return Tally(last=tally.last, before=tally.before.plus(tally.step), step=Counted())
