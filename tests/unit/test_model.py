"""The fitted pipeline, its folding into the scorer, the intercept's correction, thresholds and reference."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import skops.io
from hypothesis import given
from hypothesis import strategies as st

from fraudkit.errors import PermanentError
from fraudkit.schema import DRIFT_FEATURES, hour_of_day
from fraudkit.scoring import TERMS, Scorer, Thresholds, sigmoid
from fraudkit.settings import AlertSettings
from pipelines.model import TRUSTED, Fitted, correction, fit, terms
from pipelines.reference import BINS, draw, drift_features, typical, write_reference
from pipelines.steps.train import thresholds

POPULATION = 200_000


@dataclass(frozen=True)
class World:
    """Transactions of which every fraud is drawn by a known probability."""

    rows: np.ndarray
    labels: np.ndarray

    @property
    def legitimate(self) -> np.ndarray:
        return self.rows[self.labels == 0]

    @property
    def fraud(self) -> np.ndarray:
        return self.rows[self.labels == 1]


@pytest.fixture(scope="module")
def world() -> World:
    random = np.random.default_rng(0)
    rows = random.normal(size=(POPULATION, 30))
    rows[:, 0] = random.uniform(0, 172_800, POPULATION)
    rows[:, 29] = random.exponential(50, POPULATION)
    logits = -6.0 + 1.5 * rows[:, 14] - rows[:, 4] + 0.3 * np.log1p(rows[:, 29])
    return World(rows, (random.random(POPULATION) < sigmoid(logits)).astype(int))


@pytest.fixture(scope="module")
def fitted(world: World) -> Fitted:
    """Fitted on all frauds and as many legitimate rows."""
    return fit(world.legitimate[: len(world.fraud)], world.fraud, 1.0, 100)


def scorer_of(fitted: Fitted, added: float = 0.0, rate: float = 0.01) -> Scorer:
    return Scorer(
        weights=tuple(fitted.weights.tolist()),
        intercept=fitted.intercept + added,
        natural_rate=rate,
        thresholds=Thresholds(0.05, 0.75),
        typical=(0.0,) * 30,
    )


def test_the_terms_are_the_cyclic_hour_the_components_and_the_log_amount() -> None:
    row = np.arange(1.0, 31.0)[np.newaxis]
    row[0, 0] = 86_400 + 6 * 3_600 + 1_800
    assert terms(row)[0, :2] == pytest.approx([1.0, 0.0], abs=1e-15)
    assert terms(row)[0, 2:30].tolist() == list(range(2, 30))
    assert terms(row)[0, 30] == math.log(31)
    assert terms(row).shape == (1, len(TERMS))


def test_the_pipeline_its_folding_and_the_written_scorer_agree_on_every_row(world: World, fitted: Fitted) -> None:
    pipeline = sigmoid(fitted.pipeline.decision_function(world.rows))
    scorer = Scorer.from_json(scorer_of(fitted).rounded().to_json())
    assert np.abs(pipeline - sigmoid(fitted.logits(world.rows))).max() < 1e-12
    assert np.abs(pipeline - scorer.probabilities(world.rows)).max() < 1e-9


def test_the_pipeline_that_is_saved_and_loaded_again_decides_alike(
    world: World, fitted: Fitted, tmp_path: Path
) -> None:
    skops.io.dump(fitted.pipeline, tmp_path / "model.skops")
    assert skops.io.get_untrusted_types(file=tmp_path / "model.skops") == list(TRUSTED)
    loaded = skops.io.load(tmp_path / "model.skops", trusted=list(TRUSTED))
    rows = world.rows[:1_000]
    assert np.array_equal(loaded.decision_function(rows), fitted.pipeline.decision_function(rows))


def test_scoring_with_the_pipeline_leaves_the_rows_as_they_are(world: World, fitted: Fitted) -> None:
    rows = world.rows[:100].copy()
    fitted.pipeline.decision_function(rows)
    assert np.array_equal(rows, world.rows[:100])


def test_the_same_rows_give_the_same_model_to_the_last_bit(world: World, fitted: Fitted) -> None:
    again = fit(world.legitimate[: len(world.fraud)], world.fraud, 1.0, 100)
    assert np.array_equal(again.weights, fitted.weights)
    assert again.intercept == fitted.intercept


def test_weights_per_deviation_are_weights_times_deviations(world: World, fitted: Fitted) -> None:
    rows = np.concatenate([world.legitimate[: len(world.fraud)], world.fraud])
    assert fitted.per_deviation == pytest.approx(fitted.weights * terms(rows).std(axis=0), rel=1e-9)


def test_an_input_that_is_always_the_same_gets_no_weight_and_no_error(world: World) -> None:
    legitimate, fraud = world.legitimate[:2_000].copy(), world.fraud[:500].copy()
    legitimate[:, 0] = fraud[:, 0] = 0.0
    legitimate[:, 7] = fraud[:, 7] = 3.0
    found = fit(legitimate, fraud, 1.0, 100)
    assert np.isfinite(found.weights).all()
    assert found.weights[TERMS.index("V7")] == 0.0


def test_not_converging_is_an_error_that_says_what_was_tried(world: World) -> None:
    with pytest.raises(PermanentError, match=r"did not converge in 1 iterations on 1,500 rows with C = 1"):
        fit(world.legitimate[:1_000], world.fraud[:500], 1.0, 1)


@pytest.mark.parametrize("ratio", [1, 3, 30])
def test_after_the_correction_the_mean_probability_is_the_natural_rate(world: World, ratio: int) -> None:
    frauds = world.fraud
    rate = len(frauds) / POPULATION
    used = len(frauds) * ratio, len(frauds)
    found = fit(world.legitimate[: used[0]], frauds, 1.0, 100)
    added = correction(used, (POPULATION - len(frauds), len(frauds)), rate)
    mean = scorer_of(found, added, rate).probabilities(world.rows).mean()
    assert mean == pytest.approx(rate, rel=0.1)
    if ratio == 1:
        assert scorer_of(found).probabilities(world.rows).mean() > 10 * rate  # as it was before


def test_after_the_correction_the_weights_are_those_the_frauds_were_drawn_by(world: World, fitted: Fitted) -> None:
    truth = np.zeros(len(TERMS))
    truth[[TERMS.index("V14"), TERMS.index("V4"), TERMS.index("log_amount")]] = 1.5, -1.0, 0.3
    assert np.abs(fitted.weights - truth).max() < 0.2
    frauds = len(world.fraud)
    added = correction((frauds, frauds), (POPULATION - frauds, frauds), frauds / POPULATION)
    assert fitted.intercept + added == pytest.approx(-6.0, abs=0.3)


SIZES = st.tuples(st.integers(1, 10**7), st.integers(1, 10**7))


@given(SIZES)
def test_a_model_of_all_rows_needs_no_correction(sizes: tuple[int, int]) -> None:
    assert correction(sizes, sizes, sizes[1] / sum(sizes)) == pytest.approx(0.0, abs=1e-8)


@given(SIZES, SIZES, st.floats(1e-6, 1 - 1e-6))
def test_after_the_correction_even_odds_in_the_sample_are_the_odds_of_the_rate(
    used: tuple[int, int], population: tuple[int, int], rate: float
) -> None:
    in_sample = math.log(used[1] / used[0])  # what a model without inputs would answer
    odds = in_sample + correction(used, population, rate)
    assert odds == pytest.approx(math.log(rate / (1 - rate)), abs=1e-6)


COSTS = st.tuples(st.floats(1, 1_000), st.floats(0.01, 100), st.floats(1, 1_000)).filter(
    lambda c: c[1] < min(c[0], c[2]) and c[1] / c[0] < 0.99 * (1 - c[1] / c[2])
)


@given(COSTS, st.floats(0, 1))
def test_by_costs_an_alert_is_the_action_with_the_least_expected_cost(
    costs: tuple[float, float, float], probability: float
) -> None:
    missed, review, block = costs
    alerts = AlertSettings(cost_missed=missed, cost_review=review, cost_block=block)
    cuts = thresholds(alerts, np.array([0.5]))
    chosen = "block" if probability >= cuts.block else "review" if probability >= cuts.review else "normal"
    expected = {"normal": probability * missed, "review": review, "block": (1 - probability) * block}
    assert expected[chosen] <= min(expected.values()) * (1 + 1e-9)


def test_the_default_costs_review_from_5_and_block_from_75_per_cent() -> None:
    assert thresholds(AlertSettings(), np.array([0.5])) == Thresholds(review=0.05, block=0.75)


@pytest.mark.parametrize("budget", [0.0005, 0.005, 0.1])
def test_by_budget_the_share_of_alerts_is_the_budget(budget: float) -> None:
    probabilities = np.random.default_rng(0).beta(0.05, 5, 100_000)
    cuts = thresholds(AlertSettings(policy="budget", budget=budget), probabilities)
    share = (probabilities >= cuts.review).mean()
    assert budget - 2e-5 <= share <= budget + 1e-9
    assert cuts.block == 0.75


def test_by_budget_rows_of_equal_score_do_not_break_the_thresholds() -> None:
    cuts = thresholds(AlertSettings(policy="budget", budget=0.01), np.full(1_000, 0.9))
    assert 0 < cuts.review < cuts.block < 1


@pytest.mark.parametrize(
    ("kept", "population", "most"),
    [
        ((9_983, 17), (9_983, 17), 200_000),
        ((9_983, 17), (9_983, 17), 1_000),
        ((5_000, 17), (9_983, 17), 200_000),
        ((9_983, 5), (9_983, 17), 200_000),
        ((3, 1), (3, 1), 1_000),
        ((300, 200), (300, 90_000), 1_000),
    ],
    ids=["all", "a part", "legitimate cut", "frauds cut", "tiny", "mostly fraud"],
)
def test_the_reference_is_at_the_rate_of_the_population(
    kept: tuple[int, int], population: tuple[int, int], most: int
) -> None:
    legitimate, fraud = np.zeros((kept[0], 30)), np.ones((kept[1], 30))
    rows = draw(legitimate, fraud, population, most)
    frauds = rows[:, 0].sum()
    assert 0 < len(rows) <= most
    assert frauds == pytest.approx(len(rows) * population[1] / sum(population), abs=0.5)
    if kept == population and most > sum(population):
        assert len(rows) == sum(population)


def test_the_reference_begins_with_the_rows_of_least_hash() -> None:
    legitimate = np.repeat(np.arange(100.0), 30).reshape(100, 30)
    rows = draw(legitimate, legitimate[:10] + 1_000, (1_000, 100), 50)
    assert rows[:, 0].tolist() == [*range(45), *range(1_000, 1_005)]


def test_a_typical_transaction_has_medians_and_the_mean_hour_on_the_clock() -> None:
    rows = np.tile(np.arange(30.0), (5, 1)) + np.arange(5.0)[:, np.newaxis]
    rows[:, 0] = [22 * 3600, 23 * 3600, 0, 3600, 7200]
    assert typical(rows) == (0.0, *(np.arange(1.0, 30.0) + 2))
    rows[:, 0] = [86_400 * i + 13 * 3_600 + 59 for i in range(5)]
    assert typical(rows)[0] == 13 * 3_600


@pytest.fixture(scope="module")
def reference(world: World, fitted: Fitted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "reference"
    write_reference(world.rows[:20_000], scorer_of(fitted), True, folder)
    return folder


def test_the_reference_holds_its_rows_sorted_by_hour(world: World, reference: Path) -> None:
    rows, hours = np.load(reference / "rows.npy"), np.load(reference / "hours.npy")
    order = np.argsort(hour_of_day(world.rows[:20_000, 0]), kind="stable")
    assert rows.dtype == np.float32
    assert np.array_equal(rows, drift_features(world.rows[:20_000])[order].astype(np.float32))
    assert np.array_equal(hours, np.sort(hour_of_day(world.rows[:20_000, 0])))


def test_the_histograms_count_every_row_once_per_feature_in_bins_of_equal_count(reference: Path) -> None:
    histograms, hours = np.load(reference / "histograms.npy"), np.load(reference / "hours.npy")
    assert histograms.shape == (24, len(DRIFT_FEATURES), BINS)
    by_hour = np.bincount(hours, minlength=24)
    assert (histograms.sum(axis=2) == by_hour[:, np.newaxis]).all()
    assert np.abs(histograms.sum(axis=0) - 20_000 / BINS).max() <= 1


def test_the_summary_says_what_the_rows_look_like(world: World, fitted: Fitted, reference: Path) -> None:
    summary = json.loads((reference / "summary.json").read_text())
    rows = world.rows[:20_000]
    assert summary["rows"] == 20_000
    assert summary["by_time"] is True
    assert summary["features"] == list(DRIFT_FEATURES)
    assert summary["means"] == pytest.approx(drift_features(rows).mean(axis=0), abs=1e-9)
    median = summary["quantiles"].index(0.5)
    assert summary["score"][median] == pytest.approx(np.median(scorer_of(fitted).probabilities(rows)), rel=1e-9)
    assert summary["score"] == sorted(summary["score"])
    assert summary["distance"][median] == pytest.approx(28.3, rel=0.1)  # χ² of 29 degrees


def test_the_same_rows_make_the_same_reference_to_the_byte(world: World, fitted: Fitted, tmp_path: Path) -> None:
    made = []
    for name in ("one", "two"):
        write_reference(world.rows[:5_000], scorer_of(fitted), False, tmp_path / name)
        made.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert made[0] == made[1]


def test_a_reference_of_rows_that_are_all_the_same_can_be_made(fitted: Fitted, tmp_path: Path) -> None:
    write_reference(np.ones((10, 30)), scorer_of(fitted), False, tmp_path / "reference")
    summary = json.loads((tmp_path / "reference" / "summary.json").read_text())
    assert set(summary["distance"]) == {0.0}
