"""Windows of synthesized traffic through the channels, one after another."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

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


def test_a_watch_that_is_restored_after_each_window_says_the_same(watch: Watch) -> None:
    rows = np.concatenate([traffic(6_000, 6, 0.0, 86_400.0), traffic(4_000, 7, 0.0, 3_600.0, Shift(variance=1.5))])
    cuts = [0, 900, 1_000, 1_150, 2_500, 4_000, 6_000, 7_000, 8_500, 10_000]
    windows = [rows[start:end] for start, end in pairwise(cuts)]
    whole, broken, past = State(), State(), []
    for number, window in enumerate(windows):
        facts = WindowFacts(window, (("null", number),), number // 4)
        one, other = watch.read(facts, whole), watch.read(facts, broken)
        assert one.readings == other.readings
        assert one.influence == other.influence
        np.testing.assert_array_equal(one.rate.up, other.rate.up)
        past.append(window)
        whole = one.state
        recalled = past[len(past) - len(whole.past) :] if whole.past else []
        broken = watch.restore(other.state.dump(), recalled)
        assert broken.dump() == whole.dump()


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
