"""The gate, case by case: outcome, name of the check, and the sentence that a person reads."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraudkit.estimate import Estimate
from fraudkit.policy.gate import GateFacts, GateThresholds, RecentFacts, decide
from fraudkit.policy.verdict import Outcome

NOTHING = Estimate(0.0, -0.02, 0.02)
GAIN = Estimate(0.03, 0.01, 0.05)
THRESHOLDS = GateThresholds()

LESS = Estimate(0.2, 0.1, 0.3)
RIGHT = Estimate(1.1, 0.9, 1.4)
SOUND: dict[str, Any] = {
    "challenger": "c" * 12,
    "converged": True,
    "leaks": (),
    "scorer_error": 1e-12,
    "holdout_rows": 57_000,
    "holdout_frauds": 95,
    "roc_auc": Estimate(0.98, 0.97, 0.99),
    "auprc": Estimate(0.81, 0.74, 0.87),
    "natural_rate": 0.0017,
    "calibration": RIGHT,
}
LATER = SOUND | {"champion": "a" * 12, "against_champion": NOTHING, "against_first": NOTHING}


def recent(auprc: Estimate = NOTHING, log_loss: Estimate = NOTHING, calibration: Estimate = RIGHT) -> RecentFacts:
    return RecentFacts(auprc, log_loss, calibration)


@dataclass(frozen=True)
class Case:
    """Facts, and what the gate makes of them.

    Attributes:
        name: A sentence.
        facts: What differs from a sound model.
        message: The message, or how it begins where it ends with `…`.
        base: A first model, or a later one.
    """

    name: str
    outcome: Outcome
    reason: str
    message: str
    facts: dict[str, Any] = field(default_factory=dict)
    base: dict[str, Any] = field(default_factory=lambda: LATER)


CASES = [
    Case(
        "a first model above every floor passes",
        Outcome.PASS,
        "first_model",
        "a first model, above every floor: AUPRC 0.810 (0.740 to 0.870)",
        base=SOUND,
    ),
    Case(
        "a scorer that differs from the pipeline fails",
        Outcome.FAIL,
        "scorer_mismatch",
        "scorer.json and the fitted pipeline differ by 2.0e-09 in probability; at most 1e-09 is allowed",
        {"scorer_error": 2e-9},
    ),
    Case(
        "a scorer whose difference is not a number fails",
        Outcome.FAIL,
        "scorer_mismatch",
        "scorer.json and the fitted pipeline differ by nan in probability; at most 1e-09 is allowed",
        {"scorer_error": math.nan},
    ),
    Case(
        "a scorer that differs by just what is allowed passes this check",
        Outcome.PASS,
        "first_model",
        "a first model, …",
        {"scorer_error": 1e-9},
        SOUND,
    ),
    Case(
        "a model that did not converge fails",
        Outcome.FAIL,
        "not_converged",
        "the logistic regression did not converge",
        {"converged": False},
    ),
    Case(
        "an input that alone separates the classes fails",
        Outcome.FAIL,
        "leak",
        "Time, V3 alone separates the classes",
        {"leaks": ("Time", "V3")},
    ),
    Case(
        "a holdout with too few frauds is inconclusive even for a first model",
        Outcome.INCONCLUSIVE,
        "too_little_data",
        "the holdout has 49 frauds; a verdict needs 50",
        {"holdout_frauds": 49},
        SOUND,
    ),
    Case(
        "a holdout with just enough frauds is enough",
        Outcome.PASS,
        "first_model",
        "a first model, …",
        {"holdout_frauds": 50},
        SOUND,
    ),
    Case(
        "the champion trained again is no gain",
        Outcome.FAIL,
        "no_gain",
        "the challenger is the champion itself (cccccccccccc): nothing to promote",
        {"champion": "c" * 12, "against_champion": GAIN},
    ),
    Case(
        "the champion trained again is no gain whatever else is missing",
        Outcome.FAIL,
        "no_gain",
        "the challenger is the champion itself (cccccccccccc): nothing to promote",
        {"champion": "c" * 12, "against_champion": None, "holdout_frauds": 1},
    ),
    Case(
        "a ROC AUC below the floor fails",
        Outcome.FAIL,
        "below_floor",
        "ROC AUC on the balanced test set is 0.840 (0.800 to 0.880); the floor is 0.85",
        {"roc_auc": Estimate(0.84, 0.80, 0.88)},
    ),
    Case(
        "a ROC AUC that is not a number is below the floor",
        Outcome.FAIL,
        "below_floor",
        "ROC AUC on the balanced test set is nan (nan to nan); the floor is 0.85",
        {"roc_auc": Estimate(math.nan, math.nan, math.nan)},
        SOUND,
    ),
    Case(
        "an AUPRC below ten times the natural rate fails",
        Outcome.FAIL,
        "below_floor",
        "AUPRC on the holdout is 0.016 (0.010 to 0.030); the floor is 0.017",
        {"auprc": Estimate(0.016, 0.01, 0.03)},
    ),
    Case(
        "an AUPRC of one half is enough where frauds are common",
        Outcome.PASS,
        "first_model",
        "a first model, above every floor: AUPRC 0.500 (0.400 to 0.600)",
        {"auprc": Estimate(0.5, 0.4, 0.6), "natural_rate": 0.2},
        SOUND,
    ),
    Case(
        "an AUPRC below one half is not enough where frauds are common",
        Outcome.FAIL,
        "below_floor",
        "AUPRC on the holdout is 0.490 (0.400 to 0.600); the floor is 0.5",
        {"auprc": Estimate(0.49, 0.4, 0.6), "natural_rate": 0.2},
        SOUND,
    ),
    Case(
        "an AUPRC that is not a number is below the floor",
        Outcome.FAIL,
        "below_floor",
        "AUPRC on the holdout is nan (nan to nan); the floor is 0.017",
        {"auprc": Estimate(math.nan, math.nan, math.nan)},
        SOUND,
    ),
    Case(
        "probabilities that are surely far too low are miscalibrated",
        Outcome.FAIL,
        "miscalibrated",
        "the frozen holdout has 4.000 (3.100 to 5.000) frauds for each that the model expects; "
        "between 1/3 and 3 is allowed",
        {"calibration": Estimate(4.0, 3.1, 5.0)},
    ),
    Case(
        "probabilities that are surely far too high are miscalibrated",
        Outcome.FAIL,
        "miscalibrated",
        "the frozen holdout has 0.250 (0.200 to 0.330) frauds for each that the model expects; …",
        {"calibration": Estimate(0.25, 0.2, 0.33)},
    ),
    Case(
        "probabilities that are perhaps not too high are not miscalibrated",
        Outcome.PASS,
        "first_model",
        "a first model, …",
        {"calibration": Estimate(0.25, 0.18, 0.34)},
        SOUND,
    ),
    Case(
        "probabilities that may be right are not miscalibrated",
        Outcome.PASS,
        "first_model",
        "a first model, …",
        {"calibration": Estimate(4.0, 2.9, 5.5)},
        SOUND,
    ),
    Case(
        "a model that was not compared with the champion is inconclusive",
        Outcome.INCONCLUSIVE,
        "not_compared_with_champion",
        "there is no comparison with the champion",
        {"against_champion": None},
    ),
    Case(
        "a model that was not compared with the first one is inconclusive",
        Outcome.INCONCLUSIVE,
        "not_compared_with_first_model",
        "there is no comparison with the first_model",
        {"against_first": None},
    ),
    Case(
        "a model that is worse than the champion by its estimate fails",
        Outcome.FAIL,
        "worse_than_champion",
        "AUPRC on the frozen holdout is -0.060 (-0.090 to -0.030) against the champion; it must be above -0.05, "
        "its lower bound above -0.1",
        {"against_champion": Estimate(-0.06, -0.09, -0.03)},
    ),
    Case(
        "a model that may be much worse than the champion by its lower bound fails",
        Outcome.FAIL,
        "worse_than_champion",
        "AUPRC on the frozen holdout is -0.040 (-0.110 to 0.030) against the champion; it must be above -0.05, "
        "its lower bound above -0.1",
        {"against_champion": Estimate(-0.04, -0.11, 0.03)},
    ),
    Case(
        "a comparison that is not a number is worse",
        Outcome.FAIL,
        "worse_than_champion",
        "AUPRC on the frozen holdout is nan (nan to nan) against the champion; …",
        {"against_champion": Estimate(math.nan, math.nan, math.nan)},
    ),
    Case(
        "a model that beats the champion and is worse than the first model fails",
        Outcome.FAIL,
        "worse_than_first_model",
        "AUPRC on the frozen holdout is -0.060 (-0.120 to 0.010) against the first_model; …",
        {"against_champion": GAIN, "against_first": Estimate(-0.06, -0.12, 0.01)},
    ),
    Case(
        "a model that is surely better on the frozen holdout passes",
        Outcome.PASS,
        "better",
        "AUPRC on the frozen holdout is 0.030 (0.010 to 0.050) above the champion's",
        {"against_champion": GAIN},
    ),
    Case(
        "a model that may be better is no gain",
        Outcome.FAIL,
        "no_gain",
        "AUPRC on the frozen holdout is 0.030 (0.000 to 0.060) above the champion's: no sure gain of 0.01",
        {"against_champion": Estimate(0.03, 0.0, 0.06)},
    ),
    Case(
        "after a drift a model that is surely better on recent rows passes though a little worse on old ones",
        Outcome.PASS,
        "better",
        "AUPRC on recent rows is 0.030 (0.010 to 0.050) above the champion's",
        {"against_champion": Estimate(-0.02, -0.08, 0.04), "recent": recent(GAIN)},
    ),
    Case(
        "after a drift a model that is better only on old rows is no gain",
        Outcome.FAIL,
        "no_gain",
        "AUPRC on recent rows is 0.000 (-0.020 to 0.020) above the champion's: no sure gain of 0.01",
        {"against_champion": GAIN, "recent": recent(NOTHING)},
    ),
    Case(
        "with recent rows a model with a surely lower log loss passes as recalibrated",
        Outcome.PASS,
        "recalibrated",
        "log loss on recent rows falls by a share of 0.200 (0.100 to 0.300), AUPRC is not worse",
        {"recent": recent(NOTHING, LESS)},
    ),
    Case(
        "a sure gain of no interest is none: a roll-out costs more",
        Outcome.FAIL,
        "no_gain",
        "AUPRC on recent rows is 0.009 (0.008 to 0.010) above the champion's: no sure gain of 0.01",
        {"recent": recent(Estimate(0.009, 0.008, 0.01), Estimate(0.04, 0.03, 0.05))},
    ),
    Case(
        "with recent rows probabilities are held against these: they speak at another fraud rate than before",
        Outcome.PASS,
        "better",
        "AUPRC on recent rows is 0.030 (0.010 to 0.050) above the champion's",
        {"recent": recent(GAIN), "calibration": Estimate(0.1, 0.08, 0.12)},
    ),
    Case(
        "probabilities that are surely wrong on recent rows are miscalibrated",
        Outcome.FAIL,
        "miscalibrated",
        "the recent holdout has 4.000 (3.100 to 5.000) frauds for each that the model expects; …",
        {"recent": recent(GAIN, NOTHING, Estimate(4.0, 3.1, 5.0))},
    ),
    Case(
        "with recent rows a log loss that may be lower is no gain",
        Outcome.FAIL,
        "no_gain",
        "AUPRC on recent rows is 0.000 (-0.020 to 0.020) above the champion's: no sure gain of 0.01",
        {"recent": recent(NOTHING, NOTHING)},
    ),
    Case(
        "with recent rows a lower log loss does not make up for a worse AUPRC",
        Outcome.FAIL,
        "no_gain",
        "AUPRC on recent rows is -0.060 (-0.080 to -0.040) above the champion's: no sure gain of 0.01",
        {"recent": recent(Estimate(-0.06, -0.08, -0.04), LESS)},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_the_gate_decides_that(case: Case) -> None:
    facts = GateFacts(**(case.base | case.facts))
    verdict = decide(facts, THRESHOLDS)
    said = verdict.message[: len(case.message) - 1] + "…" if case.message.endswith("…") else verdict.message
    assert (verdict.outcome, verdict.reason, said) == (case.outcome, case.reason, case.message)
    assert verdict.passed is (case.outcome is Outcome.PASS)
    assert verdict.facts is facts


def test_every_reason_of_the_gate_is_in_the_table() -> None:
    assert {case.reason for case in CASES} == {
        *("scorer_mismatch", "not_converged", "leak", "too_little_data", "below_floor", "miscalibrated"),
        *("not_compared_with_champion", "not_compared_with_first_model"),
        *("worse_than_champion", "worse_than_first_model"),
        *("better", "recalibrated", "no_gain", "first_model"),
    }


OBJECTIONS = {
    "scorer_mismatch": {"scorer_error": 1.0},
    "not_converged": {"converged": False},
    "too_little_data": {"holdout_frauds": 0},
    "leak": {"leaks": ("V1",)},
    "below_floor": {"roc_auc": Estimate(0.5, 0.4, 0.6)},
    "miscalibrated": {"calibration": Estimate(9.0, 8.0, 10.0)},
    "worse_than_champion": {"against_champion": Estimate(-0.5, -0.6, -0.4)},
    "worse_than_first_model": {"against_first": Estimate(-0.5, -0.6, -0.4)},
}


@pytest.mark.parametrize("first", range(len(OBJECTIONS)), ids=list(OBJECTIONS))
def test_the_first_objection_decides_whatever_else_is_wrong(first: int) -> None:
    names = list(OBJECTIONS)[first:]
    changes = {key: value for name in names for key, value in OBJECTIONS[name].items()}
    assert decide(GateFacts(**(LATER | changes)), THRESHOLDS).reason == names[0]


ESTIMATES = st.tuples(*[st.floats(allow_nan=True)] * 3).map(lambda numbers: Estimate(*numbers))


@given(
    st.floats(allow_nan=True),
    st.integers(0, 200),
    *[ESTIMATES] * 3,
    st.none() | ESTIMATES,
    st.none() | ESTIMATES,
    st.none() | st.builds(RecentFacts, *[ESTIMATES] * 3),
)
def test_no_facts_whatever_pass_without_a_sure_gain(
    scorer_error: float,
    frauds: int,
    roc_auc: Estimate,
    auprc: Estimate,
    calibration: Estimate,
    champion: Estimate | None,
    first: Estimate | None,
    matured: RecentFacts | None,
) -> None:
    facts = GateFacts(
        **LATER
        | {
            "scorer_error": scorer_error,
            "holdout_frauds": frauds,
            "roc_auc": roc_auc,
            "auprc": auprc,
            "calibration": calibration,
            "against_champion": champion,
            "against_first": first,
            "recent": matured,
        }
    )
    verdict = decide(facts, THRESHOLDS)
    assert verdict.message
    if verdict.passed:
        gains = [(matured.auprc, 0.01), (matured.log_loss, 0.05)] if matured else [(champion, 0.01)]
        assert any(gain is not None and gain.low > 0 and gain.value >= least for gain, least in gains)
        assert frauds >= THRESHOLDS.holdout_frauds
        assert roc_auc.value >= THRESHOLDS.roc_auc


@pytest.mark.parametrize(
    "wrong",
    [{"roc_auc": 1.5}, {"calibration": 1.0}, {"scorer_error": 0.0}, {"holdout_frauds": 0}, {"worse": 0.1}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_thresholds_out_of_bounds_or_unknown_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        GateThresholds(**wrong)


def test_a_changed_threshold_changes_the_verdict() -> None:
    facts = GateFacts(**(SOUND | {"holdout_frauds": 10}))
    assert decide(facts, GateThresholds(holdout_frauds=10)).passed
