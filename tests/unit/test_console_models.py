"""What the page of models says in words and draws: checks, stories, estimates, and what a form asks for."""

from __future__ import annotations

import pytest

from fraudkit.errors import InvalidInput
from serving.console import story
from serving.console.charts import Estimate, estimates
from serving.console.records import CheckRecord, RolloutRecord, RunRecord
from serving.console.views.models import current_of, row
from serving.console.views.runs import launch_body

CHECK = {"outcome": "pass", "canary": None, "stable": None, "limit": None, "at_least": False, "message": ""}
ROLLOUT = {
    "id": "r2-b", "key": "drift-a-1", "version": "b", "champion": "a", "by": "us", "reason": "better",
    "asked": 1.0, "status": "running", "step": 0, "began": 1.0, "counts": {}, "steps": [], "hands": [],
    "said": ["", "", ""], "promoted_at": None, "ended": None,
}  # fmt: skip
STEPS = [
    {"percent": percent, "began": 1, "ended": 2, "requests": 9, "outcome": "pass", "reason": "r", "message": "m"}
    for percent in (10, 50)
]


def rollout(**changes: object) -> RolloutRecord:
    return RolloutRecord.model_validate(ROLLOUT | changes)


def check(name: str, **changes: object) -> CheckRecord:
    return CheckRecord.model_validate(CHECK | {"name": name} | changes)


def test_what_is_needed_is_a_progress_that_is_never_more_than_all_of_it() -> None:
    shown = row(check("requests", canary=1_733.0, limit=300.0, at_least=True))
    assert (shown.canary, shown.limit, shown.value, shown.most) == ("1,733", "300", 300.0, 300.0)
    assert row(check("requests", canary=12.0, limit=300.0, at_least=True)).value == 12.0


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("latency_95", 0.00398, "3.98 ms"),
        ("latency", None, ""),
        ("errors", 0.0015, "0.15%"),
        ("recall", 0.771, "77.1%"),
        ("skew", 3.2e-9, "3.2e-09"),
        ("skew", 0.0, "0"),
        ("false_alarms", 1_200.0, "1,200"),
    ],
)
def test_a_number_is_shown_in_the_unit_of_its_check(name: str, value: float | None, shown: str) -> None:
    assert row(check(name, canary=value)).canary == shown


def test_what_goes_on_comes_before_a_promotion_that_waits_for_labels() -> None:
    waits, goes_on = rollout(status="provisional", version="c"), rollout()
    over = rollout(status="rolled_back", ended=9.0)
    assert current_of([over, waits]) == waits
    assert current_of([waits, goes_on, over]) == goes_on
    assert current_of([over]) is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"status": "confirmed", "champion": None}, "The first model: it took all traffic at once."),
        ({"steps": STEPS, "status": "superseded"}, "It took 10, 50 % of the traffic and was promoted by the"),
        (
            {
                "status": "provisional",
                "promoted_at": 9.0,
                "hands": [{"at": 8.0, "action": "promote", "by": "anna", "reason": "urgent"}],
                "said": ["inconclusive", "provisional", "needs 300"],
            },
            "It took no step and was promoted by anna, provisionally: needs 300.",
        ),
        ({"status": "reversed", "said": ["fail", "contradicted", "it fell"]}, "then taken back: it fell."),
        ({"status": "rolled_back", "said": ["fail", "errors", "5 of 9 failed"]}, "rolled back: 5 of 9 failed."),
        ({"status": "paused"}, "It took no step, and goes on."),
    ],
)  # fmt: skip
def test_the_story_says_what_became_of_a_version(changes: dict[str, object], said: str) -> None:
    assert said in story.chapter(rollout(**changes), None).ended


def test_the_story_says_where_a_version_came_from() -> None:
    run = RunRecord.model_construct(by="/fraud-platform/detector", reason="V14 moved")
    assert story.chapter(rollout(), run).origin == "Trained by a run that the detector asked for: V14 moved."
    by_hand = rollout(key="manual-thresholds-b", by="anna", reason="fewer alerts")
    assert story.chapter(by_hand, None).origin == "anna set other thresholds: fewer alerts."
    assert "changed template" in story.chapter(rollout(version="a"), None).origin


def test_estimates_are_drawn_with_both_intervals_and_say_their_numbers() -> None:
    drawn = str(
        estimates([Estimate("AUPRC", (0.5, 0.6, 0.7), (0.1, 0.2, 0.3)), Estimate("<b>", None, None)], "both")
    )
    assert drawn.count("<circle") == 2
    assert "AUPRC: 0.6 (0.5 to 0.7)" in drawn
    assert "<b>" not in drawn


def test_a_run_by_hand_has_a_key_of_its_own_and_data_only_where_it_is_named() -> None:
    assert launch_body({"name": " fair ", "data_uri": " "}, "anna", "why") == {
        "key": "manual-fair", "by": "anna", "reason": "why",
    }  # fmt: skip
    assert launch_body({"name": "manual-fair", "data_uri": "x.csv"}, "a", "b")["data_uri"] == "x.csv"
    with pytest.raises(InvalidInput, match="name: letters"):
        launch_body({"name": "../x"}, "a", "b")
