from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    brier_score_loss,
    confusion_matrix,
    f1_score,
    log_loss,
    precision_score,
    recall_score,
    roc_auc_score,
)
from sklearn.metrics import precision_recall_curve as sklearn_precision_recall_curve

from fraudkit.errors import InvalidInput
from fraudkit.estimate import Estimate
from pipelines.evaluation import metrics, resampling

COSTS = {"cost_missed": 100.0, "cost_review": 5.0, "cost_block": 20.0}
FEW = {"replicates": 200}


def drawn(
    frauds: int, legit: int, seed: int, separation: float = 2.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels in random order, and the correlated probabilities of two models, the second one worse."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.repeat([1, 0], [frauds, legit])).astype(np.int8)
    z = rng.normal(size=y.size) + separation * y
    other = 0.8 * z + 0.6 * rng.normal(size=y.size)
    return y, 1 / (1 + np.exp(2 - z)), 1 / (1 + np.exp(2 - other))


def weights(y: np.ndarray, legit_weight: float) -> np.ndarray:
    return np.where(y == 1, 1.0, legit_weight)


def naive_interval(statistic, y: np.ndarray, replicates: int, seed: int) -> np.ndarray:
    """Percentile bootstrap of rows, resampled within each class."""
    rng = np.random.default_rng(seed)
    frauds, legit = np.flatnonzero(y == 1), np.flatnonzero(y == 0)
    values = [
        statistic(np.append(rng.choice(frauds, frauds.size), rng.choice(legit, legit.size)))
        for _ in range(replicates)
    ]
    return np.quantile(values, [0.025, 0.975], axis=0)


def bounds(estimate: Estimate) -> tuple[float, float]:
    return estimate.low, estimate.high


def area_of_roc(curve: metrics.RocCurve) -> float:
    return float(np.sum(np.diff(curve.fpr) * (np.array(curve.tpr)[1:] + curve.tpr[:-1]) / 2))


# Probabilities on a coarse grid, so that ties within and across the classes are common.
scored = st.lists(st.tuples(st.booleans(), st.integers(0, 12)), min_size=2, max_size=60).filter(
    lambda rows: len({fraud for fraud, _ in rows}) == 2
)


@settings(max_examples=150, deadline=None)
@given(rows=scored, legit_weight=st.sampled_from([0.25, 1.0, 7.5, 600.0]))
def test_points_equal_scikit_learn_ties_and_weights_included(rows, legit_weight: float) -> None:
    y = np.array([fraud for fraud, _ in rows], dtype=np.int8)
    p = np.array([(grid + 1) / 14 for _, grid in rows])
    w = weights(y, legit_weight)
    ours = metrics.natural(y, p, 0.3, 0.7, **COSTS, legit_weight=legit_weight, replicates=2)
    expected = {
        "auprc": average_precision_score(y, p, sample_weight=w),
        "roc_auc": roc_auc_score(y, p),
        "brier": brier_score_loss(y, p, sample_weight=w),
        "log_loss": log_loss(y, p, sample_weight=w),
        "precision": precision_score(y, p >= 0.3, sample_weight=w, zero_division=0),
        "recall": recall_score(y, p >= 0.3),
        "alert_rate": np.average(p >= 0.3, weights=w),
        "block_precision": precision_score(y, p >= 0.7, sample_weight=w, zero_division=0),
        "block_recall": recall_score(y, p >= 0.7),
        "block_rate": np.average(p >= 0.7, weights=w),
        "calibration": y.sum() / np.sum(p * w),
    }
    for name, value in expected.items():
        assert getattr(ours, name).value == pytest.approx(value, abs=1e-12), name
        assert getattr(ours, name).low <= getattr(ours, name).value <= getattr(ours, name).high, name
    assert metrics.average_precision(y, p, legit_weight) == pytest.approx(expected["auprc"], abs=1e-12)
    assert metrics.roc_auc(y, p) == pytest.approx(expected["roc_auc"], abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(rows=scored)
def test_the_balanced_table_equals_scikit_learn(rows) -> None:
    y = np.array([fraud for fraud, _ in rows], dtype=np.int8)
    p = np.array([grid / 12 for _, grid in rows])
    ours = metrics.balanced(y, p, replicates=2)
    assert ours.confusion_matrix == tuple(map(tuple, confusion_matrix(y, p >= 0.5)))
    assert ours.accuracy.value == pytest.approx(accuracy_score(y, p >= 0.5))
    assert ours.precision.value == pytest.approx(precision_score(y, p >= 0.5, zero_division=0))
    assert ours.recall.value == pytest.approx(recall_score(y, p >= 0.5))
    assert ours.f1.value == pytest.approx(f1_score(y, p >= 0.5))
    assert ours.roc_auc.value == pytest.approx(roc_auc_score(y, p))


def test_scores_that_are_all_equal_rank_nothing() -> None:
    y = np.array([1, 0, 0, 0], dtype=np.int8)
    p = np.full(4, 0.25)
    auprc, roc_auc = metrics.ranking_estimates(y, p, **FEW)
    assert auprc == Estimate(0.25, 0.25, 0.25)
    assert roc_auc == Estimate(0.5, 0.5, 0.5)


def test_perfect_scores_give_one() -> None:
    y = np.array([1, 1, 0, 0, 0], dtype=np.int8)
    auprc, roc_auc = metrics.ranking_estimates(y, y.astype(float), **FEW)
    assert auprc.value == roc_auc.value == 1.0


@pytest.mark.parametrize("legit_weight", [1.0, 4.0])
def test_intervals_agree_with_a_bootstrap_of_rows(monkeypatch, legit_weight: float) -> None:
    y, a, b = drawn(150, 900, seed=3)
    a, b = np.round(a, 2), np.round(b, 2)  # ties within and across the classes

    def statistics(rows: np.ndarray) -> tuple[float, float, float]:
        labels, w = y[rows], weights(y[rows], legit_weight)
        auprc = [average_precision_score(labels, score[rows], sample_weight=w) for score in (a, b)]
        return auprc[0], roc_auc_score(labels, a[rows]), auprc[1] - auprc[0]

    naive = naive_interval(statistics, y, 400, seed=1).T
    for most_cells in (10_000, 0):  # by counts of cells, and by the normal limit
        monkeypatch.setattr(resampling, "_MOST_CELLS", most_cells)
        ours = (*metrics.ranking_estimates(y, a, legit_weight), metrics.paired_auprc(y, a, b, legit_weight))
        for estimate, interval in zip(ours, naive, strict=True):
            # A 2.5 % quantile of 400 replicates has a standard error of some 5 % of the interval's width.
            assert bounds(estimate) == pytest.approx(interval, abs=0.15 * np.ptp(interval))


@pytest.mark.parametrize("metric", [resampling._auprc(3.0), resampling._ROC_AUC], ids=["auprc", "roc auc"])
def test_the_normal_limit_rests_on_the_derivatives_of_the_metric(metric) -> None:
    rng = np.random.default_rng(6)
    counts = rng.integers(1, 5, 8).astype(float), rng.integers(0, 9, 17).astype(float)
    for of_class, influence in enumerate(metric.influence(counts)):
        derivative = np.empty_like(influence)
        for cell in range(influence.size):
            sides = []
            for change in (1e-5, -1e-5):
                moved = [each.copy() for each in counts]
                moved[of_class][cell] += change
                sides.append(metric.value(tuple(moved)))
            derivative[cell] = (sides[0] - sides[1]) / 2e-5
        # Only deviations from the mean of the class enter the variance.
        share = counts[of_class] / counts[of_class].sum()
        assert influence - share @ influence == pytest.approx(derivative - share @ derivative, abs=1e-7)


def test_a_score_compared_with_itself_differs_by_exactly_nothing() -> None:
    y, a, _ = drawn(40, 4_000, seed=5)
    assert metrics.paired_auprc(y, a, a, 3.0) == Estimate(0.0, 0.0, 0.0)
    assert metrics.paired_log_loss(y, a, a, 3.0) == Estimate(0.0, 0.0, 0.0)


def test_a_score_compared_with_itself_differs_by_nothing_in_the_normal_limit(monkeypatch) -> None:
    monkeypatch.setattr(resampling, "_MOST_CELLS", 0)
    y, a, _ = drawn(40, 4_000, seed=5)
    assert metrics.paired_auprc(y, a, a, 3.0) == Estimate(0.0, 0.0, 0.0)


def test_paired_differences_are_positive_where_the_second_model_is_better() -> None:
    y, better, worse = drawn(200, 5_000, seed=8)
    gain = metrics.paired_auprc(y, worse, better)
    assert gain.low > 0
    assert gain.value == pytest.approx(average_precision_score(y, better) - average_precision_score(y, worse))
    flipped = metrics.paired_auprc(y, better, worse)
    assert flipped.value == pytest.approx(-gain.value)
    assert flipped.high < 0


def test_the_paired_log_loss_is_the_share_by_which_the_log_loss_falls() -> None:
    y, a, b = drawn(80, 2_000, seed=9)
    gain = metrics.paired_log_loss(y, a, np.clip(b * 0.9, 0, 1), legit_weight=5.0)
    w = weights(y, 5.0)
    before, after = log_loss(y, a, sample_weight=w), log_loss(y, b * 0.9, sample_weight=w)
    assert gain.value == pytest.approx((before - after) / before)
    # The root is far too high for so few frauds: surely worse.
    assert metrics.paired_log_loss(y, a, np.sqrt(a)).high < 0
    assert metrics.paired_log_loss(y, np.sqrt(a), a).low > 0


def test_the_paired_interval_is_narrower_than_the_models_intervals_apart() -> None:
    y, a, _ = drawn(100, 3_000, seed=10)
    nearly = a * np.random.default_rng(0).uniform(0.99, 1.0, a.size)
    paired = metrics.paired_auprc(y, a, nearly)
    single, _ = metrics.ranking_estimates(y, a)
    assert 0 < paired.high - paired.low < 0.3 * (single.high - single.low)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    y, a, b = drawn(20_000, 400_000, seed=100)
    truth = average_precision_score(y, a), roc_auc_score(y, a)
    difference = average_precision_score(y, b) - truth[0]
    held = np.zeros(3)
    for seed in range(120):
        y, a, b = drawn(100, 2_000, seed)
        auprc, roc_auc = metrics.ranking_estimates(y, a, **FEW)
        paired = metrics.paired_auprc(y, a, b, **FEW)
        for i, (estimate, value) in enumerate(zip((auprc, roc_auc, paired), (*truth, difference), strict=True)):
            held[i] += estimate.low <= value <= estimate.high
    assert np.all(held / 120 > 0.87)
    assert np.all(held / 120 < 1.0)


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    y, a, b = drawn(60, 900, seed=11)
    one, again, other = (metrics.paired_auprc(y, a, b, seed=seed, **FEW) for seed in (1, 1, 2))
    assert one == again
    assert bounds(one) != bounds(other)
    assert one.value == other.value


def test_the_order_of_the_rows_does_not_matter() -> None:
    y, a, b = drawn(60, 900, seed=12)
    other = np.random.default_rng(0).permutation(y.size)
    assert metrics.paired_auprc(y, a, b, **FEW) == metrics.paired_auprc(y[other], a[other], b[other], **FEW)


def test_memory_is_bounded_by_chunks_that_leave_the_interval_alone(monkeypatch) -> None:
    y, a, _ = drawn(60, 900, seed=13)
    whole = metrics.ranking_estimates(y, a)
    monkeypatch.setattr(resampling, "_CHUNK", 20_000)
    for estimate, other in zip(metrics.ranking_estimates(y, a), whole, strict=True):
        # Chunks draw in another order, so only the Monte Carlo error separates them.
        assert bounds(estimate) == pytest.approx(bounds(other), abs=0.15 * (other.high - other.low))


def test_many_frauds_and_rows_get_an_interval_too() -> None:
    y, a, b = drawn(12_000, 60_000, seed=14)
    auprc, roc_auc = metrics.ranking_estimates(y, a)
    assert auprc.value == pytest.approx(average_precision_score(y, a))
    assert auprc.low < auprc.value < auprc.high < auprc.low + 0.03
    assert roc_auc.low < roc_auc.value < roc_auc.high < roc_auc.low + 0.01
    assert metrics.paired_auprc(y, a, b).high < 0


def test_wilson_intervals_match_published_values() -> None:
    # Newcombe 1998, table I: 81 of 263, 15 of 148 and 0 of 20.
    y = np.repeat([1, 0], [263, 263]).astype(np.int8)
    p = np.where(np.arange(526) < 81, 0.9, 0.1)
    table = metrics.balanced(y, p, replicates=2)
    assert bounds(table.recall) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    y = np.repeat([1, 0], [20, 148]).astype(np.int8)
    p = np.where(np.arange(168) < 20 + 15, 0.9, 0.1)
    p[:20] = 0.1
    table = metrics.balanced(y, p, replicates=2)
    assert bounds(table.recall) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert table.precision.value == 0.0
    assert table.f1.value == 0.0
    assert table.f1.high > 0


def test_the_interval_of_f1_agrees_with_a_bootstrap_of_rows() -> None:
    y, a, _ = drawn(400, 400, seed=15)
    called = a >= 0.5

    def f1(rows: np.ndarray) -> float:
        return 2 * np.sum(y[rows] & called[rows]) / (y[rows].sum() + called[rows].sum())

    interval = naive_interval(f1, y, 1_000, seed=1)
    assert bounds(metrics.balanced(y, a, replicates=2).f1) == pytest.approx(interval, abs=0.25 * np.ptp(interval))


@pytest.mark.parametrize("legit_weight", [1.0, 6.0])
def test_intervals_at_the_natural_rate_agree_with_a_bootstrap_of_rows(legit_weight: float) -> None:
    y, p, _ = drawn(300, 1_500, seed=16)

    def statistics(rows: np.ndarray) -> list[float]:
        labels, q, w = y[rows], p[rows], weights(y[rows], legit_weight)
        costs = np.where(q >= 0.8, 20.0 * (labels == 0), np.where(q >= 0.4, 5.0, 100.0 * labels))
        likelihood = np.where(labels == 1, q, 1 - q)
        means = (q >= 0.4, (q - labels) ** 2, -np.log(likelihood), 1_000 * costs)
        alerted = q >= 0.4
        return [
            np.average(labels[alerted], weights=w[alerted]),
            *(np.average(mean, weights=w) for mean in means),
        ]

    found = metrics.natural(y, p, 0.4, 0.8, **COSTS, legit_weight=legit_weight, replicates=2)
    ours = (found.precision, found.alert_rate, found.brier, found.log_loss, found.cost_per_thousand)
    assert [estimate.value for estimate in ours] == pytest.approx(statistics(np.arange(y.size)))
    for estimate, interval in zip(ours, naive_interval(statistics, y, 1_000, seed=2).T, strict=True):
        assert bounds(estimate) == pytest.approx(interval, abs=0.15 * np.ptp(interval))


def test_weighting_legitimate_rows_equals_repeating_them() -> None:
    y, p, _ = drawn(50, 400, seed=17)
    repeated = np.repeat(np.arange(y.size), np.where(y == 1, 1, 4))
    options = {**COSTS, "ks": (20, 300, 5_000), "replicates": 2}
    weighted = metrics.natural(y, p, 0.3, 0.7, legit_weight=4.0, **options)
    whole = metrics.natural(y[repeated], p[repeated], 0.3, 0.7, **options)
    for name in ("auprc", "roc_auc", "precision", "recall", "alert_rate", "brier", "log_loss", "calibration"):
        assert getattr(weighted, name).value == pytest.approx(getattr(whole, name).value), name
    assert weighted.cost_per_thousand.value == pytest.approx(whole.cost_per_thousand.value)
    assert weighted.natural_rate == pytest.approx(whole.natural_rate)
    for k, estimate in weighted.precision_at_k.items():
        assert estimate.value == pytest.approx(whole.precision_at_k[k].value), k
    assert weighted.reliability.expected == pytest.approx(whole.reliability.expected)


def test_precision_at_k_counts_the_k_most_suspicious_rows() -> None:
    y = np.array([1, 0, 1, 1, 0, 0], dtype=np.int8)
    p = np.array([0.9, 0.8, 0.7, 0.7, 0.7, 0.1])
    found = metrics.natural(y, p, 0.5, 0.75, **COSTS, ks=(1, 2, 3, 5, 6, 100), replicates=2).precision_at_k
    values = {k: estimate.value for k, estimate in found.items()}
    # The third row is one of three that tie, two of them frauds; a k beyond the rows reads them all.
    assert values == pytest.approx({1: 1.0, 2: 0.5, 3: (1 + 2 / 3) / 3, 5: 0.6, 6: 0.5, 100: 0.5})


def test_precision_at_k_does_not_depend_on_how_few_rows_are_sorted() -> None:
    y, p, _ = drawn(50, 5_000, seed=18)
    for legit_weight in (0.5, 1.0, 3.0):
        few, all_rows = (
            metrics.natural(y, p, 0.3, 0.7, **COSTS, legit_weight=legit_weight, ks=ks, replicates=2)
            for ks in ((40,), (40, 1_000_000))
        )
        assert few.precision_at_k[40] == all_rows.precision_at_k[40]


def test_expected_cost_charges_misses_reviews_and_wrong_blocks() -> None:
    y = np.array([1, 1, 1, 0, 0, 0, 0], dtype=np.int8)
    p = np.array([0.1, 0.5, 0.9, 0.1, 0.5, 0.9, 0.2])
    found = metrics.natural(y, p, 0.3, 0.8, **COSTS, legit_weight=2.0, replicates=2).cost_per_thousand
    assert found.value == pytest.approx(1000 * (100 + 5 + 2 * (5 + 20)) / (3 + 2 * 4))
    assert found.low < found.value < found.high


def test_nothing_alerted_leaves_precision_unknown() -> None:
    y, p, _ = drawn(20, 200, seed=19)
    found = metrics.natural(y, p * 0.5, 0.6, 0.7, **COSTS, replicates=2)
    assert found.precision == found.block_precision == Estimate(0.0, 0.0, 1.0)
    assert found.recall.value == found.alert_rate.value == 0.0
    assert found.recall.high > 0.1
    # Every fraud is missed; none may have been so by luck of the draw, hence a lower bound below.
    assert found.cost_per_thousand.value == pytest.approx(1000 * 100 * 20 / 220)
    assert found.cost_per_thousand.low < found.cost_per_thousand.value


def test_certain_and_wrong_probabilities_keep_log_loss_finite() -> None:
    y = np.array([1, 0, 1, 0], dtype=np.int8)
    p = np.array([0.0, 1.0, 1.0, 0.0])
    found = metrics.natural(y, p, 0.4, 0.6, **COSTS, replicates=2)
    assert found.log_loss.value == pytest.approx(-np.log(1e-15) / 2, rel=1e-3)
    none = metrics.natural(y, np.zeros(4), 0.4, 0.6, **COSTS, replicates=2)
    assert math.isfinite(none.calibration.high)
    assert none.calibration.low > 1e10


def test_calibration_is_one_where_probabilities_are_true_and_half_where_they_are_doubled() -> None:
    rng = np.random.default_rng(20)
    p = rng.beta(0.3, 6.0, size=20_000) / 2
    y = (rng.random(p.size) < p).astype(np.int8)
    true, doubled = (metrics.natural(y, q, 0.3, 0.7, **COSTS, replicates=2).calibration for q in (p, 2 * p))
    assert true.low < 1 < true.high
    assert doubled.value == pytest.approx(true.value / 2)
    # With few rows of high probability, observed frauds vary like a Poisson count.
    assert math.log(true.high / true.value) == pytest.approx(1.96 / math.sqrt(y.sum()), rel=0.25)


def test_the_interval_of_calibration_agrees_with_a_bootstrap_of_all_rows() -> None:
    rng = np.random.default_rng(25)
    p = rng.beta(3.0, 3.0, size=1_500)
    y = (rng.random(p.size) < p).astype(np.int8)
    w = weights(y, 6.0)
    drawn_rows = rng.integers(y.size, size=(2_000, y.size))
    interval = np.quantile(y[drawn_rows].sum(axis=1) / (p * w)[drawn_rows].sum(axis=1), [0.025, 0.975])
    estimate = metrics.natural(y, p, 0.3, 0.7, **COSTS, legit_weight=6.0, replicates=2).calibration
    assert bounds(estimate) == pytest.approx(interval, abs=0.08 * np.ptp(interval))


def test_reliability_bins_hold_every_row_and_follow_the_truth() -> None:
    rng = np.random.default_rng(21)
    p = rng.beta(0.3, 2.0, size=30_000)
    y = (rng.random(p.size) < p).astype(np.int8)
    found = metrics.natural(y, p, 0.3, 0.7, **COSTS, replicates=2).reliability
    assert sum(found.rows) == y.size
    assert list(found.expected) == sorted(found.expected)
    assert sum(rows * o.value for rows, o in zip(found.rows, found.observed, strict=True)) == pytest.approx(
        y.sum()
    )
    held = [o.low <= e <= o.high for o, e in zip(found.observed, found.expected, strict=True)]
    assert sum(held) >= len(held) - 2


def test_metrics_go_through_json_unchanged_and_hold_no_numpy() -> None:
    y, p, _ = drawn(30, 300, seed=22)
    natural = metrics.natural(y, p, 0.3, 0.7, **COSTS, **FEW).to_json()
    table = metrics.balanced(y, p, **FEW).to_json()
    assert json.loads(json.dumps(natural, allow_nan=False))["precision_at_k"].keys() == {"100", "500"}
    assert json.loads(json.dumps(table, allow_nan=False))["roc_auc"].keys() == {"value", "low", "high"}

    def leaves(value: object) -> list[object]:
        if isinstance(value, dict):
            value = list(value.values())
        return [leaf for item in value for leaf in leaves(item)] if isinstance(value, list | tuple) else [value]

    # numpy's float64 is a float that prints otherwise, so types are compared exactly.
    assert {type(leaf) for leaf in leaves([natural, table])} == {int, float}


@pytest.mark.parametrize("rows", [(1, 1), (3, 5), (90, 2_000), (3_000, 3_000)])
def test_curves_are_finite_monotone_and_at_most_200_points(rows: tuple[int, int]) -> None:
    y, p, _ = drawn(*rows, seed=23)
    roc, pr = metrics.roc_curve(y, p), metrics.precision_recall_curve(y, p, 5.0)
    for curve in ((roc.fpr, roc.tpr, roc.thresholds), (pr.precision, pr.recall, pr.thresholds)):
        assert len({len(values) for values in curve}) == 1
        assert 1 <= len(curve[0]) <= 200
        assert np.isfinite(curve).all()
        assert {type(value) for values in curve for value in values} == {float}
    assert (roc.fpr[0], roc.tpr[0], roc.fpr[-1], roc.tpr[-1]) == (0.0, 0.0, 1.0, 1.0)
    assert np.all(np.diff([roc.fpr, roc.tpr], axis=1) >= 0)
    assert np.all(np.diff(roc.thresholds) <= 0)
    assert pr.recall[-1] == 1.0
    assert np.all(np.diff(pr.recall) > 0)
    assert np.all(np.diff(pr.thresholds) < 0)
    assert area_of_roc(roc) == pytest.approx(roc_auc_score(y, p), abs=0.002)


@settings(max_examples=50, deadline=None)
@given(rows=scored)
def test_every_point_of_a_curve_is_what_its_threshold_gives(rows) -> None:
    y = np.array([fraud for fraud, _ in rows], dtype=np.int8)
    p = np.array([grid / 12 for _, grid in rows])
    roc = metrics.roc_curve(y, p)
    for fpr, tpr, threshold in zip(roc.fpr, roc.tpr, roc.thresholds, strict=True):
        assert fpr == pytest.approx(np.mean(p[y == 0] >= threshold))
        assert tpr == pytest.approx(np.mean(p[y == 1] >= threshold))
    assert area_of_roc(roc) == pytest.approx(roc_auc_score(y, p))
    pr = metrics.precision_recall_curve(y, p)
    precision, recall, thresholds = sklearn_precision_recall_curve(y, p)
    known = {t: (q, r) for t, q, r in zip(thresholds, precision, recall, strict=False)}
    for point in zip(pr.precision, pr.recall, pr.thresholds, strict=True):
        assert point[:2] == pytest.approx(known[point[2]])
    steps = np.diff(pr.recall, prepend=0.0)
    assert np.sum(steps * pr.precision) == pytest.approx(average_precision_score(y, p))


@pytest.mark.parametrize(
    ("y", "p", "message"),
    [
        ([0, 0], [0.1, 0.2], r"fraud \(class 1\)"),
        ([1, 1], [0.1, 0.2], r"legitimate \(class 0\)"),
        ([], [], r"fraud \(class 1\)"),
        ([0, 2], [0.1, 0.2], "neither 0 nor 1"),
        ([0, 1], [0.1, math.nan], "finite"),
        ([0, 1], [0.1, math.inf], "finite"),
        ([0, 1], [0.1, 1.2], r"\[0, 1\]"),
        ([0, 1], [-0.1, 0.2], r"\[0, 1\]"),
        ([0, 1], [0.1], "one length"),
    ],
)
def test_rows_that_no_metric_can_be_computed_from_are_refused_by_name(y, p, message: str) -> None:
    labels, probability = np.array(y, dtype=np.int8), np.array(p, dtype=np.float64)
    with pytest.raises(InvalidInput, match=message):
        metrics.balanced(labels, probability)
    with pytest.raises(InvalidInput, match=message):
        metrics.natural(labels, probability, 0.3, 0.7, **COSTS)
    with pytest.raises(InvalidInput, match=message):
        metrics.paired_log_loss(labels, probability, probability)


def test_one_class_alone_is_refused_wherever_scores_are_ranked() -> None:
    y, p = np.zeros(3, dtype=np.int8), np.array([0.1, 0.2, 0.3])
    for call in (metrics.average_precision, metrics.roc_auc, metrics.roc_curve, metrics.precision_recall_curve):
        with pytest.raises(InvalidInput, match=r"none of the 3 rows is fraud \(class 1\)"):
            call(y, p)
    with pytest.raises(InvalidInput, match=r"none of the 3 rows is fraud \(class 1\)"):
        metrics.paired_auprc(y, p, p)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"legit_weight": 0.0}, "positive number"),
        ({"legit_weight": math.nan}, "positive number"),
        ({"ks": (0,)}, "k must be 1 or more"),
        ({"review": 0.8}, "must be below that of block"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict, message: str) -> None:
    y, p, _ = drawn(5, 50, seed=24)
    with pytest.raises(InvalidInput, match=message):
        metrics.natural(y, p, **{"review": 0.3, "block": 0.7, **COSTS, **options})
