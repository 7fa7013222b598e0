"""Windows depend on the times of rows alone, and cumulative sums not on where rows are cut."""

from __future__ import annotations

from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.cusum import bernoulli_steps, path
from detectors.windows import Cut, Window, WindowRule, cut, pool

RULE = WindowRule(rows=100, buckets=5, least=20)
BUCKETS = st.dictionaries(st.integers(0, 60), st.integers(1, 150), max_size=40)


def test_a_window_ends_with_the_bucket_that_brings_it_to_enough_rows() -> None:
    assert cut([(3, 40), (4, 59), (5, 70), (6, 1)], 7, RULE) == Cut((Window(3, 6, 169),), Window(6, 7, 1))


def test_a_window_ends_after_its_longest_time_even_where_no_more_rows_come() -> None:
    assert cut([(3, 40)], 7, RULE) == Cut((), Window(3, 4, 40))
    assert cut([(3, 40)], 8, RULE) == Cut((Window(3, 8, 40),), None)
    assert cut([], 8, RULE, Window(3, 4, 40)) == Cut((Window(3, 8, 40),), None)


def test_a_window_begins_where_there_are_rows_again() -> None:
    assert cut([(3, 40), (50, 100)], 51, RULE).ended == (Window(3, 8, 40), Window(50, 51, 100))


@pytest.mark.parametrize("buckets", [[(4, 1), (3, 1)], [(9, 1)], [(3, 1), (3, 1)]])
def test_buckets_out_of_order_or_not_closed_are_refused(buckets: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="out of order or not closed"):
        cut(buckets, 9, RULE)


@given(BUCKETS, st.lists(st.integers(0, 70), max_size=10))
def test_it_does_not_matter_when_buckets_are_closed(rows: dict[int, int], stops: list[int]) -> None:
    at_once = cut(sorted(rows.items()), 70, RULE)
    ended: list[Window] = []
    begun, former = None, 0
    for stop in [*sorted(stops), 70]:
        part = cut([(n, rows[n]) for n in sorted(rows) if former <= n < stop], stop, RULE, begun)
        ended += part.ended
        begun, former = part.open, max(former, stop)
    assert Cut(tuple(ended), begun) == at_once


@given(BUCKETS)
def test_every_row_is_in_one_window(rows: dict[int, int]) -> None:
    result = cut(sorted(rows.items()), 100, RULE)
    assert result.open is None
    assert sum(window.rows for window in result.ended) == sum(rows.values())
    for window in result.ended:
        assert window.rows == sum(count for number, count in rows.items() if window.start <= number < window.end)
        assert window.end - window.start <= RULE.buckets
        assert window.rows >= RULE.rows or window.end - window.start == RULE.buckets
    for former, later in zip(result.ended, result.ended[1:], strict=False):
        assert former.end <= later.start


def test_windows_are_pooled_from_the_first_to_the_last() -> None:
    assert pool([Window(3, 8, 40), Window(9, 10, 100), Window(10, 12, 7)]) == Window(3, 12, 147)


@pytest.mark.parametrize("numbers", [(0, 1, 0), (10, 0, 5), (10, 5, 11)])
def test_a_rule_that_makes_no_sense_is_refused(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="at least one row"):
        WindowRule(*numbers)


@given(st.floats(0, 10), st.lists(st.floats(-5, 5), max_size=50), st.integers(0, 50))
def test_a_sum_is_that_of_the_definition_wherever_it_is_cut(start: float, steps: list[float], place: int) -> None:
    wanted = list(accumulate(steps, lambda total, step: max(0.0, total + step), initial=start))[1:]
    np.testing.assert_allclose(path(start, np.array(steps)), wanted, atol=1e-9)
    first = path(start, np.array(steps[:place]))
    rest = path(first[-1] if len(first) else start, np.array(steps[place:]))
    np.testing.assert_allclose([*first, *rest], wanted, atol=1e-9)


@given(st.floats(1e-4, 0.5), st.floats(0.2, 5))
def test_a_bernoulli_step_is_the_log_likelihood_ratio(expected: float, factor: float) -> None:
    changed = expected * factor / (1 - expected + expected * factor)
    hit, miss = bernoulli_steps(np.array([True, False]), np.full(2, expected), factor)
    assert hit == pytest.approx(np.log(changed / expected), abs=1e-9)
    assert miss == pytest.approx(np.log((1 - changed) / (1 - expected)), abs=1e-9)
    assert expected * hit + (1 - expected) * miss <= 1e-12  # unchanged, it goes down
    assert changed * hit + (1 - changed) * miss >= -1e-12  # changed, it goes up
