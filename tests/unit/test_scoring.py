"""The linear scorer: probabilities, alerts, reasons, and the bytes it is kept in."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fraudkit.errors import BundleError
from fraudkit.schema import INPUTS, LIMIT
from fraudkit.scoring import ALERTS, TERMS, Scorer, Thresholds, sigmoid

RANDOM = np.random.default_rng(0)
TYPICAL = (13 * 3600.0, *RANDOM.normal(size=28).tolist(), 22.0)
SCORER = Scorer(
    weights=tuple(RANDOM.normal(size=31).tolist()),
    intercept=-4.5,
    natural_rate=0.002,
    thresholds=Thresholds(review=0.05, block=0.75),
    typical=TYPICAL,
)
TYPICAL_ROW = np.array([TYPICAL])

ROWS = arrays(
    float,
    st.tuples(st.integers(1, 5), st.just(30)),
    elements=st.floats(-1e4, 1e4, allow_nan=False),
).map(lambda rows: np.column_stack([np.abs(rows[:, 0]) * 100, rows[:, 1:29], np.abs(rows[:, 29])]))


def by_hand(row: list[float]) -> float:
    """Log odds of one row as the formula reads."""
    hour = math.floor(row[0] / 3600) % 24
    terms = [math.sin(2 * math.pi * hour / 24), math.cos(2 * math.pi * hour / 24), *row[1:29], math.log1p(row[29])]
    return SCORER.intercept + math.fsum(w * x for w, x in zip(SCORER.weights, terms, strict=True))


@given(ROWS)
def test_the_log_odds_are_those_of_the_formula(rows: np.ndarray) -> None:
    expected = [by_hand(row) for row in rows.tolist()]
    assert SCORER.logits(rows) == pytest.approx(expected, rel=1e-12, abs=1e-8)


@given(ROWS)
def test_contributions_sum_to_the_log_odds_less_those_of_the_typical_transaction(rows: np.ndarray) -> None:
    difference = SCORER.logits(rows) - SCORER.logits(TYPICAL_ROW)
    assert SCORER.contributions(rows).sum(axis=1) == pytest.approx(difference, rel=1e-12, abs=1e-7)


def test_the_typical_transaction_has_no_contributions() -> None:
    assert np.abs(SCORER.contributions(TYPICAL_ROW)).max() == 0.0


@given(ROWS)
def test_reasons_come_by_magnitude_and_each_input_once(rows: np.ndarray) -> None:
    for row, reasons in zip(rows, SCORER.reasons(rows), strict=True):
        sizes = [abs(reason.contribution) for reason in reasons]
        assert sizes == sorted(sizes, reverse=True)
        assert {reason.feature for reason in reasons} == set(INPUTS)
        assert all(reason.value == row[INPUTS.index(reason.feature)] for reason in reasons)
        assert all(reason.typical == TYPICAL[INPUTS.index(reason.feature)] for reason in reasons)


def test_reasons_of_equal_magnitude_come_in_the_order_of_the_inputs() -> None:
    assert [reason.feature for reason in SCORER.reasons(TYPICAL_ROW)[0]] == list(INPUTS)


def test_a_time_on_another_day_scores_as_the_same_hour() -> None:
    later = TYPICAL_ROW.copy()
    later[0, 0] += 86_400 * 20_000
    assert SCORER.logits(later) == SCORER.logits(TYPICAL_ROW)


def test_scoring_leaves_the_rows_as_they_are() -> None:
    rows = TYPICAL_ROW.copy()
    SCORER.reasons(rows)
    SCORER.probabilities(rows)
    assert np.array_equal(rows, TYPICAL_ROW)


def test_no_rows_have_no_scores() -> None:
    empty = np.empty((0, 30))
    assert SCORER.probabilities(empty).size == 0
    assert SCORER.reasons(empty) == []


def test_a_row_scores_the_same_alone_and_among_others() -> None:
    rows = np.abs(RANDOM.normal(size=(1_000, 30)))
    alone = [SCORER.probabilities(row[np.newaxis])[0] for row in rows]
    assert np.abs(SCORER.probabilities(rows) - alone).max() < 1e-12


def rows_of(count: int, scale: float, seed: int = 0) -> np.ndarray:
    """Rows whose components are of the magnitude of `scale`, and whose Time and Amount go up to the limit."""
    random = np.random.default_rng(seed)
    rows = random.normal(0, scale, (count, 30)).clip(-LIMIT, LIMIT)
    rows[:, 0] = random.uniform(0, min(LIMIT, 1e5 * scale), count)
    rows[:, 29] = np.abs(rows[:, 29])
    return rows


SIZES = (1, 2, 3, 1_023, 1_024, 1_025, 2_048, 2_049)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e6, 1e12])
@pytest.mark.parametrize("count", SIZES)
def test_a_row_has_the_same_log_odds_to_the_last_bit_in_any_batch(count: int, scale: float) -> None:
    rows = rows_of(2_049, scale)
    alone = np.concatenate([SCORER.logits(row[np.newaxis]) for row in rows[:count]])
    assert np.array_equal(SCORER.logits(rows[:count]), alone)
    assert np.array_equal(SCORER.logits(rows)[:count], alone)
    assert np.array_equal(SCORER.logits(rows[:count][::-1]), alone[::-1])


def alone_score(scorer: Scorer, row: Sequence[float]) -> tuple[float, int]:
    return scorer.score_row(row[0], row[1:29], row[29])


def check_alone(rows: np.ndarray) -> None:
    """Raise unless each row scores alone like among others, but for the last bits of its largest term."""
    together = SCORER.probabilities(rows)
    terms = np.abs(rows[:, 1:29] * SCORER.weights[2:30]).max(axis=1, initial=1.0)
    for row, probability, largest in zip(rows.tolist(), together, terms, strict=True):
        alone, level = alone_score(SCORER, row)
        assert alone == pytest.approx(probability, rel=1e-14 * largest, abs=1e-300)
        assert level == SCORER.alerts(np.array([alone]))[0]


@pytest.mark.parametrize("scale", [1e-9, 0.1, 1.0, 30.0, 1e3])
@pytest.mark.parametrize("count", [1, 1_025])
def test_one_row_without_numpy_scores_like_many_with_it(count: int, scale: float) -> None:
    check_alone(rows_of(count, scale, seed=1))


@given(ROWS)
def test_one_row_scores_like_many_whatever_the_row(rows: np.ndarray) -> None:
    check_alone(rows)


def test_one_row_of_integers_scores_like_the_same_floats() -> None:
    row = [7_200, *range(-14, 14), 3]
    assert alone_score(SCORER, row) == alone_score(SCORER, [float(value) for value in row])
    assert alone_score(SCORER, tuple(row)) == alone_score(SCORER, row)


@pytest.mark.parametrize(
    "time", [0.0, 3_599.999_999, 3_600.0, 86_399.0, 86_400.0, 1e9 + 0.5, math.nextafter(1e12, 0), 1e12]
)
def test_one_row_and_many_see_the_same_hour(time: float) -> None:
    row = [time, *TYPICAL[1:]]
    assert alone_score(SCORER, row)[0] == pytest.approx(SCORER.probabilities(np.array([row]))[0], rel=1e-14)


@pytest.mark.parametrize(
    ("probability", "alert"),
    [
        (0.0, "normal"),
        (np.nextafter(0.05, 0), "normal"),
        (0.05, "review"),
        (np.nextafter(0.75, 0), "review"),
        (0.75, "block"),
        (1.0, "block"),
    ],
)
def test_an_alert_begins_at_its_threshold(probability: float, alert: str) -> None:
    assert ALERTS[SCORER.alerts(np.array([probability]))[0]] == alert


@given(st.floats(-1e6, 1e6))
def test_the_sigmoid_is_exact_in_both_tails(x: float) -> None:
    (p,), (q,) = sigmoid(np.array([x])), sigmoid(np.array([-x]))
    assert 0.0 <= p <= 1.0
    assert p + q == pytest.approx(1.0, abs=1e-15)
    if -700 < x < 0:  # log(p) is nearly x where 1 - p rounds to 1
        assert math.log(p) == pytest.approx(x - math.log1p(math.exp(x)), abs=1e-12)


def test_what_is_written_is_read_back() -> None:
    scorer = SCORER.rounded()
    assert Scorer.from_json(scorer.to_json()) == scorer


@given(st.lists(st.floats(-1e6, 1e6), min_size=31, max_size=31), st.floats(1e-6, 0.999))
def test_twelve_digits_survive_any_number_of_rounds(weights: list[float], rate: float) -> None:
    once = replace(SCORER, weights=tuple(weights), natural_rate=rate).rounded()
    assert once.rounded() == once
    assert Scorer.from_json(once.to_json()).to_json() == once.to_json()
    assert np.array(once.weights) == pytest.approx(weights, rel=1e-11)


def test_scorer_json_says_what_its_inputs_and_terms_are() -> None:
    document = json.loads(SCORER.to_json())
    assert document["inputs"] == list(INPUTS)
    assert document["terms"].keys() == set(TERMS)
    assert document["transforms"].keys() == {"hour_sin", "hour_cos", "log_amount"}
    assert document["thresholds"] == {"review": 0.05, "block": 0.75}


def _without(*path: str) -> Callable[[dict[str, Any]], object]:
    def change(document: dict[str, Any]) -> object:
        *parents, last = path
        for parent in parents:
            document = document[parent]
        return document.pop(last)

    return change


def _with(value: object, *path: str) -> Callable[[dict[str, Any]], object]:
    def change(document: dict[str, Any]) -> None:
        *parents, last = path
        for parent in parents:
            document = document[parent]
        document[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_with(2, "format"), "another format"),
        (_without("format"), "KeyError"),
        (_with(list(INPUTS[::-1]), "inputs"), "other inputs"),
        (_without("terms", "V7"), "KeyError"),
        (_with("much", "terms", "V7"), "could not convert"),
        (_with(None, "terms", "V7"), "TypeError"),
        (_with(10**400, "terms", "V7"), "OverflowError"),
        (_with(math.nan, "terms", "V7"), "not finite"),
        (_with(math.inf, "intercept"), "not finite"),
        (_with(math.nan, "typical", "V7"), "not finite"),
        (_with(0.0, "natural_rate"), "natural rate must lie between 0 and 1"),
        (_with(math.nan, "natural_rate"), "natural rate must lie between 0 and 1"),
        (_with(0.9, "thresholds", "review"), "0 < review < block < 1, got 0.9 and 0.75"),
        (_with(0.0, "thresholds", "review"), "0 < review"),
        (_with(1.0, "thresholds", "block"), "block < 1"),
        (_with(math.nan, "thresholds", "block"), "block < 1"),
        (_with(0.1, "thresholds", "more"), "TypeError"),
        (_with([], "thresholds"), "TypeError"),
    ],
)
def test_a_scorer_json_that_is_not_one_is_refused_with_the_reason(
    change: Callable[[dict[str, Any]], object], said: str
) -> None:
    document = json.loads(SCORER.to_json())
    change(document)
    with pytest.raises(BundleError, match=said):
        Scorer.from_json(json.dumps(document).encode())


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100])
def test_what_is_not_json_is_refused(content: bytes) -> None:
    with pytest.raises(BundleError, match="cannot be read"):
        Scorer.from_json(content)


@pytest.mark.parametrize("weights", [30, 32])
def test_a_scorer_has_as_many_weights_as_terms(weights: int) -> None:
    with pytest.raises(BundleError, match="31 weights and 30 typical values"):
        replace(SCORER, weights=(0.0,) * weights)
