"""Windows of synthesized traffic through the channels, one after another."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from detectors.channels import Level, Reading
from detectors.engines import load_engine
from detectors.reference import Reference
from detectors.watch import Seen, State, Watch, WindowFacts
from fraudkit.bundle import Bundle
from fraudkit.policy.drift import DriftRules
from fraudkit.schema import INPUTS
from pipelines.data.synthesize import NO_SHIFT, Shift, synthesize
from pipelines.reference import write_reference

ROWS = 60_000


def traffic(rows: int, seed: int, start: float, span: float, shift: Shift = NO_SHIFT) -> np.ndarray:
    batches = synthesize(rows, seed, start=start, span=span, shift=shift)
    return np.concatenate([np.column_stack([batch[name].to_numpy() for name in INPUTS]) for batch in batches])


@pytest.fixture(scope="module", params=["alibi", "scipy"])
def watch(request: pytest.FixtureRequest, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Watch:
    folder: Path = tmp_path_factory.mktemp("watch")
    rows = traffic(ROWS, 1, 0.0, 172_800.0)
    write_reference(rows, bundle.scorer, by_time=True, folder=folder / "reference")
    reference = Reference.of(replace(bundle, path=folder))
    return Watch(bundle.scorer, reference, load_engine(request.param, reference), DriftRules(), 200)


def seen(watch: Watch, rows: np.ndarray, state: State) -> list[Seen]:
    """Windows of 1,000 rows."""
    several = []
    for first in range(0, len(rows), 1_000):
        several.append(watch.read(WindowFacts(rows[first : first + 1_000]), state))
        state = several[-1].state
    return several


def said(several: list[Seen]) -> list[set[Level]]:
    return [{reading.level for reading in window.readings} for window in several]


def test_a_day_without_a_change_is_stable_at_every_hour(watch: Watch) -> None:
    assert said(seen(watch, traffic(20_000, 2, 0.0, 86_400.0), State())) == [{Level.STABLE}] * 20


def said_by(window: Seen, channel: str) -> Reading:
    return next(reading for reading in window.readings if reading.channel == channel)


def test_a_shift_is_drift_soon_and_names_the_columns(watch: Watch) -> None:
    several = seen(watch, traffic(5_000, 3, 36_000.0, 3_600.0, Shift(mean=0.25)), State())
    drifted = [window for window in several if said_by(window, "inputs").level is Level.DRIFT]
    assert drifted
    named = {statistic.subject for statistic in said_by(drifted[-1], "inputs").statistics}
    assert named <= {"V4", "V10", "V14", "score"}
    assert {one.feature for one in drifted[-1].influence[:3]} & {"V4", "V10", "V14"}


def test_what_one_window_left_is_not_asked_of_a_window_after_too_few_rows(watch: Watch) -> None:
    rows = traffic(3_000, 4, 36_000.0, 3_600.0)
    state = seen(watch, rows[:2_000], State())[-1].state
    assert len(state.past) == 2
    few = watch.read(WindowFacts(rows[2_000:2_100]), state)
    assert said_by(few, "inputs").level is Level.INSUFFICIENT_DATA
    assert said_by(few, "inputs").message == "100 rows can be tested, 200 are needed"
    assert few.state.past == ()


def test_the_order_of_rows_within_a_window_changes_no_p_value(watch: Watch) -> None:
    rows = traffic(1_000, 5, 36_000.0, 600.0)
    one, other = (watch.read(WindowFacts(part), State()) for part in (rows, rows[::-1]))
    np.testing.assert_allclose(one.state.past[0].p_values, other.state.past[0].p_values, rtol=1e-6)


WINDOWS = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 150, 200, 400, 1_000]),  # rows
        st.sampled_from([0.0, 20_000.0, 80_000.0]),  # time of day [s]
        st.sampled_from([NO_SHIFT, Shift(mean=0.25), Shift(variance=2.0), Shift(fraud_rate=0.2)]),
        st.integers(0, 40),  # rejected rows
        st.booleans(),  # whether it begins another day
    ),
    min_size=2,
    max_size=8,
)


@settings(max_examples=15)
@given(WINDOWS, st.integers(0, 1_000))
def test_a_watch_that_is_restored_after_each_window_says_the_same(
    watch: Watch, windows: list[tuple[int, float, Shift, int, bool]], seed: int
) -> None:
    whole, broken, past, day = State(), State(), [], 0
    for number, (size, start, shift, rejected, next_day) in enumerate(windows):
        rows = traffic(size, 1_000 * seed + number, start, 900.0, shift) if size else np.empty((0, 30))
        day += next_day
        facts = WindowFacts(rows, (("null", rejected),), day)
        one, other = watch.read(facts, whole), watch.read(facts, broken)
        assert bits(one) == bits(other)
        past.append(rows)
        whole = one.state
        broken = watch.restore(other.state.dump(), past[len(past) - len(whole.past) :])


def bits(value: object) -> object:
    """All that a window left, to the last bit."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, tuple):
        return tuple(bits(one) for one in value)
    if is_dataclass(value):
        return tuple((one.name, bits(getattr(value, one.name))) for one in fields(value))
    return value.hex() if isinstance(value, float) else value


def test_a_past_window_of_which_too_little_is_left_is_not_remembered(watch: Watch) -> None:
    rows = traffic(2_000, 6, 36_000.0, 1_800.0)
    state = seen(watch, rows, State())[-1].state
    left = [np.empty((0, 30)), rows[:199], rows[:200]]
    assert [len(one.values) for one in watch.restore(state.dump(), left).past] == [200]


def test_a_window_of_rejected_rows_alone_is_a_warning_of_its_data(watch: Watch) -> None:
    nothing = watch.read(WindowFacts(np.empty((0, 30)), (("null", 500),)), State())
    assert said_by(nothing, "data_quality").level is Level.WARNING
    assert {reading.level for reading in nothing.readings[1:]} == {Level.INSUFFICIENT_DATA}


def test_a_day_ends_with_the_first_window_of_the_next(watch: Watch) -> None:
    rows, state = traffic(24_000, 8, 0.0, 172_800.0, Shift(mean=0.15)), State()
    slow = []
    for first in range(0, len(rows), 1_000):
        window = watch.read(WindowFacts(rows[first : first + 1_000], (), first // 12_000), state)
        slow += [reading for reading in window.readings if reading.channel == "inputs_slow"]
        state = window.state
    assert [reading.level for reading in slow] == [Level.DRIFT]
    assert {one.subject for one in slow[0].statistics} <= {"V4", "V10", "V14", "score"}


def test_rows_that_come_again_are_no_further_evidence(watch: Watch) -> None:
    rows = traffic(1_000, 9, 36_000.0, 600.0)
    once = watch.read(WindowFacts(rows), State())
    twice = watch.read(WindowFacts(np.concatenate([rows, rows[::-1]])), State())
    np.testing.assert_array_equal(once.state.past[0].p_values, twice.state.past[0].p_values)


def defaults(rules: BaseModel, prefix: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for name in type(rules).model_fields:
        value = getattr(rules, name)
        key = f"{prefix}.{name}"
        found |= defaults(value, key) if isinstance(value, BaseModel) else {key: value}
    return found


def test_every_setting_of_drift_is_in_its_docs_with_its_default() -> None:
    text = (Path(__file__).parents[2] / "docs" / "drift.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| `(drift\.[\w.]+)` \| ([\d.e-]+) \|", text, re.MULTILINE)
    assert {name: float(number) for name, number in told} == defaults(DriftRules(), "drift")
