from __future__ import annotations

import numpy as np
import pytest

from detectors.distinct import empty, estimate, sketch


def rows(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, (count, 30)).astype(np.float32)


@pytest.mark.parametrize("count", [1, 100, 2_000, 5_000, 150_000])
def test_different_rows_are_counted_to_a_few_percent(count: int) -> None:
    assert estimate(sketch(rows(count, count))) == pytest.approx(count, rel=0.1, abs=1)


def test_rows_that_come_again_are_counted_once_in_whatever_parts_they_come() -> None:
    few = rows(2_000, 1)
    drawn = np.random.default_rng(2).choice(few, 50_000)
    merged = empty()
    for part in np.array_split(drawn, 50):
        merged = np.maximum(merged, sketch(part))
    assert (merged == sketch(few)).mean() > 0.999
    assert estimate(merged) == pytest.approx(2_000, rel=0.1)


def test_of_nothing_there_is_nothing() -> None:
    assert estimate(empty()) == 0
    assert (sketch(rows(0, 0)) == empty()).all()
