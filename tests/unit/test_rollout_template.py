"""Templates of the service: read from a file that changes, and brought by roll-outs of the version that serves."""

from __future__ import annotations

from pathlib import Path

import pytest

from fraudkit.errors import InvalidInput
from fraudkit.policy.rollout import Labelled, RolloutRules, Step
from serving.rollout.engine import Asked, act, ask, failed_template, judge, judge_promotion, renew, settle
from serving.rollout.state import KEPT, Counted, Counts, State, Status, Tally, wanted
from serving.rollout.targets import Observed, Wanted
from serving.rollout.template import TemplateFile, canonical, digest

RULES = RolloutRules(
    steps=tuple(Step(percent=percent, requests=10, bake_seconds=5, limit_seconds=60) for percent in (10, 50, 100))
)
PERCENTS = tuple(step.percent for step in RULES.steps)
VERSION, SECOND = "aaaaaaaaaaaa", "bbbbbbbbbbbb"
NO_LABELS = Labelled(0, 0, 0, 0, 0, 0, 0, 0)
WORSE = Labelled(400, 300, 220, 215, 1_000, 10, 10, 5)
READY = Observed(settled=True, ready=True, mark="m")
TEXT = "spec: {predictor: {model: {runtime: fraud-1}}}\n"
A, B = "template a", "template b"
KEY_A, KEY_B = f"template-{digest(A)}", f"template-{digest(B)}"


def made_from(template: str) -> State:
    state, _ = ask(State(), Asked(VERSION, "bootstrap", "a test", "a first model", template), RULES, 0.0)
    return settle(state, READY, 1.0)


def challenged(state: State, key: str = "manual-a", version: str = SECOND, template: str = A) -> State:
    return ask(state, Asked(version, key, "a test", "to see", template), RULES, 10.0)[0]


def ended(state: State, action: str, now: float = 50.0) -> State:
    assert state.going_on
    return settle(act(state, state.going_on.id, action, "somebody", "to see", now), READY, now)


def renewed(state: State, template: str, action: str = "promote") -> State:
    return ended(renew(state, template, RULES, 40.0), action)


def with_counts(state: State, errors: int = 0) -> State:
    rollout = state.going_on
    assert rollout
    stable = Tally(step=Counted(requests=1_000, latency=(900, 100, 0, 0)), last={"http://a": Counted(requests=9)})
    canary = Tally(step=Counted(requests=100, errors=errors, latency=(90, 10, 0, 0)))
    counts = Counts(stable=stable, canary=canary, bounds=(0.001, 0.002, 0.005))
    return state.with_(rollout.model_copy(update={"counts": counts}))


# The file


def test_a_template_is_what_it_says_and_not_how_it_is_written(tmp_path: Path) -> None:
    file = tmp_path / "template.yaml"
    file.write_text(TEXT)
    read = TemplateFile(file).read()
    file.write_text(
        "# a comment\nkind: InferenceService\nspec:\n  predictor:\n    model: {'runtime': \"fraud-1\"}\n"
    )
    assert TemplateFile(file).read() == read == canonical(read)
    assert digest(read) != digest(canonical(TEXT.replace("fraud-1", "fraud-2")))
    assert digest("") == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read"),
        ("", "not an InferenceService"),
        ("a: [", "not an InferenceService"),
        ("metadata: text\n" + TEXT, "not an InferenceService"),
        ("\xff", "cannot be read"),
        (TEXT.replace("fraud-1", "''"), "must name a runtime"),
        (TEXT.replace("runtime:", "storageUri: s3://x, runtime:"), "neither storageUri"),
        (TEXT.replace("fraud-1", "r, args: &a [*a]"), "as JSON"),
        (TEXT.replace("fraud-1", "r" * 70_000), "at most 65,536"),
    ],
)
def test_what_is_no_template_is_refused_and_says_why(tmp_path: Path, text: str | None, said: str) -> None:
    file = tmp_path / "template.yaml"
    if text is not None:
        file.write_text(text, encoding="latin-1")
    with pytest.raises(InvalidInput, match=said):
        TemplateFile(file).read()


# When it is brought


def test_a_changed_template_is_rolled_out_as_the_same_version_and_is_final_without_labels() -> None:
    state = renew(made_from(A), B, RULES, 40.0)
    assert state.going_on
    assert (state.going_on.key, state.going_on.version, state.going_on.champion) == (KEY_B, VERSION, VERSION)
    now, seen = 40.0, []
    while state.going_on and state.going_on.status is Status.RUNNING:
        seen.append(wanted(state, PERCENTS))
        state = settle(state, READY, now)
        now += 6
        state, verdict = judge(with_counts(state), READY, NO_LABELS, RULES, now)
        assert verdict
        assert verdict.passed, verdict.message
        assert "the model is the one that serves" in verdict.message
    assert seen == [Wanted(VERSION, VERSION, percent, B) for percent in PERCENTS]
    state = settle(state, READY, now)
    assert (state.rollouts[-1].status, state.champion, state.template) == (Status.CONFIRMED, VERSION, B)
    assert renew(state, B, RULES, now) == state


def test_a_template_whose_pods_fail_is_rolled_back_to_the_one_before() -> None:
    state = settle(renew(made_from(A), B, RULES, 40.0), READY, 41.0)
    state, verdict = judge(with_counts(state, errors=60), READY, NO_LABELS, RULES, 42.0)
    assert verdict
    assert verdict.reason == "errors"
    assert wanted(state, PERCENTS) == Wanted(VERSION, template=A)
    assert settle(state, READY, 43.0).template == A


def test_a_template_that_never_gets_ready_is_rolled_back_at_its_limit() -> None:
    state = renew(made_from(A), B, RULES, 40.0)
    away = Observed(settled=False, ready=False, problem="no such runtime", mark="m")
    state, verdict = judge(state, away, NO_LABELS, RULES, 200.0)
    assert verdict
    assert (verdict.reason, state.rollouts[-1].status) == ("not_ready", Status.ROLLING_BACK)


def test_nothing_is_brought_before_a_model_serves_or_while_a_roll_out_goes_on() -> None:
    assert renew(State(), B, RULES, 0.0) == State()
    state = challenged(made_from(A))
    assert renew(state, B, RULES, 20.0) == state


def test_templates_may_come_again_each_time_under_a_key_of_its_own() -> None:
    state = made_from(A)
    for template in (B, A, B, A):
        state = renewed(state, template)
        assert state.template == template
    assert [one.key for one in state.rollouts[1:]] == [KEY_B, KEY_A, f"{KEY_B}-2", f"{KEY_A}-2"]
    for _ in range(KEPT):
        state = renewed(renewed(state, B), A)
    count = 5 + 2 * KEPT
    assert [one.numbered for one in state.rollouts] == [*range(count - KEPT + 1, count + 1)]
    assert len({one.key for one in state.rollouts}) == KEPT


def test_a_template_that_was_rolled_back_is_not_tried_again_by_itself_and_others_are() -> None:
    state = renewed(made_from(A), B, "rollback")
    assert state.template == A
    failed = failed_template(state, B)
    assert failed
    assert failed.key == KEY_B
    assert renew(state, B, RULES, 60.0) == state
    state = renewed(renewed(state, "template c"), A)
    assert renew(state, B, RULES, 60.0) == state
    asked = Asked(VERSION, "manual-b", "somebody", "it is mended", B)
    state = ended(ask(state, asked, RULES, 60.0)[0], "promote")
    assert (state.template, failed_template(state, B)) == (B, None)
    state = renewed(renewed(state, A), B)
    assert state.rollouts[-1].key == f"{KEY_B}-2"


def test_templates_are_no_challengers_in_the_count_of_rejected_ones() -> None:
    state = made_from(A)
    for number in range(3):
        state = renewed(state, f"template {number}", "rollback")
    assert state.rejected_in_a_row() == 0
    for number in range(3):
        state = ended(challenged(state, f"drift-{number}", f"{number:012x}"), "rollback")
    state = renewed(state, B)
    assert (state.rejected_in_a_row(), state.template) == (3, B)


def test_a_promotion_stays_provisional_through_a_template_and_goes_back_with_what_it_came_from() -> None:
    state = ended(challenged(made_from(""), template=A), "promote", 20.0)
    state = renewed(state, B)
    assert state.provisional
    assert state.provisional.key == "manual-a"
    state, _ = judge_promotion(state, WORSE, RULES, 60.0)
    assert wanted(state, PERCENTS) == Wanted(VERSION, template="")
    state = settle(state, READY, 61.0)
    assert (state.champion, state.template) == (VERSION, "")
    state = renew(state, B, RULES, 62.0)
    assert state.going_on
    assert state.going_on.key == f"{KEY_B}-2"


def test_what_is_over_keeps_its_numbers_and_nothing_that_only_a_running_one_needs() -> None:
    state = ended(with_counts(settle(renew(made_from(A), B, RULES, 40.0), READY, 41.0)), "promote")
    over = state.rollouts[-1]
    assert (over.template, over.former_template, over.template_digest) == ("", "", digest(B))
    assert over.counts.canary.step.requests == 100
    assert over.counts.stable.last == {}
