"""A drift begins once confirmed and ends after calm; every sequence of windows keeps that."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from detectors.channels import Level, Reading, Statistic
from detectors.episodes import EpisodeState, Judged, judge
from fraudkit.policy.drift import EpisodeRule

BY_LETTER = {"d": Level.DRIFT, "w": Level.WARNING, "s": Level.STABLE, "i": Level.INSUFFICIENT_DATA}
RULE = EpisodeRule(warm_up=0)


def readings(letter: str) -> list[Reading]:
    level = BY_LETTER[letter]
    if level is Level.WARNING:
        return [Reading("inputs", Level.STABLE, "calm"), Reading("alert_rate", level, "many")]
    statistics = (Statistic("p_value", "V4", 1e-9, 1e-6, level is Level.DRIFT),)
    return [Reading("inputs", level, str(level), statistics), Reading("alert_rate", Level.STABLE, "as ever")]


def judged(letters: str, rule: EpisodeRule = RULE) -> list[Judged]:
    state, several = EpisodeState(), []
    for number, letter in enumerate(letters):
        several.append(judge(readings(letter), 100.0 * number, state, rule))
        state = EpisodeState.model_validate_json(several[-1].state.model_dump_json())
        assert state == several[-1].state
    return several


def levels(letters: str, rule: EpisodeRule = RULE) -> str:
    return "".join(next(k for k, v in BY_LETTER.items() if v is one.level) for one in judged(letters, rule))


def test_a_drift_lasts_until_three_stable_windows_running() -> None:
    assert levels("sdsswssss") == "sdddddd" + "ss"
    several = judged("sdssss")
    assert [one.raised for one in several] == [False, True, False, False, False, False]
    assert [one.cleared for one in several] == [None, None, None, None, 100.0, None]


def test_a_window_with_too_little_data_neither_confirms_nor_ends() -> None:
    assert levels("dssis") == "dddds"
    assert levels("did", EpisodeRule(confirm=2, warm_up=0)) == "wid"
    assert judged("did", EpisodeRule(confirm=2, warm_up=0))[-1].state.start == 0.0


def test_more_windows_may_be_asked_for_to_confirm() -> None:
    rule = EpisodeRule(confirm=3, warm_up=0)
    assert levels("ddsddd", rule) == "wwswwd"
    assert judged("ddsddd", rule)[-1].state.start == 300.0
    assert judged("dd", rule)[-1].message.startswith("drift, not yet confirmed (2 of 3)")


def test_an_alert_rate_alone_is_a_warning() -> None:
    assert levels("www") == "www"
    assert judged("w")[0].reason == "alert_rate"


def test_a_new_model_warms_up_and_a_plain_drift_is_said_all_the_same() -> None:
    assert [one.level for one in judged("sss", EpisodeRule())] == [
        Level.WARMING_UP,
        Level.WARMING_UP,
        Level.STABLE,
    ]
    assert judged("d", EpisodeRule())[0].raised


def test_what_moved_in_an_episode_is_kept_until_it_ends() -> None:
    several = judged("dwsss")
    assert several[1].state.channels == ("alert_rate", "inputs")
    assert several[3].state.columns == ("V4",)
    assert several[4].state.columns == several[4].state.channels == ()


def test_bad_data_are_said_once_when_they_begin() -> None:
    state, said = EpisodeState(), []
    for level in (Level.WARNING, Level.WARNING, Level.STABLE, Level.WARNING):
        one = judge([Reading("data_quality", level, "bad"), Reading("inputs", Level.STABLE, "")], 0.0, state, RULE)
        state = one.state
        said.append(one.quality)
    assert said == [True, False, False, True]
    assert state.start is None


@given(st.text("dwsi", max_size=60), st.integers(1, 3), st.integers(1, 4))
def test_drifts_begin_and_end_by_turns_and_end_after_calm_alone(letters: str, confirm: int, clear: int) -> None:
    several = judged(letters, EpisodeRule(confirm=confirm, clear=clear, warm_up=0))
    going_on = False
    for number, one in enumerate(several):
        assert not (one.raised and going_on)
        assert one.cleared is None or going_on or one.raised
        going_on = (going_on or one.raised) and one.cleared is None
        assert (one.level is Level.DRIFT) == going_on == (one.state.start is not None)
        if one.cleared is not None:
            said = [letter for letter in letters[: number + 1] if letter != "i"]
            assert said[-clear:] == ["s"] * clear
        if one.raised:
            said = [letter for letter in letters[: number + 1] if letter != "i"]
            assert said[-confirm:] == ["d"] * confirm
    for one in several:
        assert one.level is not Level.STABLE or one.state.start is None
