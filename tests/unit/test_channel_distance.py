"""Distances see what no column shows by itself."""

from __future__ import annotations

import numpy as np
import pytest

from detectors.channels import Level
from detectors.channels.distance import Distance, DistanceState
from detectors.reference import COLUMNS, HOURS, Reference, Values
from fraudkit.policy.drift import DistanceRule

WIDTH = len(COLUMNS)


def values(rng: np.random.Generator, rows: int, *, linked: bool = True) -> Values:
    """Pairs of columns that go together, or columns of the same distributions that do not."""
    numbers = rng.standard_normal((rows, WIDTH))
    if linked:
        numbers[:, 1:28:2] = 0.8 * numbers[:, 0:27:2] + 0.6 * numbers[:, 1:28:2]
    return np.float32(numbers)


@pytest.fixture(scope="module")
def channel() -> Distance:
    rng = np.random.default_rng(0)
    hours = np.sort(rng.integers(0, HOURS, 50_000))
    return Distance(Reference(values(rng, 50_000), hours, by_time=True), DistanceRule())


def test_days_without_a_change_raise_no_warning(channel: Distance) -> None:
    rng, state, levels = np.random.default_rng(1), DistanceState(), set()
    for window in range(400):
        reading, state = channel.read(values(rng, 1_000), np.full(1_000, window % HOURS), state)
        levels.add(reading.level)
    assert levels == {Level.STABLE}


def test_columns_that_no_longer_go_together_are_a_warning(channel: Distance) -> None:
    rng = np.random.default_rng(2)
    reading, _ = channel.read(values(rng, 1_000, linked=False), np.full(1_000, 12), DistanceState())
    assert reading.level is Level.WARNING
    assert reading.statistics[0].beyond


def test_rows_that_come_too_close_are_seen_as_well(channel: Distance) -> None:
    rng = np.random.default_rng(3)
    reading, state = channel.read(np.float32(values(rng, 1_000) * 0.5), np.full(1_000, 12), DistanceState())
    assert reading.level is Level.WARNING
    assert reading.statistics[0].name == "smaller"
    assert state.smaller <= 2 * DistanceRule().threshold


def test_a_new_kind_of_outlier_is_seen_where_the_mean_hardly_moves(channel: Distance) -> None:
    rng, state, names = np.random.default_rng(4), DistanceState(), set()
    for _ in range(8):
        rows = values(rng, 1_000)
        rows[rng.random(1_000) < 0.015, 12] += 9.0
        reading, state = channel.read(rows, np.full(1_000, 12), state)
        names |= {statistic.name for statistic in reading.statistics if statistic.beyond}
    assert "outlying_more" in names


def test_the_warning_ends_when_rows_are_what_they_were(channel: Distance) -> None:
    rng, state = np.random.default_rng(5), DistanceState()
    _, state = channel.read(values(rng, 1_000, linked=False), np.full(1_000, 12), state)
    for _ in range(40):
        reading, state = channel.read(values(rng, 1_000), np.full(1_000, 12), state)
    assert reading.level is Level.STABLE


def test_a_window_without_rows_says_so_and_changes_nothing(channel: Distance) -> None:
    before = DistanceState(1.0, 2.0)
    reading, after = channel.read(np.empty((0, WIDTH), dtype=np.float32), np.empty(0, dtype=np.int64), before)
    assert reading.level is Level.INSUFFICIENT_DATA
    assert after == before


def test_an_hour_of_few_rows_has_the_spread_of_the_day() -> None:
    rng = np.random.default_rng(6)
    hours = np.sort(np.append(np.repeat(np.arange(23), 1_000), [23] * 3))
    channel = Distance(Reference(values(rng, len(hours)), hours, by_time=True), DistanceRule())
    reading, _ = channel.read(values(rng, 1_000), np.full(1_000, 23), DistanceState())
    assert reading.level is Level.STABLE
