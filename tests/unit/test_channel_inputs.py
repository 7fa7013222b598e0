"""The fast rule on inputs and score."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.channels import Level
from detectors.channels.inputs import read
from detectors.reference import COLUMNS
from fraudkit.policy.drift import FastRule

RULE = FastRule()
WIDTH = len(COLUMNS)


def p_values(**columns: float) -> np.ndarray:
    values = np.full(WIDTH, 0.5)
    for name, value in columns.items():
        values[COLUMNS.index(name)] = value
    return values


def test_one_window_is_enough_where_it_is_extreme() -> None:
    reading = read(p_values(V4=1e-5 / WIDTH / 2), None, None, RULE)
    assert reading.level is Level.DRIFT
    assert reading.statistics[0].subject == "V4"
    assert "V4: p in this window 1.7e-07, below 3.3e-07" in reading.message


def test_two_windows_running_are_needed_where_it_is_plain_and_of_the_same_column() -> None:
    plain = 0.02 / WIDTH / 2
    assert read(p_values(V4=plain), p_values(V4=plain), None, RULE).level is Level.DRIFT
    assert read(p_values(V4=plain), p_values(V5=plain), None, RULE).level is Level.STABLE
    assert read(p_values(V4=plain), None, None, RULE).level is Level.STABLE
    assert read(p_values(), p_values(V4=1e-12), None, RULE).level is Level.STABLE


def test_three_pooled_windows_see_what_each_alone_does_not() -> None:
    assert read(p_values(), p_values(), p_values(score=2e-5 / WIDTH / 2), RULE).level is Level.DRIFT
    assert read(p_values(), p_values(), p_values(score=2e-5 / WIDTH * 1.01), RULE).level is Level.STABLE


def test_one_unlikely_window_is_a_warning() -> None:
    assert read(p_values(V4=1e-4 / WIDTH / 2), None, None, RULE).level is Level.WARNING
    assert read(p_values(V4=1e-4 / WIDTH * 1.01), None, None, RULE).level is Level.STABLE


def test_columns_are_named_from_the_furthest_on_and_counted() -> None:
    reading = read(p_values(V1=1e-9, V2=1e-12, log_amount=1e-8), None, None, RULE)
    assert [statistic.subject for statistic in reading.statistics] == ["V2", "V1", "log_amount"]
    assert reading.message.endswith("(and 2 more columns)")


@pytest.mark.parametrize("value", [np.nan, -0.1, 1.1])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_is_no_p_value_is_refused_wherever_it_stands(value: float, place: int) -> None:
    given_values = [p_values(), p_values(), p_values()]
    given_values[place] = p_values(V7=value)
    with pytest.raises(ValueError, match="p-values"):
        read(*given_values, RULE)


@given(
    st.lists(st.floats(1e-12, 1), min_size=WIDTH, max_size=WIDTH), st.integers(0, WIDTH - 1), st.floats(0.01, 0.99)
)
def test_less_likely_is_never_less_alarming(values: list[float], column: int, factor: float) -> None:
    order = [Level.STABLE, Level.WARNING, Level.DRIFT]
    now = np.array(values)
    less = now.copy()
    less[column] *= factor
    assert order.index(read(less, now, now, RULE).level) >= order.index(read(now, now, now, RULE).level)
