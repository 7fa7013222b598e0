"""Windows of synthesized traffic through the channels, one after another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detectors.channels import Level
from detectors.engines import load_engine
from detectors.reference import Reference
from detectors.watch import Rules, Seen, State, Watch
from fraudkit.bundle import Bundle
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
    return Watch(bundle.scorer, reference, load_engine(request.param, reference), Rules())


def seen(watch: Watch, rows: np.ndarray, state: State) -> list[Seen]:
    """Windows of 1,000 rows."""
    several = []
    for first in range(0, len(rows), 1_000):
        several.append(watch.read(rows[first : first + 1_000], state, 200))
        state = several[-1].state
    return several


def said(several: list[Seen]) -> list[set[Level]]:
    return [{reading.level for reading in window.readings} for window in several]


def test_a_day_without_a_change_is_stable_at_every_hour(watch: Watch) -> None:
    assert said(seen(watch, traffic(20_000, 2, 0.0, 86_400.0), State())) == [{Level.STABLE}] * 20


def test_a_shift_is_drift_soon_and_names_the_columns(watch: Watch) -> None:
    several = seen(watch, traffic(5_000, 3, 36_000.0, 3_600.0, Shift(mean=0.25)), State())
    drifted = [window.readings[0] for window in several if window.readings[0].level is Level.DRIFT]
    assert drifted
    assert {statistic.subject for statistic in drifted[-1].statistics} <= {"V4", "V10", "V14", "score"}


def test_what_one_window_left_is_not_asked_of_a_window_after_too_few_rows(watch: Watch) -> None:
    rows = traffic(3_000, 4, 36_000.0, 3_600.0)
    state = seen(watch, rows[:2_000], State())[-1].state
    assert len(state.past) == 2
    few = watch.read(rows[2_000:2_100], state, 200)
    assert few.readings[0].level is Level.INSUFFICIENT_DATA
    assert few.readings[0].message == "100 rows can be tested, 200 are needed"
    assert few.state.past == ()


def test_the_order_of_rows_within_a_window_changes_no_p_value(watch: Watch) -> None:
    rows = traffic(1_000, 5, 36_000.0, 600.0)
    one, other = (watch.read(part, State(), 200) for part in (rows, rows[::-1]))
    np.testing.assert_allclose(one.state.past[0].p_values, other.state.past[0].p_values, rtol=1e-6)
