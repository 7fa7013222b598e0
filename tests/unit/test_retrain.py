"""When a drift is answered with a run; each refusal says what is missing, with its numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraudkit.policy.retrain import DriftFacts, Launched, RetrainThresholds, decide
from fraudkit.policy.verdict import Outcome

NOW = 1_800_000_000.0
THRESHOLDS = RetrainThresholds()
READY = DriftFacts(NOW - 90_000.0, ("inputs",), ("V4", "V10"), 140, (1_000,) * 24, Launched())


def test_a_drift_with_enough_to_learn_from_asks_for_a_run() -> None:
    verdict = decide(READY, THRESHOLDS, NOW)
    assert (verdict.outcome, verdict.reason) == (Outcome.PASS, "drift_confirmed")
    assert verdict.message == "V4, V10 moved; 140 matured frauds and 24,000 rows to learn from"
    assert verdict.facts is READY


@pytest.mark.parametrize(
    ("change", "reason", "said"),
    [
        ({"start": None}, "no_drift", "no drift"),
        ({"columns": ("V4",)}, "too_narrow", "1 of 2 columns did"),
        ({"launched": None}, "launcher_silent", "does not answer"),
        ({"launched": Launched(active=("manual-x",))}, "in_flight", "run manual-x is going on"),
        ({"launched": Launched(attempts=1, own="promoted")}, "answered", "was promoted"),
        ({"launched": Launched(last=NOW - 3_600.0)}, "cooldown", "23.0 hours of 24 are left"),
        ({"frauds": 37}, "too_few_frauds", "needs 100 matured frauds, has 37"),
        (
            {"launched": Launched(attempts=1, last=NOW - 90_000.0, frauds_then=120)},
            "too_few_new_frauds",
            "needs 50 since the last run, has 20",
        ),
        ({"rows_by_hour": (800,) * 24}, "too_few_rows", "needs 20,000 rows, there are 19,200"),
        (
            {"rows_by_hour": (2_000,) * 7 + (99,) + (2_000,) * 16},
            "hours_uncovered",
            "needs 100 rows in each hour of the day, hour 7 has 99",
        ),
    ],
)
def test_each_refusal_waits_and_says_why(change: dict[str, object], reason: str, said: str) -> None:
    verdict = decide(replace(READY, **change), THRESHOLDS, NOW)  # type: ignore[arg-type]
    assert (verdict.outcome, verdict.reason) == (Outcome.INCONCLUSIVE, reason)
    assert said in verdict.message


@pytest.mark.parametrize(
    "change", [{"channels": ("alert_rate",)}, {"channels": ("labels",)}, {"columns": ("score",)}]
)
def test_score_alert_rate_and_labels_need_no_second_column(change: dict[str, tuple[str, ...]]) -> None:
    assert decide(replace(READY, **({"columns": ("V4",)} | change)), THRESHOLDS, NOW).passed  # type: ignore[arg-type]


def test_three_rejected_challengers_in_a_row_call_a_person() -> None:
    outcomes = ("rejected", "no_gain", "rolled_back")
    verdict = decide(replace(READY, launched=Launched(outcomes=outcomes)), THRESHOLDS, NOW)
    assert (verdict.outcome, verdict.reason) == (Outcome.FAIL, "rejected_repeatedly")
    again = ("rejected", "rejected", "promoted", "rejected")
    assert decide(replace(READY, launched=Launched(outcomes=again)), THRESHOLDS, NOW).passed


ORDER = {Outcome.FAIL: 0, Outcome.INCONCLUSIVE: 1, Outcome.PASS: 2}


@given(
    st.integers(0, 300),
    st.integers(0, 100),
    st.lists(st.integers(0, 3_000), min_size=24, max_size=24),
    st.integers(0, 2_000),
    st.floats(0, 1e6),
)
def test_more_frauds_more_rows_and_more_time_never_turn_a_yes_into_a_no(
    frauds: int, more_frauds: int, rows: list[int], more_rows: int, later: float
) -> None:
    launched = Launched(attempts=1, last=NOW - 80_000.0, frauds_then=20)
    facts = replace(READY, frauds=frauds, rows_by_hour=tuple(rows), launched=launched)
    more = replace(facts, frauds=frauds + more_frauds, rows_by_hour=tuple(n + more_rows for n in rows))
    assert ORDER[decide(more, THRESHOLDS, NOW + later).outcome] >= ORDER[decide(facts, THRESHOLDS, NOW).outcome]
