"""The roll-out's policy: what rolls a canary back, what makes it wait, and that evidence means what it says."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from itertools import accumulate
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.integrate import quad
from scipy.stats import binom

from benchmarks.rollout import run, worlds
from fraudkit.policy.rollout import (
    DISAGREEMENT,
    NO_REQUESTS,
    Facts,
    Labelled,
    RolloutRules,
    Server,
    Skew,
    Step,
    checks,
    confirm,
    decide,
    evidence,
    frauds_needed,
    log_at_most,
)
from fraudkit.policy.verdict import Outcome

BEGAN = 1_800_000_000.0
NOW = BEGAN + 700.0
LATE = BEGAN + 90_000.0
BOUNDS = (0.001, 0.002, 0.005, 0.01)
RULES = RolloutRules()
NO_LABELS = Labelled(0, 0, 0, 0, 0, 0, 0, 0)
EQUAL = Labelled(212, 170, 170, 168, 20_000, 100, 100, 80)


def server(requests: int, errors: int = 0, *, slower: int = 0) -> Server:
    """Four of five requests took 1 to 2 ms, the others 2 to 5; `slower` by so many buckets."""
    usual = [0, requests - requests // 5, requests // 5, 0, 0]
    return Server(requests, errors, tuple([0] * slower + usual[: len(usual) - slower]))


GOOD = Facts(
    0, BEGAN, True, "", server(90), server(800), BOUNDS, Skew(450, 0, 0.0), EQUAL, 0, NO_REQUESTS, NO_REQUESTS
)
LAST = replace(
    GOOD, step=3, canary=server(820), stable=NO_REQUESTS, canary_before=server(700), stable_before=server(1_700)
)


def test_a_good_canary_goes_on_and_says_what_its_labels_lack() -> None:
    verdict = decide(GOOD, RULES, NOW)
    assert (verdict.outcome, verdict.reason) == (Outcome.PASS, "step_passed")
    assert verdict.message == (
        "90 requests at 10 %, 0 failed; 450 rows scored as offline; "
        "needs 300 labelled frauds to see recall fall by 0.10; has 212; 25 % is next"
    )
    assert verdict.facts is GOOD


def test_the_last_step_passes_without_any_label() -> None:
    verdict = decide(replace(LAST, labelled=NO_LABELS), RULES, NOW)
    assert (verdict.outcome, verdict.reason) == (Outcome.PASS, "all_steps_passed")
    assert verdict.message.endswith("needs 300 labelled frauds to see recall fall by 0.10; has 0")


def test_enough_labels_are_told_with_their_numbers() -> None:
    labelled = replace(EQUAL, frauds=320)
    said = decide(replace(LAST, labelled=labelled), RULES, NOW).message
    assert said.endswith("of 320 labelled frauds the canary caught 170 and stable 170 (alone 2 and 2)")


def test_a_follower_sees_each_check_with_its_numbers() -> None:
    seen = {check.name: check for check in checks(GOOD, RULES, NOW)}
    assert list(seen) == [
        *("ready", "requests", "bake_seconds", "scores", "errors", "latency_50", "latency_95", "skew"),
        *("recall", "false_alarms", "frauds"),
    ]
    assert {check.name for check in seen.values() if check.outcome is not Outcome.PASS} == {"frauds"}
    assert (seen["requests"].canary, seen["requests"].limit, seen["requests"].at_least) == (90, 80, True)
    assert (seen["frauds"].canary, seen["frauds"].limit) == (212, 300)
    slow = seen["latency_95"]
    assert slow.canary == slow.stable
    assert slow.limit == pytest.approx(max(1.5 * slow.stable, slow.stable + 0.001))
    assert (seen["recall"].canary, seen["recall"].stable) == (170 / 212, 170 / 212)


def test_of_a_version_beside_itself_no_scores_are_asked_for_and_requests_and_readiness_are() -> None:
    same = replace(GOOD, skew=Skew(0, 0, 0.0), labelled=NO_LABELS, same_model=True)
    assert decide(replace(same, same_model=False), RULES, NOW).reason == "too_few_scores"
    verdict = decide(same, RULES, NOW)
    assert verdict.passed
    assert verdict.message == "90 requests at 10 %, 0 failed; the model is the one that serves; 25 % is next"
    assert decide(replace(same, canary=server(70)), RULES, NOW).reason == "too_few_requests"
    assert decide(replace(same, ready=None), RULES, NOW).reason == "not_ready"
    assert decide(replace(same, canary=server(90, 6)), RULES, NOW).reason == "errors"
    assert decide(replace(same, canary=server(90, slower=2)), RULES, NOW).reason == "latency"


HARM: list[tuple[str, dict[str, Any], str, str]] = [
    (
        "a row scored otherwise than offline",
        {"skew": Skew(450, 1, 3e-5)},
        "skew",
        "differ by up to 3.0e-05 in probability in 1 of 450 rows; at most 1e-06 is allowed",
    ),
    ("a difference that is not a number", {"skew": Skew(450, 0, math.nan)}, "skew", "by up to nan"),
    (
        "errors of the canary",
        {"canary": server(90, 6)},
        "errors",
        "6 of 90 requests to the canary failed, 0 of 800 to stable; at most 0.2% more are allowed; evidence",
    ),
    (
        "a crash whose requests fell back to stable",
        {"canary": NO_REQUESTS, "fallbacks": 20, "ready": False},
        "errors",
        "20 of 20 requests to the canary failed (20 of them fell back to stable), 0 of 800 to stable",
    ),
    (
        "few errors in each of many steps",
        {"step": 2, "canary": server(400, 3), "canary_before": server(280, 4), "stable_before": server(1_300)},
        "errors",
        "7 of 680 requests to the canary failed, 0 of 2,100 to stable",
    ),
    (
        "a canary that is slower",
        {"canary": server(90, slower=1)},
        "latency",
        "50% of 90 requests to the canary took up to 0.0035 s, of 800 to stable 0.0015 s; at most 0.0025 s is",
    ),
    (
        "a canary with a longer tail",
        {"canary": Server(90, 0, (0, 70, 0, 0, 20))},
        "latency",
        "95% of 90 requests to the canary took up to more than 0.01 s, of 800",
    ),
    (
        "frauds that stable alone catches",
        {"labelled": Labelled(212, 170, 151, 150, 0, 0, 0, 0)},
        "recall",
        "of 212 labelled frauds the canary caught 151 and stable 170 (alone 1 and 20); evidence",
    ),
    (
        "many more false alarms",
        {"labelled": Labelled(0, 0, 0, 0, 20_000, 50, 250, 50)},
        "false_alarms",
        "of 20,000 legitimate transactions the canary alerted 250 and stable 50; at most 2.5 times as many",
    ),
]


@pytest.mark.parametrize(("change", "reason", "said"), [case[1:] for case in HARM], ids=[case[0] for case in HARM])
def test_harm_is_rolled_back_before_the_bake_is_over(change: dict[str, Any], reason: str, said: str) -> None:
    verdict = decide(replace(GOOD, **change), RULES, BEGAN + 1.0)
    assert (verdict.outcome, verdict.reason) == (Outcome.FAIL, reason)
    assert said in verdict.message


def test_false_alarms_that_frauds_pay_for_are_no_harm() -> None:
    """A champion that is blind to a new kind of fraud has few alarms: it must not return for that."""
    seen = Labelled(300, 60, 270, 58, 25_690, 25, 164, 20)
    assert decide(replace(GOOD, labelled=seen), RULES, NOW).outcome is Outcome.PASS
    assert confirm(seen, BEGAN, RULES, NOW).reason == "confirmed"
    flood = replace(seen, canary_alerts=3_000)
    verdict = confirm(flood, BEGAN, RULES, NOW)
    assert verdict.reason == "contradicted"
    assert (
        "2.5 times as many are allowed, and 1,800 for the 180 frauds that it surely catches more"
        in verdict.message
    )


def test_a_chance_difference_of_frauds_pays_for_no_false_alarm() -> None:
    by_chance = Labelled(300, 200, 206, 190, 20_000, 50, 250, 50)
    verdict = decide(replace(GOOD, labelled=by_chance), RULES, NOW)
    assert (by_chance.won, by_chance.lost, by_chance.surely_more) == (16, 10, 0)
    assert verdict.reason == "false_alarms"


WAITS: list[tuple[str, dict[str, Any], float, str, str]] = [
    ("not ready", {"ready": False, "problem": "image"}, NOW, "not_ready", "the canary is not ready: image"),
    ("readiness unknown", {"ready": None}, NOW, "not_ready", "the canary does not say whether it is ready"),
    ("baking", {}, BEGAN + 60.0, "baking", "60 s of 600 s at 10 % have passed"),
    ("time unknown", {}, math.nan, "baking", "nan s of 600 s"),
    ("too few requests", {"canary": server(79)}, NOW, "too_few_requests", "needs 80 requests with their latency"),
    ("latency unknown", {"canary": Server(90, 0, ())}, NOW, "too_few_requests", "at 10 %, has 0"),
    ("stable answers nothing", {"stable": NO_REQUESTS}, NOW, "no_baseline", "needs 80 requests to stable"),
    (
        "stable answers nothing in this step",
        {"stable": NO_REQUESTS, "stable_before": server(800)},
        NOW,
        "no_baseline",
        "has 800",
    ),
    ("too few scores", {"skew": Skew(299, 0, 0.0)}, NOW, "too_few_scores", "needs 300 rows with a live and an"),
    ("scores unknown", {"skew": Skew(0, 0, math.nan)}, NOW, "too_few_scores", "offline score, has 0"),
]


@pytest.mark.parametrize(
    ("change", "now", "reason", "said"), [case[1:] for case in WAITS], ids=[case[0] for case in WAITS]
)
def test_what_is_missing_waits_and_after_the_limit_rolls_back(
    change: dict[str, Any], now: float, reason: str, said: str
) -> None:
    facts = replace(GOOD, **change)
    verdict = decide(facts, RULES, now)
    assert (verdict.outcome, verdict.reason) == (Outcome.INCONCLUSIVE, reason)
    assert said in verdict.message
    if reason == "baking":
        return
    verdict = decide(facts, RULES, LATE)
    assert (verdict.outcome, verdict.reason) == (
        Outcome.FAIL,
        "not_ready" if reason == "not_ready" else "out_of_time",
    )
    assert said in verdict.message
    assert "90,000 s have passed, 86,400 s are the limit" in verdict.message


def test_a_cold_start_is_no_harm() -> None:
    assert decide(replace(GOOD, canary=server(10, slower=2)), RULES, NOW).reason == "too_few_requests"


def test_at_full_traffic_a_spell_of_the_machine_is_no_harm_and_a_canary_that_breaks_down_is() -> None:
    spell = Server(820, 0, (0, 450, 70, 0, 300))
    assert decide(replace(LAST, canary=spell), RULES, NOW).passed
    assert decide(replace(LAST, canary=server(820, slower=2)), RULES, NOW).reason == "latency"


def test_a_difference_of_no_interest_is_no_reason_however_sure_it_is() -> None:
    million = replace(GOOD, canary=server(1_000_000, 1_500), stable=server(9_000_000, 900))
    assert decide(million, RULES, NOW).passed
    assert decide(replace(million, canary=server(1_000_000, 2_500)), RULES, NOW).reason == "errors"


def test_a_model_that_repairs_a_drift_is_promoted_and_confirmed() -> None:
    labelled = Labelled(300, 150, 240, 148, 30_000, 150, 300, 120)
    assert decide(replace(LAST, labelled=labelled), RULES, NOW).passed
    assert confirm(labelled, BEGAN, RULES, NOW).reason == "confirmed"


def test_labels_confirm_or_contradict_a_promotion_or_leave_it_provisional() -> None:
    verdict = confirm(replace(EQUAL, frauds=300), BEGAN, RULES, NOW)
    assert (verdict.outcome, verdict.reason) == (Outcome.PASS, "confirmed")
    assert verdict.message.endswith("caught 170 and stable 170 (alone 2 and 2); 300 show a fall of 0.10")
    verdict = confirm(Labelled(150, 120, 106, 105, 0, 0, 0, 0), BEGAN, RULES, NOW)
    assert (verdict.outcome, verdict.reason) == (Outcome.FAIL, "contradicted")
    assert "of 150 labelled frauds the canary caught 106 and stable 120 (alone 1 and 15)" in verdict.message
    verdict = confirm(EQUAL, BEGAN, RULES, NOW)
    assert (verdict.outcome, verdict.reason) == (Outcome.INCONCLUSIVE, "provisional")
    assert verdict.message == "needs 300 labelled frauds to see recall fall by 0.10; has 212"


def test_a_promotion_that_labels_never_confirm_stays_and_says_what_was_missing() -> None:
    verdict = confirm(EQUAL, BEGAN, RULES, BEGAN + RULES.confirm_seconds)
    assert (verdict.outcome, verdict.reason) == (Outcome.PASS, "unconfirmed")
    assert verdict.message == (
        "30 days have passed without a confirmation: needs 300 labelled frauds to see recall fall by 0.10; has 212"
    )


def test_models_that_often_disagree_need_more_frauds() -> None:
    often = Labelled(300, 170, 170, 150, 0, 0, 0, 0)
    verdict = confirm(often, BEGAN, RULES, NOW)
    needed = frauds_needed(0.10, 0.14, RULES.labels_alpha)
    assert needed > 300
    assert verdict.message == f"needs {needed:,} labelled frauds to see recall fall by 0.10; has 300"


def test_three_hundred_frauds_see_the_fall_that_the_rules_name() -> None:
    assert frauds_needed(RULES.recall_fall, DISAGREEMENT, RULES.labels_alpha) <= RULES.frauds


def test_the_frauds_needed_do_show_the_fall() -> None:
    random, seen, runs = np.random.default_rng(3), 0, 4_000
    frauds = frauds_needed(0.05, 0.03, 0.03, 0.9)
    for lost, won, _ in random.multinomial(frauds, [0.065, 0.015, 0.92], runs).tolist():
        seen += evidence(lost, won, 0.5) >= -math.log(0.03)
    assert seen / runs == pytest.approx(0.9, abs=0.02)


def test_a_fall_that_cannot_be_is_refused() -> None:
    for fall, disagreement in ((0.0, 0.01), (0.1, 0.0), (0.6, 0.5)):
        with pytest.raises(ValueError, match="cannot be"):
            frauds_needed(fall, disagreement, 0.03)


@given(st.integers(0, 80), st.integers(0, 80), st.floats(0.001, 0.999))
def test_the_binomial_tail_is_the_exact_sum(most: int, more: int, chance: float) -> None:
    of, exact = most + more, Fraction(chance)
    tail = sum(math.comb(of, k) * exact**k * (1 - exact) ** (of - k) for k in range(most + 1))
    expected = math.log(tail.numerator) - math.log(tail.denominator)
    assert log_at_most(most, of, chance) == pytest.approx(expected, rel=1e-9, abs=1e-10)


def test_the_binomial_tail_of_millions_is_that_of_scipy() -> None:
    for most in (995_000, 1_000_000, 1_004_000):
        expected = binom.logcdf(most, 4_000_000, 0.25)
        assert log_at_most(most, 4_000_000, 0.25) == pytest.approx(expected, rel=1e-6, abs=1e-8)


@given(st.integers(0, 60), st.integers(0, 60), st.floats(0.05, 0.95))
def test_evidence_is_the_mean_likelihood_ratio(canary: int, stable: int, share: float) -> None:
    def ratio(theta: float) -> float:
        odds = canary * math.log(theta / share) + stable * math.log((1 - theta) / (1 - share))
        return math.exp(odds) * 3 * theta**2 / (1 - share**3)

    expected, _ = quad(ratio, share, 1.0 - 1e-12, epsrel=1e-8, limit=200)
    assert math.exp(evidence(canary, stable, share)) == pytest.approx(expected, rel=1e-4, abs=1e-12)


@given(st.integers(0, 2_000), st.integers(0, 2_000), st.floats(0.01, 0.99))
def test_each_event_of_the_canary_raises_the_evidence_and_each_of_stable_lowers_it(
    canary: int, stable: int, share: float
) -> None:
    now = evidence(canary, stable, share)
    assert evidence(canary + 1, stable, share) >= now - 1e-9
    assert evidence(canary, stable + 1, share) <= now + 1e-9


def test_however_often_one_looks_equal_models_are_told_apart_in_less_than_alpha() -> None:
    random, alpha, runs = np.random.default_rng(1), 0.05, 1_000
    alarms = 0
    for coins in (random.random((runs, 60)) < 0.5).tolist():
        lost = accumulate(coins)
        alarms += any(evidence(b, n - b, 0.5) >= -math.log(alpha) for n, b in enumerate(lost, 1))
    assert 0 < alarms / runs < alpha


def test_after_every_error_and_with_rising_shares_equal_servers_are_told_apart_in_less_than_alpha() -> None:
    random, runs, alarms = np.random.default_rng(2), 400, 0
    percents = np.repeat([0.10, 0.25, 0.50, 1.00], 800)
    for _ in range(runs):
        to_canary, failed = random.random(3_200) < percents, random.random(3_200) < 0.005
        requests, usual = to_canary.cumsum(), (~to_canary).cumsum()
        errors, usual_errors = (to_canary & failed).cumsum(), (~to_canary & failed).cumsum()
        alarms += any(
            evidence(int(errors[at]), int(usual_errors[at]), requests[at] / (at + 1))
            >= -math.log(RULES.errors_alpha)
            for at in np.flatnonzero(to_canary & failed & (usual > 0))
        )
    assert alarms / runs < RULES.errors_alpha


counts = st.integers(0, 3_000)
latencies = st.one_of(st.just(()), st.tuples(*[st.integers(0, 1_000)] * 5))


@st.composite
def servers(draw: st.DrawFn) -> Server:
    requests = draw(counts)
    return Server(requests, draw(st.integers(0, requests)), draw(latencies))


@st.composite
def labels(draw: st.DrawFn) -> Labelled:
    lost, won, both, neither = (draw(st.integers(0, most)) for most in (40, 40, 300, 300))
    stable, canary, common, rest = (draw(st.integers(0, 2_000)) for _ in range(4))
    frauds, legitimate = lost + won + both + neither, stable + canary + common + rest
    return Labelled(frauds, lost + both, won + both, both, legitimate, stable + common, canary + common, common)


@st.composite
def some_facts(draw: st.DrawFn) -> Facts:
    rows = draw(counts)
    return Facts(
        draw(st.integers(0, 3)),
        draw(st.sampled_from([BEGAN, math.nan, math.inf])),
        draw(st.sampled_from([True, False, None])),
        draw(st.sampled_from(["", "no image"])),
        draw(servers()),
        draw(servers()),
        BOUNDS,
        Skew(rows, 0, draw(st.sampled_from([0.0, 1e-9, math.nan]))),
        draw(labels()),
        draw(st.integers(0, 3)),
        draw(servers()),
        draw(servers()),
    )


@given(some_facts(), st.sampled_from([NOW, LATE, math.nan]))
def test_any_facts_have_a_verdict_and_only_complete_ones_pass(facts: Facts, now: float) -> None:
    verdict = decide(facts, RULES, now)
    assert verdict.outcome is not Outcome.ERROR
    assert verdict.message
    objects = verdict.reason in ("skew", "errors", "recall", "false_alarms", "latency")
    assert objects == any(check.outcome is Outcome.FAIL for check in checks(facts, RULES, now))
    if verdict.passed:
        step = RULES.steps[facts.step]
        assert facts.ready
        assert now - facts.began >= step.bake_seconds
        assert min(facts.canary.requests, sum(facts.canary.latency)) >= step.requests
        assert facts.skew.rows >= RULES.skew_rows
        assert facts.stable.requests + facts.stable_before.requests > 0


def _worse(facts: Facts) -> list[Facts]:
    """The same with more harm, one kind at a time."""
    canary, labelled, skew = facts.canary, facts.labelled, facts.skew
    found = [
        replace(facts, fallbacks=facts.fallbacks + 1),
        replace(facts, skew=Skew(skew.rows + 1, skew.differing + 1, 1.0)),
        replace(facts, ready=False),
        replace(
            facts,
            labelled=replace(labelled, frauds=labelled.frauds + 1, stable_caught=labelled.stable_caught + 1),
        ),
        replace(
            facts,
            labelled=replace(
                labelled, legitimate=labelled.legitimate + 1, canary_alerts=labelled.canary_alerts + 1
            ),
        ),
    ]
    if canary.errors < canary.requests:
        found.append(replace(facts, canary=replace(canary, errors=canary.errors + 1)))
    if canary.latency and canary.latency[1]:
        slower = (canary.latency[0], canary.latency[1] - 1, *canary.latency[2:4], canary.latency[4] + 1)
        found.append(replace(facts, canary=replace(canary, latency=slower)))
    return found


@given(some_facts(), st.sampled_from([NOW, LATE]))
def test_more_harm_never_turns_a_rollback_into_a_pass(facts: Facts, now: float) -> None:
    before = decide(facts, RULES, now)
    for worse in _worse(facts):
        after = decide(worse, RULES, now)
        if before.outcome is Outcome.FAIL:
            assert not after.passed
            if before.reason in {"skew", "errors", "recall", "false_alarms", "latency"}:
                assert after.outcome is Outcome.FAIL


@given(labels())
def test_one_more_fraud_that_stable_alone_catches_never_turns_a_contradiction_into_a_confirmation(
    labelled: Labelled,
) -> None:
    worse = replace(labelled, frauds=labelled.frauds + 1, stable_caught=labelled.stable_caught + 1)
    if confirm(labelled, BEGAN, RULES, NOW).outcome is Outcome.FAIL:
        assert confirm(worse, BEGAN, RULES, NOW).outcome is Outcome.FAIL


@given(labels())
def test_too_few_frauds_never_confirm(labelled: Labelled) -> None:
    verdict = confirm(labelled, BEGAN, RULES, NOW)
    assert verdict.outcome is not Outcome.PASS or labelled.frauds >= RULES.frauds


@pytest.mark.parametrize("percents", [(), (10, 25), (25, 10, 100), (10, 10, 100), (100,)])
def test_steps_that_do_not_rise_from_below_one_hundred_to_it_are_refused(percents: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError, match="step"):
        RolloutRules(steps=tuple(Step(percent=percent, requests=1) for percent in percents))


def test_a_step_whose_limit_is_within_its_bake_is_refused() -> None:
    with pytest.raises(ValidationError, match="limit_seconds"):
        Step(percent=10, requests=1, bake_seconds=60.0, limit_seconds=60.0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Server(1, 2, ()),
        lambda: Server(1, 0, (-1, 2)),
        lambda: Skew(1, 2, 0.0),
        lambda: Labelled(10, 6, 6, 1, 0, 0, 0, 0),
        lambda: Labelled(0, 0, 0, 0, 10, 2, 2, 3),
        lambda: replace(GOOD, fallbacks=-1),
        lambda: replace(GOOD, bounds=(0.001,)),
        lambda: replace(GOOD, bounds=(0.002, 0.001, 0.005, 0.01)),
    ],
)
def test_counts_that_cannot_be_are_refused(make: Any) -> None:
    with pytest.raises(ValueError, match=r"cannot|do not fit|bounds"):
        make()


def test_simulated_roll_outs_end_as_the_documentation_says() -> None:
    ends = {(world.name, world.frauds): run(world, np.random.SeedSequence(1), 40) for world in worlds()}
    assert all(sum(end.reasons.values()) == 40 for end in ends.values())
    for world in worlds():
        fall_of_a_twentieth = world.name.startswith("recall −0.05")
        if not fall_of_a_twentieth and (world.worse, world.frauds) != (True, 100):
            assert ends[world.name, world.frauds].ours <= 2, world.name
