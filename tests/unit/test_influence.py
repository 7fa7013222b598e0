"""Features by how much their change moved the log odds: what they add up to is the change of the score."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.influence import Influences
from detectors.reference import COLUMNS, HOURS, Reference, Values
from fraudkit.bundle import Bundle
from fraudkit.schema import DRIFT_FEATURES
from fraudkit.scoring import TERMS, Scorer

ROWS = 24_000


def values_of(hours: np.ndarray, seed: int) -> Values:
    """Normal numbers whose mean goes round with the hour."""
    values = np.random.default_rng(seed).normal(0, 1, (len(hours), len(COLUMNS)))
    return (values + np.sin(hours * np.pi / 12)[:, np.newaxis]).astype(np.float32)


def a_reference(hours: int = HOURS, *, by_time: bool = True) -> Reference:
    of_day = np.sort(np.arange(ROWS) % hours)
    return Reference(values_of(of_day, 0), of_day, by_time=by_time)


@pytest.fixture(scope="module")
def reference() -> Reference:
    return a_reference()


@pytest.fixture(scope="module")
def scorer(bundle: Bundle) -> Scorer:
    return bundle.scorer


def weight(scorer: Scorer, feature: str) -> float:
    return scorer.weights[TERMS.index(feature)]


def test_rows_of_the_reference_themselves_moved_nothing(reference: Reference, scorer: Scorer) -> None:
    hours = np.repeat(np.arange(HOURS), reference.rows_by_hour)
    night = hours < 6
    ranked = Influences(scorer, reference).rank(reference.values[night], hours[night])
    assert {one.feature for one in ranked} == set(DRIFT_FEATURES)
    assert [abs(one.mean_change) + abs(one.spread_change) for one in ranked] == pytest.approx([0.0] * 29, abs=1e-6)


@pytest.mark.parametrize("feature", ["V1", "V14", "V28", "log_amount"])
@pytest.mark.parametrize("shift", [-2.0, 2.0])
def test_a_mean_that_moved_moves_the_log_odds_by_as_much_as_it_weighs(
    reference: Reference, scorer: Scorer, feature: str, shift: float
) -> None:
    values, hours = reference.values[:ROWS].copy(), np.repeat(np.arange(HOURS), reference.rows_by_hour)
    values[:, COLUMNS.index(feature)] += np.float32(shift)
    first = Influences(scorer, reference).rank(values, hours)[0]
    assert first.feature == feature
    assert first.mean_change == pytest.approx(shift * weight(scorer, feature), rel=1e-4)
    assert first.spread_change == pytest.approx(0.0, abs=1e-4)


def test_a_spread_that_grew_has_no_sign_of_its_weight(reference: Reference, scorer: Scorer) -> None:
    hours = np.full(1_000, 6)
    inside = reference.values[reference.starts[6] : reference.starts[7]].copy()
    for feature in ("V4", "V5", "V6"):
        wider, column = inside.copy(), COLUMNS.index(feature)
        wider[:, column] = inside[:, column].mean() + 2 * (inside[:, column] - inside[:, column].mean())
        first = Influences(scorer, reference).rank(wider, hours)[0]
        assert first.feature == feature
        assert first.mean_change == pytest.approx(0.0, abs=1e-4)
        assert first.spread_change == pytest.approx(
            abs(weight(scorer, feature)) * inside[:, column].std(), rel=1e-3
        )


def test_what_the_model_does_not_weigh_comes_last_however_far_it_moved(
    reference: Reference, scorer: Scorer
) -> None:
    weights = list(scorer.weights)
    weights[TERMS.index("V9")] = 0.0
    values, hours = reference.values.copy(), np.repeat(np.arange(HOURS), reference.rows_by_hour)
    values[:, COLUMNS.index("V9")] += np.float32(50)
    values[:, 0] += np.float32(0.1)
    ranked = Influences(replace(scorer, weights=tuple(weights)), reference).rank(values, hours)
    assert ranked[0].feature == "V1"
    assert next(one for one in ranked if one.feature == "V9").mean_change == 0.0


@given(st.integers(1, 60), st.integers(0, 10_000))
def test_changes_of_means_add_up_to_the_change_of_the_log_odds(
    reference: Reference, scorer: Scorer, rows: int, seed: int
) -> None:
    hours = np.random.default_rng(seed).integers(0, HOURS, rows)
    values = values_of(hours, seed)
    weights = np.array(scorer.weights[2:])
    matched = [reference.values[reference.starts[hour] : reference.starts[hour + 1], :29] for hour in hours]
    expected = np.mean([(part @ weights).mean() for part in matched])
    changes = sum(one.mean_change for one in Influences(scorer, reference).rank(values, hours))
    assert changes == pytest.approx((values[:, :29] @ weights).mean() - expected, abs=1e-4)


def test_an_hour_that_the_reference_lacks_is_held_against_all_of_it(scorer: Scorer) -> None:
    reference = a_reference(12, by_time=False)
    ranked = Influences(scorer, reference).rank(reference.values, np.full(ROWS, 20))
    assert [abs(one.mean_change) + abs(one.spread_change) for one in ranked] == pytest.approx([0.0] * 29, abs=1e-6)


def test_no_rows_moved_nothing(reference: Reference, scorer: Scorer) -> None:
    nothing = np.empty((0, len(COLUMNS)), dtype=np.float32)
    assert Influences(scorer, reference).rank(nothing, np.empty(0, dtype=np.int64)) == ()
