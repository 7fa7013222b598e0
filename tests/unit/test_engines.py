"""Engines decide alike, on the reference rows of a window's own hours, and refuse what would silence them."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from detectors.engines import load_engine
from detectors.reference import COLUMNS, Matched, Reference, Values, window_values
from fraudkit.bundle import Bundle
from fraudkit.errors import BundleError, InvalidInput
from fraudkit.schema import DRIFT_FEATURES
from pipelines.reference import write_reference

WIDTH = len(COLUMNS)
ENGINES = ("alibi", "scipy")


def a_reference(rows: int = 24_000, seed: int = 0, *, by_time: bool = True, hours: int = 24) -> Reference:
    """Normal numbers whose mean goes round with the hour."""
    rng = np.random.default_rng(seed)
    of_day = np.sort(rng.integers(0, hours, rows))
    values = rng.standard_normal((rows, WIDTH)) + np.sin(of_day / 24 * 2 * np.pi)[:, np.newaxis]
    return Reference(values.astype(np.float32), of_day, by_time=by_time)


def a_window(rows: int, hours: tuple[int, ...], seed: int, shift: float = 0.0) -> tuple[Values, np.ndarray]:
    rng = np.random.default_rng([9, seed])
    of_day = np.sort(rng.choice(hours, rows))
    values = rng.standard_normal((rows, WIDTH)) + np.sin(of_day / 24 * 2 * np.pi)[:, np.newaxis]
    values[:, :3] += shift
    return values.astype(np.float32), of_day * 3_600.0


@pytest.fixture(scope="module")
def reference() -> Reference:
    return a_reference()


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("hours", [(3,), (3, 4), (22, 23, 0)])
@pytest.mark.parametrize("rows", [200, 1_000, 3_000])
def test_both_engines_say_the_same_of_a_window(
    reference: Reference, rows: int, hours: tuple[int, ...], shift: float
) -> None:
    for seed in range(3):
        values, times = a_window(rows, hours, seed, shift)
        matched, covered = reference.match(times)
        assert covered.all()
        alibi, ours = (load_engine(name, reference).test(values, matched) for name in ENGINES)
        np.testing.assert_allclose(alibi.distances, ours.distances, atol=1e-6)
        np.testing.assert_allclose(alibi.p_values, ours.p_values, rtol=1e-4, atol=1e-30)
        for threshold in (0.05, 0.02, 1e-5):
            assert ((alibi.p_values < threshold / 32) == (ours.p_values < threshold / 32)).all()


@given(
    st.lists(st.integers(-3, 3), min_size=1, max_size=40),
    st.lists(st.integers(-3, 3), min_size=24, max_size=80),
    st.integers(1, 4),
)
def test_the_distance_is_scipys_with_ties_too(window: list[int], rows: list[int], hours: int) -> None:
    of_day = np.arange(len(rows)) * hours // len(rows)
    values = np.tile(np.array(rows, dtype=np.float32)[:, np.newaxis], (1, WIDTH))
    reference = Reference(values, of_day, by_time=True)
    matched = Matched(np.maximum(reference.rows_by_hour // 2, reference.rows_by_hour > 0))
    chosen = reference.rows(matched)[:, 0]
    tested = load_engine("scipy", reference).test(np.tile(np.float32(window)[:, np.newaxis], (1, WIDTH)), matched)
    wanted = ks_2samp(chosen, np.float32(window), method="asymp")
    np.testing.assert_allclose(tested.distances, wanted.statistic, atol=1e-12)
    np.testing.assert_allclose(tested.p_values, wanted.pvalue, rtol=1e-9)


def test_a_window_is_held_against_its_own_hours_in_its_own_proportions(reference: Reference) -> None:
    times = np.repeat([3.0, 4.0], [900, 100]) * 3_600 + 59
    matched, covered = reference.match(times)
    assert covered.all()
    assert matched.counts[3] == reference.rows_by_hour[3]
    assert matched.counts[4] == pytest.approx(reference.rows_by_hour[3] / 9, abs=1)
    assert matched.rows == matched.counts[3] + matched.counts[4]
    assert (matched.counts <= reference.rows_by_hour).all()


@pytest.mark.parametrize("name", ENGINES)
def test_the_hour_alone_is_no_drift_and_would_be_one_unmatched(reference: Reference, name: str) -> None:
    values, times = a_window(1_000, (6,), 1)
    engine = load_engine(name, reference)  # type: ignore[arg-type]  # it is one of the names
    assert engine.test(values, reference.match(times)[0]).p_values.min() > 1e-4
    everything = Matched(reference.rows_by_hour)
    assert engine.test(values, everything).p_values.min() < 1e-20


def test_rows_of_an_hour_that_the_reference_lacks_are_not_tested_where_it_is_a_period() -> None:
    matched, covered = a_reference(hours=20).match(np.array([3, 3, 21]) * 3_600.0)
    assert covered.tolist() == [True, True, False]
    assert np.flatnonzero(matched.counts).tolist() == [3]
    matched, covered = a_reference(hours=20).match(np.array([21, 22]) * 3_600.0)
    assert not covered.any()
    assert matched.rows == 0


def test_they_are_tested_against_all_rows_where_it_was_drawn_without_regard_to_time() -> None:
    reference = a_reference(hours=20, by_time=False)
    matched, covered = reference.match(np.array([3, 3, 21]) * 3_600.0)
    assert covered.all()
    assert matched.rows == 24_000


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_refused_with_its_place(
    reference: Reference, name: str, number: float
) -> None:
    values, times = a_window(300, (3,), 0)
    values[17, 4] = number
    with pytest.raises(InvalidInput, match="row 17 of a window, V5: is not a finite number"):
        load_engine(name, reference).test(values, reference.match(times)[0])  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("shape", [(300, WIDTH + 1), (300, WIDTH - 1), (0, WIDTH), (300,)])
def test_a_window_of_another_shape_is_refused(reference: Reference, name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInput, match="a window"):
        load_engine(name, reference).test(  # type: ignore[arg-type]
            np.zeros(shape, dtype=np.float32), reference.match(np.zeros(1))[0]
        )


def test_the_score_of_a_reference_row_is_what_the_model_says_of_it(bundle: Bundle, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    rows = np.column_stack(
        [rng.uniform(0, 172_800, 2_000), rng.standard_normal((2_000, 28)), rng.exponential(80, 2_000)]
    )
    write_reference(rows, bundle.scorer, by_time=True, folder=tmp_path / "reference")
    reference = Reference.of(replace(bundle, path=tmp_path))
    values = window_values(rows, bundle.scorer.logits(rows))
    for hour, (first, last) in enumerate(pairwise(reference.starts)):
        kept, given = reference.values[first:last], values[rows[:, 0] // 3_600 % 24 == hour]
        kept, given = (part[np.argsort(part[:, 0])] for part in (kept, given))
        np.testing.assert_allclose(kept, given, rtol=1e-4, atol=1e-4)


def test_the_first_rows_of_an_hour_are_a_sample_of_it_whatever_the_order_they_came_in(
    bundle: Bundle, tmp_path: Path
) -> None:
    rows = np.zeros((20_000, 30))
    rows[:, 1] = np.arange(20_000)  # as if the last were the frauds
    write_reference(rows, bundle.scorer, by_time=True, folder=tmp_path / "reference")
    reference = Reference.of(replace(bundle, path=tmp_path))
    counts = np.zeros(24, dtype=np.int64)
    counts[0] = 2_000
    first = reference.rows(Matched(counts))[:, 0]
    assert first.mean() == pytest.approx(10_000, abs=500)
    again = Reference.of(replace(bundle, path=tmp_path))
    assert (again.values == reference.values).all()


@pytest.mark.parametrize("name", ENGINES)
def test_a_window_whose_hours_the_reference_lacks_is_refused(name: str) -> None:
    values, _ = a_window(300, (21,), 0)
    nothing = Matched(np.zeros(24, dtype=np.int64))
    with pytest.raises(InvalidInput, match="has no rows of the window's hours"):
        load_engine(name, a_reference(hours=20)).test(values, nothing)  # type: ignore[arg-type]


@pytest.mark.parametrize("change", [{"format": 2}, {"features": DRIFT_FEATURES[:-1]}])
def test_a_reference_of_another_format_is_refused(
    bundle: Bundle, tmp_path: Path, change: dict[str, object]
) -> None:
    rows = np.abs(np.random.default_rng(5).standard_normal((500, 30)))
    folder = tmp_path / "reference"
    write_reference(rows, bundle.scorer, by_time=True, folder=folder)
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(summary | change))
    with pytest.raises(BundleError, match="another format"):
        Reference.of(replace(bundle, path=tmp_path))


@pytest.mark.parametrize("of_a_window", [False, True])
def test_an_exported_detector_is_arrays_and_text_and_decides_as_before(of_a_window: bool, tmp_path: Path) -> None:
    from alibi_detect.saving import load_detector

    from detectors.engines.alibi import AlibiEngine, export

    hours = np.sort(np.arange(5_000) % 24)
    values = np.random.default_rng(0).normal(0, 1, (5_000, 30)).astype(np.float32)
    reference = Reference(values, hours, by_time=False)
    matched = reference.match(np.repeat([3.0, 4.0], 250) * 3_600)[0] if of_a_window else None
    export(reference, tmp_path / "detector", matched)
    assert sorted(path.name for path in (tmp_path / "detector").rglob("*")) == ["config.toml", "x_ref.npy"]
    np.load(tmp_path / "detector" / "x_ref.npy", allow_pickle=False)
    window = np.random.default_rng(1).normal(0.1, 1, (500, 30)).astype(np.float32)
    ours = AlibiEngine(reference).test(window, matched or Matched(reference.rows_by_hour))
    theirs = load_detector(tmp_path / "detector").predict(window, drift_type="feature")["data"]
    np.testing.assert_array_equal(theirs["p_val"].astype(np.float64), ours.p_values)
