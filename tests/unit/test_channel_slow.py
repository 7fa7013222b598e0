"""A day's histograms: clean days are stable whatever their reference, and small lasting shifts are not."""

from __future__ import annotations

import numpy as np
import pytest

from detectors.channels import Level
from detectors.channels.slow import SlowState, read
from detectors.distinct import sketch
from detectors.histograms import Histograms
from detectors.reference import COLUMNS, HOURS, Reference, Values
from fraudkit.policy.drift import SlowRule

ROWS = 48_000


def values_of(rows: int, seed: int, hours: np.ndarray, shift: float = 0.0) -> Values:
    random = np.random.default_rng(seed)
    values = random.normal(0, 1, (rows, len(COLUMNS))) + np.sin(hours * np.pi / 12)[:, None]
    values[:, 3] += shift
    return values.astype(np.float32)


@pytest.fixture(scope="module")
def reference() -> Reference:
    hours = np.sort(np.arange(ROWS) % HOURS)
    return Reference(values_of(ROWS, 0, hours), hours, by_time=True)


def day_of(histograms: Histograms, rows: int, seed: int, shift: float = 0.0) -> SlowState:
    hours = np.random.default_rng(seed).integers(0, 12, rows)  # half a day: the mix of hours is another
    values = values_of(rows, seed + 1_000, hours, shift)
    return SlowState.empty(0).add(histograms.count(values), np.bincount(hours, minlength=HOURS), sketch(values))


def test_every_value_is_in_a_bin_and_bins_are_equal_in_the_reference(reference: Reference) -> None:
    histograms = Histograms(reference)
    counts = histograms.count(reference.values)
    assert (counts.sum(axis=1) == ROWS).all()
    assert np.abs(counts - ROWS / 50).max() <= 2
    expected, _ = histograms.expected(reference.rows_by_hour)
    np.testing.assert_allclose(expected, counts)


def test_clean_days_are_stable(reference: Reference) -> None:
    histograms = Histograms(reference)
    levels = [read(day_of(histograms, 30_000, seed), histograms, SlowRule()).level for seed in range(30)]
    assert set(levels) == {Level.STABLE}


def test_of_clean_columns_as_many_look_changed_as_the_level_says(reference: Reference) -> None:
    """The reference's own error is in the variance: without it most would."""
    histograms, rule = Histograms(reference), SlowRule(alpha=0.9, min_effect=1e-9)  # .015 for each of 60
    readings = [read(day_of(histograms, 30_000, seed), histograms, rule) for seed in range(100, 140)]
    beyond = sum(one.beyond for reading in readings for one in reading.statistics if one.name == "p_value_chi2")
    assert 0.2 < beyond / len(readings) < 0.9  # thirty columns at a level of .015


def test_a_small_shift_of_one_column_is_drift_and_named_first(reference: Reference) -> None:
    histograms = Histograms(reference)
    reading = read(day_of(histograms, 30_000, 1, shift=0.1), histograms, SlowRule())
    assert reading.level is Level.DRIFT
    assert {one.subject for one in reading.statistics} == {COLUMNS[3]}


def test_a_shift_that_is_significant_but_without_effect_is_stable(reference: Reference) -> None:
    histograms = Histograms(reference)
    day = day_of(histograms, 100_000, 1, shift=0.06)
    assert read(day, histograms, SlowRule(min_effect=0.05)).level is Level.STABLE
    assert read(day, histograms, SlowRule(min_effect=1e-3)).level is Level.DRIFT


def test_a_day_of_few_rows_says_nothing(reference: Reference) -> None:
    histograms = Histograms(reference)
    assert read(day_of(histograms, 9_999, 1), histograms, SlowRule()).level is Level.INSUFFICIENT_DATA


def test_days_merge_by_addition(reference: Reference) -> None:
    histograms = Histograms(reference)
    one, other = day_of(histograms, 9_000, 1), day_of(histograms, 9_000, 2)
    merged = one.add(other.counts, other.hours, other.rows)
    assert merged.hours.sum() == 18_000
    again = other.add(one.counts, one.hours, one.rows)
    assert read(merged, histograms, SlowRule()) == read(again, histograms, SlowRule())


def test_a_reference_without_regard_to_time_stands_for_hours_that_it_lacks() -> None:
    hours = np.full(20_000, 5)
    reference = Reference(values_of(20_000, 0, hours), hours, by_time=False)
    histograms = Histograms(reference)
    expected, variance = histograms.expected(np.eye(1, HOURS, 7, dtype=np.int64)[0] * 100)
    np.testing.assert_allclose(expected, 2.0, rtol=0.05)
    assert (variance >= expected).all()


def test_a_day_that_is_drawn_from_few_rows_is_not_a_drift(reference: Reference) -> None:
    """Without regard to rows that come again, what few rows differ by chance would be significant."""
    histograms = Histograms(reference)
    random = np.random.default_rng(5)
    hours = random.integers(0, 12, 2_000)
    few = values_of(2_000, 77, hours)
    drawn = random.integers(0, 2_000, 50_000)
    counts, by_hour = histograms.count(few[drawn]), np.bincount(hours[drawn], minlength=HOURS)
    day = SlowState.empty(0).add(counts, by_hour, sketch(few[drawn]))
    assert read(day, histograms, SlowRule(min_effect=0.001)).level is Level.STABLE
    as_if_new = SlowState.empty(0).add(counts, by_hour, sketch(values_of(50_000, 78, hours[drawn])))
    assert read(as_if_new, histograms, SlowRule(min_effect=0.001)).level is Level.DRIFT
