"""The alert rate: silent while nothing changes, quick where fraud comes, and the same however rows are cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.channels import Level
from detectors.channels.alert_rate import AlertRate
from detectors.channels.rate import RateState
from detectors.reference import COLUMNS, HOURS, Reference
from fraudkit.policy.drift import RateRule

RULE = RateRule()


def a_reference(rows: int = 200_000, seed: int = 0) -> Reference:
    """Scores that are higher at night: more of them are suspicious then."""
    rng = np.random.default_rng(seed)
    hours = np.sort(rng.integers(0, HOURS, rows))
    values = np.zeros((rows, len(COLUMNS)), dtype=np.float32)
    values[:, -1] = scores(rng, hours)
    return Reference(values, hours, by_time=True)


def scores(rng: np.random.Generator, hours: np.ndarray) -> np.ndarray:
    return np.float32(rng.standard_normal(len(hours)) + np.where(hours < 6, 0.4, 0.0))


@pytest.fixture(scope="module")
def channel() -> AlertRate:
    return AlertRate(a_reference(), RULE)


def test_the_rates_are_those_of_the_hours_drawn_towards_the_days(channel: AlertRate) -> None:
    night, day = channel.rate.rates[:6], channel.rate.rates[6:]
    assert night.min() > 1.5 * day.max()
    assert channel.rate.rates.mean() == pytest.approx(0.005, rel=0.05)


def test_days_without_a_change_raise_no_warning(channel: AlertRate) -> None:
    state, levels = RateState(), set()
    for day in range(10):
        rng = np.random.default_rng([1, day])
        for hour in range(HOURS):
            hours = np.full(5_000, hour)
            reading, state, _ = channel.read(scores(rng, hours), hours, state)
            levels.add(reading.level)
    assert levels == {Level.STABLE}


@pytest.mark.parametrize(("share", "rows"), [(0.01, 6_000), (0.05, 800)])
def test_frauds_are_seen_soon(channel: AlertRate, share: float, rows: int) -> None:
    for seed in range(10):
        rng = np.random.default_rng([2, seed])
        hours = np.full(rows, 12)
        suspicious = np.float32(scores(rng, hours) + np.where(rng.random(rows) < share, 6.0, 0.0))
        reading, state, trace = channel.read(suspicious, hours, RateState())
        assert reading.level is Level.WARNING
        assert reading.statistics[0].name == "suspicious_more"
        assert reading.statistics[0].value == trace.up.max() > RULE.threshold
        assert state.up <= 2 * RULE.threshold


def test_a_rate_that_falls_is_seen_too(channel: AlertRate) -> None:
    hours = np.full(6_000, 12)
    reading, _, _ = channel.read(np.full(6_000, -5.0, dtype=np.float32), hours, RateState())
    assert reading.level is Level.WARNING
    assert reading.statistics[0].name == "suspicious_fewer"


def test_the_warning_ends_when_the_rate_is_what_it_was(channel: AlertRate) -> None:
    rng = np.random.default_rng(3)
    hours = np.full(20_000, 12)
    _, state, _ = channel.read(np.full(200, 9.0, dtype=np.float32), hours[:200], RateState())
    assert state.up == 2 * RULE.threshold
    _, state, _ = channel.read(scores(rng, hours), hours, state)
    assert channel.read(scores(rng, hours), hours, state)[0].level is Level.STABLE


def test_a_window_that_this_model_did_not_score_says_so_and_changes_nothing(channel: AlertRate) -> None:
    before = RateState(3.0, 1.0)
    reading, after, _ = channel.read(np.empty(0, dtype=np.float32), np.empty(0, dtype=np.int64), before)
    assert reading.level is Level.INSUFFICIENT_DATA
    assert after == before


def test_an_hour_that_the_reference_lacks_has_the_rate_of_the_day() -> None:
    whole = a_reference(20_000)
    first = Reference(
        whole.values[: whole.starts[20]], np.repeat(np.arange(20), whole.rows_by_hour[:20]), by_time=True
    )
    for shrink in (0.0, 5_000.0):
        rates = AlertRate(first, RateRule(shrink=shrink)).rate.rates
        assert rates[20:] == pytest.approx([0.005] * 4, rel=0.05)


@given(st.integers(0, 400))
def test_it_does_not_matter_where_rows_are_cut(place: int) -> None:
    channel = AlertRate(a_reference(5_000), RULE)
    rng = np.random.default_rng(4)
    hours = rng.integers(0, HOURS, 400)
    values = scores(rng, hours)
    _, whole, _ = channel.read(values, hours, RateState())
    _, first, _ = channel.read(values[:place], hours[:place], RateState())
    _, second, _ = channel.read(values[place:], hours[place:], first)
    assert second.up == pytest.approx(whole.up, abs=1e-9)
    assert second.down == pytest.approx(whole.down, abs=1e-9)
