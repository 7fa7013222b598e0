"""The leakage lint: an input that alone tells the classes apart is the label under another name."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import roc_auc_score

from fraudkit.errors import InvalidInput
from fraudkit.schema import INPUTS
from pipelines.data.leakage import refuse_leaks, separation

RANDOM = np.random.default_rng(0)
LEGITIMATE = np.abs(RANDOM.normal(size=(30, 2_000)))
FRAUD = np.abs(RANDOM.normal(size=(30, 100)))


def with_input(name: str, legitimate: np.ndarray, fraud: np.ndarray) -> dict[str, float]:
    """The separations where one input has other values."""
    sides = LEGITIMATE.copy(), FRAUD.copy()
    for side, values in zip(sides, (legitimate, fraud), strict=True):
        side[INPUTS.index(name)] = values
    return separation(*sides)


def test_inputs_that_say_little_pass() -> None:
    separations = separation(LEGITIMATE, FRAUD)
    assert tuple(separations) == INPUTS
    assert max(separations.values()) < 0.65
    refuse_leaks(separations, 0.995, (1_000, 1_000), "x.csv")


@pytest.mark.parametrize(
    ("name", "legitimate", "fraud"),
    [
        ("V13", np.arange(2_000), np.arange(2_000, 2_100)),
        ("V13", np.arange(100, 2_100), np.arange(100)),
        ("Time", np.arange(2_000), np.arange(2_000, 2_100)),
        ("Amount", np.zeros(2_000), np.ones(100)),
        ("V1", np.zeros(2_000), np.full(100, -1e-9)),
    ],
    ids=["a row number", "a row number backwards", "time sorted by label", "the label itself", "minus the label"],
)
def test_an_input_that_alone_separates_is_refused_by_name_and_auc(
    name: str, legitimate: np.ndarray, fraud: np.ndarray
) -> None:
    separations = with_input(name, legitimate, fraud)
    assert separations[name] == 1.0
    with pytest.raises(InvalidInput, match=rf"^x\.csv: {name} \(AUC 1\.0000\) alone separates fraud from legit"):
        refuse_leaks(separations, 0.995, (1_000, 1_000), "x.csv")


def test_an_input_that_is_wrong_on_some_rows_is_still_a_leak() -> None:
    numbers = np.arange(2_000.0)
    numbers[:5] = 3_000
    separations = with_input("V13", numbers, np.arange(2_000, 2_100))
    assert 0.995 < separations["V13"] < 1.0
    with pytest.raises(InvalidInput, match=r"V13 \(AUC 0\.99"):
        refuse_leaks(separations, 0.995, (1_000, 1_000), "x.csv")


def test_an_input_as_good_as_the_best_of_the_real_data_is_none() -> None:
    strong = with_input("V14", RANDOM.normal(size=2_000), RANDOM.normal(-2.6, 1, size=100))
    assert 0.94 < strong["V14"] < 0.99
    refuse_leaks(strong, 0.995, (1_000, 1_000), "x.csv")


def test_the_limit_itself_is_refused_and_what_is_below_it_is_not() -> None:
    refuse_leaks({"V1": 0.99499}, 0.995, (1_000, 1_000), "x.csv")
    with pytest.raises(InvalidInput, match="V1"):
        refuse_leaks({"V1": 0.995}, 0.995, (1_000, 1_000), "x.csv")


def test_all_leaks_are_named_at_once() -> None:
    with pytest.raises(InvalidInput, match=r"Time \(AUC 1\.0000\), V2 \(AUC 0\.9970\) alone separates"):
        refuse_leaks({"Time": 1.0, "V1": 0.6, "V2": 0.997}, 0.995, (1_000, 1_000), "x.csv")


def test_an_input_that_is_always_the_same_says_nothing() -> None:
    assert with_input("V1", np.zeros(2_000), np.zeros(100))["V1"] == 0.5


# Few different values, so that ties are common.
SIDES = arrays(float, st.tuples(st.just(30), st.integers(1, 20)), elements=st.integers(-3, 3).map(float))


@settings(max_examples=15, deadline=None)
@given(SIDES, SIDES)
def test_the_auc_is_that_of_scikit_learn_in_the_better_direction(
    legitimate: np.ndarray, fraud: np.ndarray
) -> None:
    labels = np.repeat([0, 1], [legitimate.shape[1], fraud.shape[1]])
    expected = [roc_auc_score(labels, np.append(*pair)) for pair in zip(legitimate, fraud, strict=True)]
    found = list(separation(legitimate, fraud).values())
    assert found == pytest.approx([max(auc, 1 - auc) for auc in expected], abs=1e-12)


def test_a_handful_of_frauds_that_separate_by_chance_is_no_leak() -> None:
    refuse_leaks({"V1": 1.0}, 0.995, (1_000, 9), "x.csv")
    with pytest.raises(InvalidInput, match="V1"):
        refuse_leaks({"V1": 1.0}, 0.995, (1_000, 10), "x.csv")
