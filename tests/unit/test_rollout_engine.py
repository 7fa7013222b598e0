"""Roll-outs from their start to their end, over simulated servers, with kills, hands and restarts anywhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fraudkit.errors import InvalidInput
from fraudkit.policy.rollout import Labelled, RolloutRules, Step
from serving.rollout.engine import Asked, Busy, act, ask, judge, judge_promotion, settle
from serving.rollout.evidence import disagreeing
from serving.rollout.state import GOING_ON, REJECTED, Counted, Counts, Rollout, State, Status, Tally, wanted
from serving.rollout.targets import Observed, Wanted

RULES = RolloutRules(
    steps=tuple(
        Step(percent=percent, requests=10, bake_seconds=5, limit_seconds=60) for percent in (10, 25, 50, 100)
    ),
    skew_rows=10,
    confirm_seconds=100,
)
PERCENTS = tuple(step.percent for step in RULES.steps)
FIRST, SECOND = "aaaaaaaaaaaa", "bbbbbbbbbbbb"
NO_LABELS = Labelled(0, 0, 0, 0, 0, 0, 0, 0)
EQUAL = Labelled(400, 300, 300, 296, 1_000, 10, 10, 5)
WORSE = Labelled(400, 300, 220, 215, 1_000, 10, 10, 5)
READY = Observed(settled=True, ready=True, mark="m")
COMING = Observed(settled=False, ready=None, mark="m")
BOUNDS = (0.001, 0.002, 0.005)


def served(version: str = FIRST) -> State:
    state, _ = ask(State(), Asked(version, "bootstrap", "a test", "a first model"), RULES, 0.0)
    return settle(state, READY, 1.0)


def challenged(state: State, key: str = "manual-a", version: str = SECOND) -> State:
    return ask(state, Asked(version, key, "a test", "to see"), RULES, 10.0)[0]


def answered(state: State, requests: int = 100, canary_errors: int = 0, differing: int = 0) -> State:
    """The state after both sides have answered some requests in this step."""
    rollout = state.going_on
    assert rollout
    stable = Tally(step=Counted(requests=1_000, latency=(900, 100, 0, 0)), before=rollout.counts.stable.before)
    latency = (int(requests * 0.9), requests - int(requests * 0.9), 0, 0)
    canary = Tally(
        step=Counted(requests=requests, errors=canary_errors, latency=latency), before=rollout.counts.canary.before
    )
    counts = Counts(
        stable=stable,
        canary=canary,
        bounds=BOUNDS,
        skew_rows=requests,
        skew_differing=differing,
        skew_largest=0.1 if differing else 0.0,
    )
    return state.with_(rollout.model_copy(update={"counts": counts}))


def test_a_first_model_serves_everything_and_is_champion_once_it_does() -> None:
    state, rollout = ask(State(), Asked(FIRST, "bootstrap", "a test", "a first model"), RULES, 0.0)
    assert wanted(state, PERCENTS) == Wanted(FIRST)
    assert settle(state, COMING, 1.0) == state
    state = settle(state, READY, 2.0)
    assert (state.champion, state.going_on) == (FIRST, None)
    assert state.get(rollout.id) is not None
    assert state.rollouts[0].status is Status.CONFIRMED


def test_a_challenger_goes_through_the_steps_and_is_promoted_provisionally() -> None:
    state, now, percents = challenged(served()), 10.0, []
    for _ in PERCENTS:
        target = wanted(state, PERCENTS)
        assert target
        percents.append(target.percent)
        state = settle(state, READY, now)
        state, verdict = judge(answered(state), READY, NO_LABELS, RULES, now + 1)
        assert verdict
        assert verdict.reason == "baking"
        now += 6
        state, verdict = judge(answered(state), READY, NO_LABELS, RULES, now)
        assert verdict
        assert verdict.passed, verdict.message
    assert percents == [10, 25, 50, 100]
    assert wanted(state, PERCENTS) == Wanted(SECOND)
    assert state.champion == FIRST
    state = settle(state, READY, now)
    assert state.champion == SECOND
    assert state.provisional
    assert [step.requests for step in state.provisional.steps] == [100] * 4


def test_the_largest_disagreements_are_kept_whichever_look_saw_them() -> None:
    first = disagreeing((), ["a", "b"], np.array([0.9, 0.5]), np.array([0.1, 0.4]))
    assert [(one.id, one.canary, one.stable) for one in first] == [("a", 0.9, 0.1), ("b", 0.5, 0.4)]
    later = disagreeing(first, list("cdefgh"), np.full(6, 0.2), np.array([0.6, 0.6, 0.6, 0.6, 0.21, 0.99]))
    assert [one.id for one in later] == ["a", "h", "c", "d", "e"]


def provisional() -> State:
    state = act(challenged(served()), "manual-a", "promote", "somebody", "it is urgent", 20.0)
    return settle(state, READY, 21.0)


def test_labels_confirm_a_promotion_or_bring_the_former_champion_back() -> None:
    state, verdict = judge_promotion(provisional(), EQUAL, RULES, 30.0)
    assert verdict
    assert (verdict.reason, state.rollouts[-1].status) == ("confirmed", Status.CONFIRMED)
    state, verdict = judge_promotion(provisional(), WORSE, RULES, 30.0)
    assert verdict
    assert verdict.reason == "contradicted"
    assert wanted(state, PERCENTS) == Wanted(FIRST)
    state = settle(state, READY, 31.0)
    assert (state.champion, state.rollouts[-1].status) == (FIRST, Status.REVERSED)


def test_without_labels_a_promotion_stays_after_its_time() -> None:
    state, verdict = judge_promotion(provisional(), NO_LABELS, RULES, 30.0)
    assert verdict
    assert verdict.reason == "provisional"
    state, verdict = judge_promotion(state, NO_LABELS, RULES, 200.0)
    assert verdict
    assert (verdict.reason, state.rollouts[-1].status) == ("unconfirmed", Status.CONFIRMED)


@pytest.mark.parametrize(
    ("harm", "labels", "reason"),
    [
        ({"canary_errors": 60}, NO_LABELS, "errors"),
        ({"differing": 3}, NO_LABELS, "skew"),
        ({}, WORSE, "recall"),
    ],
)
def test_harm_is_rolled_back_at_once(harm: dict[str, int], labels: Labelled, reason: str) -> None:
    state = settle(challenged(served()), READY, 10.0)
    state, verdict = judge(answered(state, **harm), READY, labels, RULES, 10.5)
    assert verdict
    assert verdict.reason == reason
    assert wanted(state, PERCENTS) == Wanted(FIRST)
    state = settle(state, READY, 11.0)
    assert (state.champion, state.rollouts[-1].status) == (FIRST, Status.ROLLED_BACK)
    assert state.rollouts[-1].steps[-1].reason == reason


def test_a_canary_that_never_gets_ready_is_rolled_back_at_its_limit() -> None:
    state = challenged(served())
    failing = Observed(settled=False, ready=False, problem="the image cannot be pulled", mark="m")
    state, verdict = judge(state, failing, NO_LABELS, RULES, 20.0)
    assert verdict
    assert verdict.reason == "not_ready"
    state, verdict = judge(state, failing, NO_LABELS, RULES, 71.0)
    assert verdict
    assert "the image cannot be pulled" in verdict.message
    assert state.rollouts[-1].status is Status.ROLLING_BACK


def test_another_hand_stops_the_roll_out_until_a_person_says_how_it_goes_on() -> None:
    state = settle(challenged(served()), READY, 10.0)
    state = settle(state, Observed(False, None, foreign="another hand set 70 %", mark="n"), 11.0)
    assert state.rollouts[-1].status is Status.STOPPED
    assert judge(answered(state), READY, NO_LABELS, RULES, 30.0)[1] is None
    for action, status in (("resume", Status.RUNNING), ("rollback", Status.ROLLING_BACK)):
        went_on = act(state, "manual-a", action, "somebody", "I know who it was", 40.0).rollouts[-1]
        assert went_on.status is status
        assert (went_on.hands[-1].by, went_on.hands[-1].reason) == ("somebody", "I know who it was")


def test_while_one_is_paused_nothing_is_judged() -> None:
    state = act(settle(challenged(served()), READY, 10.0), "manual-a", "pause", "somebody", "lunch", 11.0)
    assert judge(answered(state, canary_errors=90), READY, WORSE, RULES, 500.0) == (
        answered(state, canary_errors=90),
        None,
    )
    assert wanted(state, PERCENTS) == Wanted(FIRST, SECOND, 10)


def test_the_same_key_begins_one_roll_out_and_another_one_has_to_wait() -> None:
    state = challenged(served())
    again, rollout = ask(state, Asked(SECOND, "manual-a", "a test", "again"), RULES, 50.0)
    assert again == state
    assert rollout.reason == "to see"
    with pytest.raises(Busy, match="goes on"):
        ask(state, Asked("cccccccccccc", "manual-c", "a test", "me too"), RULES, 50.0)
    with pytest.raises(Busy, match="serves already"):
        ask(served(), Asked(FIRST, "manual-d", "a test", "once more"), RULES, 50.0)


def test_after_three_rejected_challengers_only_a_person_may_ask() -> None:
    state = served()
    for number in range(3):
        state = challenged(state, f"drift-{number}", f"{number:012x}")
        state = settle(act(state, f"drift-{number}", "rollback", "a test", "bad", 20.0), READY, 21.0)
    with pytest.raises(Busy, match="a person has to look"):
        challenged(state, "drift-3")
    assert challenged(state, "manual-3").going_on


@pytest.mark.parametrize("action", ["pause", "resume", "promote", "rollback"])
def test_what_is_over_cannot_be_acted_on(action: str) -> None:
    with pytest.raises(Busy, match="confirmed"):
        act(served(), "bootstrap", action, "somebody", "to see", 5.0)
    with pytest.raises(InvalidInput, match="no roll-out"):
        act(served(), "nobody", action, "somebody", "to see", 5.0)


def test_a_promotion_that_is_provisional_is_superseded_by_the_next() -> None:
    state = challenged(provisional(), "manual-c", "cccccccccccc")
    state = settle(act(state, "manual-c", "promote", "somebody", "it is better", 50.0), READY, 51.0)
    assert [one.status for one in state.rollouts[1:]] == [Status.SUPERSEDED, Status.PROVISIONAL]
    assert state.champion == "cccccccccccc"


def test_counters_that_began_anew_count_from_nothing() -> None:
    before, now = Counted(requests=100, errors=3, latency=(90, 10)), Counted(requests=7, errors=1, latency=(7, 0))
    assert now.since(before) == now
    assert Counted(requests=130, errors=3, latency=(110, 20)).since(before) == Counted(
        requests=30, errors=0, latency=(20, 10)
    )


class RollOuts(RuleBasedStateMachine):
    """A controller that may be killed between any two steps, over a target that is slow to do what is wanted."""

    @initialize()
    def first(self) -> None:
        self.now, self.number, self.saved = 0.0, 0, State().model_dump_json()
        self.is_: Wanted | None = None
        self.path: list[Wanted] = []
        state, _ = ask(State(), Asked(FIRST, "bootstrap", "a test", "a first model"), RULES, self.now)
        self.keep(state)
        self.reach()
        self.observe()

    @property
    def state(self) -> State:
        """As the next controller reads it."""
        return State.model_validate_json(self.saved)

    @property
    def goal(self) -> Wanted | None:
        return wanted(self.state, PERCENTS)

    def keep(self, state: State) -> None:
        self.saved = state.model_dump_json()

    @rule()
    def reach(self) -> None:
        """The target gets to what is wanted, told as often as one likes."""
        if self.is_ != self.goal and self.goal:
            self.is_ = self.goal
            self.path.append(self.goal)

    @rule()
    def observe(self) -> None:
        settled = self.is_ == self.goal
        self.keep(settle(self.state, Observed(settled, True if settled else None, mark="m"), self.now))

    @rule(seconds=st.sampled_from([0.5, 6.0, 61.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.state.going_on is None)
    @rule()
    def challenge(self) -> None:
        self.number += 1
        asked = Asked(f"{self.number:012x}", f"manual-{self.number}", "a test", "to see")
        self.keep(ask(self.state, asked, RULES, self.now)[0])

    @precondition(lambda self: self.state.going_on)
    @rule(
        requests=st.sampled_from([0, 5, 100]),
        errors=st.sampled_from([0, 0, 0, 90]),
        labels=st.sampled_from([NO_LABELS, EQUAL, WORSE]),
        ready=st.sampled_from([True, False, None]),
    )
    def look(self, requests: int, errors: int, labels: Labelled, ready: bool | None) -> None:
        state = answered(self.state, requests, min(errors, requests))
        observed = Observed(self.is_ == self.goal, ready, mark="m")
        self.keep(judge(state, observed, labels, RULES, self.now)[0])

    @rule(labels=st.sampled_from([NO_LABELS, EQUAL, WORSE]))
    def look_after(self, labels: Labelled) -> None:
        self.keep(judge_promotion(self.state, labels, RULES, self.now)[0])

    @precondition(lambda self: self.state.going_on)
    @rule(action=st.sampled_from(["pause", "resume", "promote", "rollback"]))
    def meddle(self, action: str) -> None:
        going_on = self.state.going_on
        assert going_on
        try:
            self.keep(act(self.state, going_on.id, action, "somebody", "to see", self.now))
        except Busy:
            return

    @rule(foreign=st.sampled_from(["another hand", ""]))
    def another_hand(self, foreign: str) -> None:
        observed = Observed(settled=False, ready=None, foreign=foreign, mark="n")
        self.keep(settle(self.state, observed, self.now))

    @invariant()
    def somebody_serves_all_that_the_canary_does_not(self) -> None:
        if not self.path:
            return
        assert self.is_
        known = {FIRST, *(one.version for one in self.state.rollouts if one.promoted_at is not None)}
        promoting = self.state.going_on
        if promoting and promoting.status is Status.PROMOTING:
            known.add(promoting.version)
        assert self.is_.stable in known

    @invariant()
    def the_percent_never_jumps(self) -> None:
        for before, after in zip(self.path, self.path[1:], strict=False):
            if after.canary is None:
                continue
            rank = PERCENTS.index(after.percent)
            earlier = PERCENTS.index(before.percent) if before.canary == after.canary else -1
            assert 0 <= rank - earlier <= 1

    @invariant()
    def one_goes_on_at_a_time(self) -> None:
        assert sum(one.status in GOING_ON for one in self.state.rollouts) <= 1

    def teardown(self) -> None:
        """Left alone with time and good servers, whatever goes on comes to its end."""
        if not self.path:
            return
        for _ in range(40):
            self.reach()
            self.observe()
            going_on = self.state.going_on
            if going_on is None:
                break
            if going_on.status in (Status.PAUSED, Status.STOPPED):
                self.keep(act(self.state, going_on.id, "resume", "somebody", "to see", self.now))
            self.now += 6
            self.look(100, 0, NO_LABELS, True)
        last: Rollout = self.state.rollouts[-1]
        ended = {Status.PROVISIONAL, Status.CONFIRMED, Status.SUPERSEDED}
        assert last.status in ended | REJECTED


TestRollOuts = RollOuts.TestCase
