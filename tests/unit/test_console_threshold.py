"""The threshold view without a browser: its numbers are those of the evaluation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraudkit.errors import InvalidInput
from fraudkit.scoring import Thresholds
from fraudkit.settings import AlertSettings
from pipelines.evaluation.metrics import natural
from serving.console.holdout import Holdout, Live, ScoreHistogram, logit, places, point
from serving.console.views.threshold import sight, wanted

COSTS = AlertSettings()
NOW = Thresholds(0.05, 0.75)


def holdout(seed: int = 0, weight: float = 1.0, now: Thresholds = NOW) -> Holdout:
    """2,000 legitimate rows and 50 frauds."""
    random = np.random.default_rng(seed)
    return Holdout(now, np.sort(random.beta(2, 1, 50)), np.sort(random.beta(0.2, 8, 2_000)), weight)


def live(rows: int, **counts: int) -> Live:
    edges = np.linspace(-15, 10, 51)
    seen = [counts.get(f"bin{i}", 0) for i in range(50)]
    return Live(rows, ScoreHistogram(edges=tuple(edges.tolist()), counts=tuple(seen)))


@settings(max_examples=25)
@given(
    seed=st.integers(0, 1_000),
    weight=st.floats(0.1, 50),
    review=st.floats(0.001, 0.6),
    more=st.floats(0.001, 0.39),
)
def test_the_numbers_are_those_of_the_evaluation(seed: int, weight: float, review: float, more: float) -> None:
    held, block = holdout(seed, weight), review + more
    labels = np.append(np.ones(held.frauds.size), np.zeros(held.legitimate.size)).astype(np.int8)
    probability = np.append(held.frauds, held.legitimate)
    told = natural(
        labels,
        probability,
        review,
        block,
        cost_missed=COSTS.cost_missed,
        cost_review=COSTS.cost_review,
        cost_block=COSTS.cost_block,
        legit_weight=weight,
        replicates=2,
    )
    first, second = (point(held, COSTS, threshold) for threshold in (review, block))
    for ours, theirs in (
        (first.precision, told.precision),
        (first.recall, told.recall),
        (second.precision, told.block_precision),
        (second.recall, told.block_recall),
    ):
        assert (ours.value, ours.low, ours.high) == pytest.approx((theirs.value, theirs.low, theirs.high))
    assert (first.rate, second.rate) == pytest.approx((told.alert_rate.value, told.block_rate.value))
    assert first.review + second.block == pytest.approx(told.cost_per_thousand.value)


def test_a_score_at_the_threshold_raises_an_alert() -> None:
    held = Holdout(NOW, np.array([0.05, 0.5]), np.array([0.01, 0.05]), 1.0)
    at = point(held, COSTS, 0.05)
    assert (at.recall.value, at.precision.value, at.rate) == (1.0, pytest.approx(2 / 3), 0.75)


def test_a_slider_stands_at_short_numbers_even_in_log_odds_and_at_what_holds_now() -> None:
    grid = places(0.0517, 0.75)
    assert {0.0517, 0.75} <= set(grid)
    assert grid == sorted(set(grid))
    odds = np.diff([logit(threshold) for threshold in grid])
    assert odds.min() > 0
    assert odds.max() < 0.2
    assert grid[0] < 0.0005
    assert grid[-1] > 0.998
    short = [threshold for threshold in grid if threshold != 0.0517]
    assert all(len(f"{min(one, round(1 - one, 6)):.12g}".replace("0.", "").lstrip("0")) <= 2 for one in short)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"review": "much"}, "are probabilities"),
        ({"review": "0.8"}, "review < block"),
        ({"block": "1"}, "review < block"),
        ({"review": "nan"}, "review < block"),
    ],
)
def test_thresholds_that_are_none_are_refused(given: dict[str, str], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        wanted(given, NOW)


def test_a_threshold_that_is_not_said_stays() -> None:
    assert wanted({}, NOW) == NOW
    assert wanted({"review": "0.1", "block": ""}, NOW) == Thresholds(0.1, 0.75)


def test_alerts_a_day_are_those_of_live_scores_and_not_of_the_holdout() -> None:
    seen = live(10_000, bin10=900, bin40=100)  # log odds from -10 to -9.5, and from 5 to 5.5
    assert seen.beyond(0.5) == pytest.approx(1_000)
    assert seen.beyond(1 / (1 + np.exp(-5.25))) == pytest.approx(500)
    assert seen.beyond(0.999) == 0


def test_what_is_shown_of_live_traffic_is_left_out_where_it_is_not_known() -> None:
    with_it, without = (sight(holdout(), NOW, COSTS, one) for one in (live(10_000, bin40=100), None))
    assert (with_it.live, with_it.now.review.daily) == (10_000, "10,000")
    assert (without.live, without.now.review.daily) == (None, "–")


def test_the_script_finds_at_each_place_what_the_page_says_there() -> None:
    seen = sight(holdout(), Thresholds(0.1, 0.9), COSTS, None)
    review, block = (seen.points[at] for at in seen.at)
    assert (review["value"], block["value"]) == ("0.1", "0.9")
    assert review["recall"] == seen.chosen.review.recall
    assert f"{float(review['review']) + float(block['block']):,.1f}" == seen.chosen.cost
    assert seen.now.cost != seen.chosen.cost
    assert f'transform="translate({review["x"]} 0)"' in seen.curves


def test_what_costs_least_costs_no_more_than_what_holds_now() -> None:
    held = holdout()
    seen = sight(held, NOW, COSTS, None)
    cheap = dict(pair.split("=") for pair in seen.cheapest.split("&"))
    least = sight(held, wanted(cheap, NOW), COSTS, None)
    assert float(least.chosen.cost) < float(least.now.cost)
